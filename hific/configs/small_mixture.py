"""The architecture of small.py with mixtures of four Gaussians for y; see hific/mixture.py."""

from hific.configs import small

TITLE = "HiFiC, small, mixture of four Gaussians"
PAPER = "this zoo, for a few CPU cores"

get_hyper = small.get_hyper


def get_config(recipe="cpu"):
    config = small.get_config(recipe)
    config.module = "mixture"
    config.model.hyper_synthesis = dict(
        cls="HiFiCMixtureHyperSynthesis", channels=(64, 64, 96), components=4, activation="relu")
    return config
