"""Two-layer decoder with a light hyper-synthesis: one linear layer, as JPEG-like as the synthesis.

Three quarters of what two_layer_syn takes to decode is its hyper-synthesis. This one takes an
eighth of that. Yang & Mandt 2023 define it and do not try it.
"""

from mshyper.configs import two_layer_syn

TITLE = "Two-layer residual decoder, linear hyper-synthesis"
PAPER = "Yang, Mandt 2023 (not in their results)"

get_hyper = two_layer_syn.get_hyper


def get_config(recipe="yang2023"):
    config = two_layer_syn.get_config(recipe)
    config.model.hyper_synthesis = dict(cls="JPEGLikeHyperSynthesis", channels=640, kernel=6)
    return config
