"""Two-layer decoder with a light hyper-synthesis: one linear layer, as JPEG-like as the synthesis.

Three quarters of what two_layer_syn takes to decode is its hyper-synthesis. This one takes an
eighth of that. Yang & Mandt 2023 define it and do not try it.
"""

from common import recipes


def get_config(recipe="yang2023"):
    config = recipes.build(recipe)
    config.model = dict(
        analysis=dict(cls="ElicAnalysis", channels=(192, 192, 192, 320)),
        synthesis=dict(cls="TwoLayerResSynthesis", channels=(12, 3)),
        hyper_analysis=dict(cls="HyperAnalysis", channels=(320, 320, 320), activation="relu"),
        hyper_synthesis=dict(cls="JPEGLikeHyperSynthesis", channels=640, kernel=6),
        predict_mean=True,
        use_offset=True,
    )
    return config


def get_hyper():
    return [{"train.rd_lambda": value} for value in recipes.LAMBDAS]


def get_runname(config):
    return f"two_layer_light-rd_lambda={config.train.rd_lambda:g}"
