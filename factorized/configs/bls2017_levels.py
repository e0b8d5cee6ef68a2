"""The factorised prior of bls2017.py for all rates (common/levels.py)."""

from common import recipes
from factorized.configs import bls2017


def get_config(recipe="yang2023"):
    config = bls2017.get_config(recipe)
    recipes.add_levels(config)
    return config


def get_hyper():
    return [{}]
