"""The mean-scale hyperprior of mbt2018.py for all rates, with M = 320 (common/levels.py)."""

from common import recipes
from mshyper.configs import mbt2018

TITLE = "Mean-scale hyperprior for all rates, M = 320"
PAPER = "Minnen, Ballé, Toderici 2018"


def get_config(recipe="yang2023"):
    config = mbt2018.get_config(recipe)
    config.update_from_flattened_dict(mbt2018.widths(320))
    recipes.add_levels(config)
    return config


def get_hyper():
    return [{}]
