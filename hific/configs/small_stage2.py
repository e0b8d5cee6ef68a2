"""A small HiFiC for CPUs, stage 2 (with a discriminator), from a model of small.py:

    python -m hific.train --config hific/configs/small_stage2.py \\
        --config.train.warm_start=experiments/hific-small
"""

from hific import regimes
from hific.configs import small

get_hyper = small.get_hyper


def get_config(recipe="cpu"):
    config = small.get_config(recipe)
    config.train.adversarial = regimes.SMALL_ADVERSARIAL
    return config
