"""HiFiC's second stage with residual blocks, for all rates, for CPUs:

    python -m hific.train --config hific/configs/residual.py \\
        --config.train.warm_start=experiments/mshyper-residual

MSE, LPIPS and a discriminator (see hific/regimes.py) from the weights of a mean-scale hyperprior of
mshyper/configs/residual.py, which take the place of a first stage. At every level LPIPS has the
same weight against the rate, so that at high rates the MSE decides. The discriminator has the same
weight in the loss of every level, whose other terms are weighted so that levels count alike.
"""

from hific import regimes
from mshyper.configs import residual

TITLE = "HiFiC, residual blocks, for all rates"
PAPER = "this zoo, for CPUs; Mentzer et al. 2020"


def get_config(recipe="cpu"):
    config = residual.get_config(recipe)
    config.train.lpips_weight = 1.0
    config.train.adversarial = regimes.SMALL_ADVERSARIAL
    config.train.num_steps = 10_000
    config.train.schedule.decay_from = 0.5
    # At 3e-4 the codec undid within 40 steps what the discriminator had learned in 700.
    config.train.optimizer.learning_rate = 5e-5
    return config


get_hyper = residual.get_hyper
