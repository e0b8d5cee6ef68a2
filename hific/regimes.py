"""The two stages of HiFiC's training, for three rates (Mentzer et al. 2020, appendix A.6).

Stage 1 trains with MSE and LPIPS, stage 2 goes on from its model with a discriminator:

    python -m hific.train --config hific/configs/stage1_low.py
    python -m hific.train --config hific/configs/stage2_low.py \\
        --config.train.warm_start=experiments/hific-stage1_low
"""

from ml_collections import config_dict

from common import recipes

# Bits per pixel to train for, and the weight of the rate while it is above.
REGIMES = {"low": (0.14, 2.0), "med": (0.30, 1.0), "high": (0.45, 0.5)}

ADVERSARIAL = dict(
    weight=0.15,  # beta
    start=0,  # the step at which its loss begins for the codec
    channels=(64, 128, 256, 512),
    latent_channels=12,
    optimizer=dict(cls="Adam", learning_rate=1e-4),
)
# For CPUs. In a training of few steps a discriminator has to learn fast, and before the codec.
SMALL_ADVERSARIAL = {**ADVERSARIAL, "channels": (32, 64, 128, 128), "start": 700,
                     "optimizer": dict(cls="Adam", learning_rate=3e-4)}


def stage1(regime: str, recipe: str = "hific") -> config_dict.ConfigDict:
    """MSE and LPIPS; 1 M steps in the paper."""
    config = recipes.build(recipe)
    config.model = dict(
        analysis=dict(cls="HiFiCAnalysis", channels=(60, 120, 240, 480, 960, 220), norm="channel"),
        synthesis=dict(cls="HiFiCSynthesis", channels=(960, 480, 240, 120, 60, 3), blocks=9,
                       norm="channel"),
        hyper_analysis=dict(cls="HyperAnalysis", channels=(320, 320, 320), activation="relu"),
        hyper_synthesis=dict(cls="SeparateHyperSyntheses", channels=(320, 320, 220),
                             activation="relu"),
        likelihood="normal",
        use_offset=True,
    )
    config.train.rd_lambda = 0.075 * 2**-5  # k_M
    config.train.rd_lambda_warmup.factor = 1.0
    config.train.lpips_weight = 1.0  # k_P
    config.train.quantizer = dict(cls="Mixed", noisy=("z",))
    config.train.rate_target, above = REGIMES[regime]
    config.train.rate_control = dict(cls="TwoWeights", above=above, below=2**-4)
    return config


def stage2(regime: str, recipe: str = "hific") -> config_dict.ConfigDict:
    """The discriminator too; another 1 M steps, from a model of stage 1 (train.warm_start)."""
    config = stage1(regime, recipe)
    config.train.adversarial = ADVERSARIAL
    return config
