"""The architecture of small.py with a Gaussian posterior over z, for bits-back coding."""

from mshyper.configs import small


def get_config(recipe="cpu"):
    config = small.get_config(recipe)
    config.module = "bits_back"
    config.model = dict(
        analysis=config.model.analysis,
        synthesis=config.model.synthesis,
        hyper_analysis=dict(cls="HyperAnalysis", channels=(96, 96, 192), activation="leaky_relu"),
        hyper_synthesis=config.model.hyper_synthesis,
    )
    return config


def get_hyper():
    return small.get_hyper()
