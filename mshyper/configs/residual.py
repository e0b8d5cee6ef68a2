"""Mean-scale hyperprior for all rates with residual transforms, for CPUs.

GDN after the strided layers, bottlenecks at a quarter and an eighth of the resolution (see
common/transforms/residual.py), and beside them a cosine transform (common/transforms/dct.py);
20 kMAC/pixel for analysis and for synthesis each, 9 for the hyper transforms.
"""

from common import recipes

TITLE = "Mean-scale hyperprior, residual blocks, for all rates"
PAPER = "this zoo, for CPUs"

_LATENTS = 320


def get_config(recipe="cpu"):
    config = recipes.build(recipe)
    config.model = dict(
        analysis=dict(cls="ResidualAnalysis", channels=(96, 160, 192, _LATENTS), blocks=(2, 3, 0),
                      activation="gdn", dct=True),
        synthesis=dict(cls="ResidualSynthesis", channels=(192, 160, 96, 3), blocks=(0, 3, 2),
                       activation="igdn", dct=True),
        hyper_analysis=dict(cls="HyperAnalysis", channels=(128, 128, 128),
                            activation="leaky_relu"),
        hyper_synthesis=dict(cls="HyperSynthesis", channels=(128, 288, 2 * _LATENTS),
                             activation="leaky_relu"),
        predict_mean=True,
        use_offset=True,
    )
    recipes.add_levels(config)
    config.model.levels.count = 64
    config.data.by_size = True
    # Rounded, channels of no use at a rate are silent; with noise they would spoil every image.
    config.train.quantizer = dict(cls="Mixed", noisy=("z",))
    config.train.update(num_steps=90_000, ema_decay=0.999,
                        export_dtype="float16")  # as released models are
    config.train.optimizer.learning_rate = 1.5e-3
    config.train.schedule.decay_from = 0.7
    return config


def get_hyper():
    return [{}]
