"""The model of small.py for all rates (common/levels.py)."""

from common import recipes
from mshyper.configs import small


def get_config(recipe="cpu"):
    config = small.get_config(recipe)
    recipes.add_levels(config)
    return config


def get_hyper():
    return [{}]
