"""Two-layer decoder of Yang & Mandt 2023 without ELIC: four 5x5 layers, mixed quantisation."""

from common import recipes, sweeps

TITLE = "Two-layer decoder, analysis of four layers"
PAPER = "Yang, Mandt 2023"


def get_config(recipe="yang2023"):
    config = recipes.build(recipe)
    config.model = dict(
        analysis=dict(cls="CNNAnalysis", channels=(256, 256, 256, 320), activation="leaky_relu"),
        synthesis=dict(cls="TwoLayerSynthesis", channels=(12, 3)),
        hyper_analysis=dict(cls="HyperAnalysis", channels=(320, 320, 320), activation="relu"),
        hyper_synthesis=dict(cls="HyperSynthesis", channels=(320, 480, 640), activation="relu"),
        predict_mean=True,
        use_offset=False,
    )
    config.train.quantizer = dict(cls="Mixed")
    return config


def get_hyper():
    return sweeps.product(sweeps.over("model.synthesis.channels", ((24, 3), (48, 3))),
                         sweeps.over("train.rd_lambda", recipes.LAMBDAS[:4]))
