"""HiFiC, stage 2 (with a discriminator), for 0.45 bits per pixel; see hific/regimes.py."""

from hific import regimes


def get_config(recipe="hific"):
    return regimes.stage2("high", recipe)


def get_hyper():
    return [{}]
