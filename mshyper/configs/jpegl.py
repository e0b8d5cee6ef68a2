"""JPEG-like decoder of Yang & Mandt 2023: ELIC's analysis, and basis images of 18 x 18 pixels."""

from mshyper.configs import two_layer_syn

TITLE = "JPEG-like decoder"
PAPER = "Yang, Mandt 2023; analysis of He et al. 2022 (ELIC)"

get_hyper = two_layer_syn.get_hyper


def get_config(recipe="yang2023"):
    config = two_layer_syn.get_config(recipe)
    config.model.synthesis = dict(cls="JPEGLikeSynthesis", kernel=18, stride=16)
    return config
