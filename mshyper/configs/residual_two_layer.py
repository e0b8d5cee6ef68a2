"""Two-layer synthesis behind the analysis of residual.py, for all rates, for CPUs:

    python -m mshyper.train --config mshyper/configs/residual_two_layer.py \\
        --config.train.warm_start=mshyper

An expensive analysis makes up for a shallow synthesis (Yang & Mandt 2023), here behind the light
hyper-synthesis of two_layer_light.py. Analysis and hyper-analysis go on from those of a model of
residual.py; the others start fresh, beside the inverse cosine transform. All are trained.
"""

from mshyper.configs import residual

TITLE = "Two-layer residual decoder, residual blocks, for all rates"
PAPER = "this zoo, for CPUs; Yang, Mandt 2023"


def get_config(recipe="cpu"):
    config = residual.get_config(recipe)
    config.model.synthesis = dict(cls="TwoLayerResSynthesis", channels=(12, 3), dct=True)
    config.model.hyper_synthesis = dict(
        cls="JPEGLikeHyperSynthesis", channels=2 * config.model.analysis.channels[-1], kernel=6)
    config.train.num_steps = 20_000
    return config


get_hyper = residual.get_hyper
