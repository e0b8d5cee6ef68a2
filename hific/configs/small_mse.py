"""The small HiFiC trained for MSE alone, to compare with."""

from hific.configs import small

get_hyper = small.get_hyper


def get_config(recipe="cpu"):
    config = small.get_config(recipe)
    config.train.lpips_weight = 0.0
    return config
