"""mbt2018 tuned for MS-SSIM, as CompressAI's: from an MSE model, at a tenth of the learning rate.

As there, M = 320 at the higher four of eight rates. The model to start from has the same width.

    python -m mshyper.train --config mshyper/configs/mbt2018_ms_ssim.py --hid 1 \\
        --config.train.warm_start=experiments/mshyper-mbt2018/wid=...
"""

from common import recipes
from mshyper.configs import mbt2018


def get_config(recipe="compressai"):
    config = mbt2018.get_config(recipe)
    config.train.distortion = "ms_ssim"
    config.train.rd_lambda = 16.64
    config.train.optimizer.learning_rate = 1e-5
    return config


def get_hyper():
    return recipes.wider_at_high_rates(
        mbt2018.widths(192), mbt2018.widths(320), recipes.MS_SSIM_LAMBDAS, above=20)
