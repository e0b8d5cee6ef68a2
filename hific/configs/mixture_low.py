"""HiFiC, stage 1, for 0.14 bits per pixel, with mixtures of four Gaussians for each of 64 channels.

The widths are those of a port to PyTorch, which has them for training only; see hific/mixture.py.
"""

from hific import regimes

TITLE = "HiFiC, mixture of four Gaussians for each of 64 latents"
PAPER = "Mentzer, Toderici, Tschannen, Agustsson 2020; mixture of a port to PyTorch"


def get_config(recipe="hific"):
    config = regimes.stage1("low", recipe)
    config.module = "mixture"
    config.model.analysis.channels = (60, 120, 240, 480, 960, 64)
    config.model.hyper_synthesis = dict(
        cls="HiFiCMixtureHyperSynthesis", channels=(320, 320, 64), components=4, activation="relu")
    return config


def get_hyper():
    return [{}]
