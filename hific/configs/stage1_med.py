"""HiFiC, stage 1 (MSE and LPIPS), for 0.30 bits per pixel; see hific/regimes.py."""

from hific import regimes


def get_config(recipe="hific"):
    return regimes.stage1("med", recipe)


def get_hyper():
    return [{}]
