"""HiFiC, stage 1 (MSE and LPIPS), for 0.14 bits per pixel; see hific/regimes.py."""

from hific import regimes

TITLE = "HiFiC, of three rates and in both stages"
PAPER = "Mentzer, Toderici, Tschannen, Agustsson 2020"


def get_config(recipe="hific"):
    return regimes.stage1("low", recipe)


def get_hyper():
    return [{}]
