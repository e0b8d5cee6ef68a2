"""HiFiC, stage 2 (with a discriminator), for 0.14 bits per pixel; see hific/regimes.py."""

from hific import regimes


def get_config(recipe="hific"):
    return regimes.stage2("low", recipe)


def get_hyper():
    return [{}]
