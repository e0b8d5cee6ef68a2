"""JPEG-like decoder of Yang & Mandt 2023: ELIC's analysis, and basis images of 18 x 18 pixels."""

from common import recipes


def get_config(recipe="yang2023"):
    config = recipes.build(recipe)
    config.model = dict(
        analysis=dict(cls="ElicAnalysis", channels=(192, 192, 192, 320)),
        synthesis=dict(cls="JPEGLikeSynthesis", kernel=18, stride=16),
        hyper_analysis=dict(cls="HyperAnalysis", channels=(320, 320, 320), activation="relu"),
        hyper_synthesis=dict(cls="HyperSynthesis", channels=(320, 480, 640), activation="relu"),
        predict_mean=True,
        use_offset=True,
    )
    return config


def get_hyper():
    return [{"train.rd_lambda": value} for value in recipes.LAMBDAS]


def get_runname(config):
    return f"jpegl-rd_lambda={config.train.rd_lambda:g}"
