"""Two-layer decoder with a residual of Yang & Mandt 2023, their best: ELIC's analysis."""

from common import recipes, sweeps

TITLE = "Two-layer residual decoder"
PAPER = "Yang, Mandt 2023; analysis of He et al. 2022 (ELIC)"


def get_config(recipe="yang2023"):
    config = recipes.build(recipe)
    config.model = dict(
        analysis=dict(cls="ElicAnalysis", channels=(192, 192, 192, 320)),
        synthesis=dict(cls="TwoLayerResSynthesis", channels=(12, 3)),
        hyper_analysis=dict(cls="HyperAnalysis", channels=(320, 320, 320), activation="relu"),
        hyper_synthesis=dict(cls="HyperSynthesis", channels=(320, 480, 640), activation="relu"),
        predict_mean=True,
        use_offset=True,
    )
    return config


def get_hyper():
    return sweeps.over("train.rd_lambda", recipes.LAMBDAS)
