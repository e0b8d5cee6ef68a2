"""The small HiFiC, stage 1 (MSE and LPIPS), for all rates (common/levels.py).

At every level LPIPS has the same weight against the rate.
"""

from common import recipes
from hific.configs import small


def get_config(recipe="cpu"):
    config = small.get_config(recipe)
    config.train.rate_target = None
    recipes.add_levels(config)
    return config


def get_hyper():
    return [{}]
