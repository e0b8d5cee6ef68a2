"""A small HiFiC for CPUs, stage 1 (MSE and LPIPS): 2.0 M parameters; see hific/regimes.py."""

from common import sweeps
from hific import regimes

TITLE = "HiFiC, small"
PAPER = "this zoo, for a few CPU cores"


def get_config(recipe="cpu"):
    config = regimes.stage1("med", recipe)
    config.model.analysis.channels = (8, 24, 64, 96, 128, 96)
    config.model.synthesis.update(channels=(128, 96, 64, 24, 8, 3), blocks=2)
    config.model.hyper_analysis.channels = (64, 64, 64)
    config.model.hyper_synthesis.channels = (64, 64, 96)
    # It lands closer to the target, which in a short training matters more.
    config.train.rate_control = dict(cls="ProportionalIntegral")
    return config


def get_hyper():
    return sweeps.over("train.rate_target", (0.14, 0.30, 0.45))
