"""A small mean-scale hyperprior for CPUs, without the blocks of residual.py.

8.1 kMAC/pixel for analysis and for synthesis each, 0.7 for hyper-analysis, 1.5 for hyper-synthesis.
"""

from common import recipes, sweeps

TITLE = "Mean-scale hyperprior, small"
PAPER = "this zoo, for a few CPU cores"


def get_config(recipe="cpu"):
    config = recipes.build(recipe)
    config.model = dict(
        analysis=dict(cls="MBT2018Analysis", channels=(32, 64, 96, 128)),
        synthesis=dict(cls="MBT2018Synthesis", channels=(96, 64, 32, 3)),
        hyper_analysis=dict(cls="HyperAnalysis", channels=(96, 96, 96), activation="leaky_relu"),
        hyper_synthesis=dict(cls="HyperSynthesis", channels=(96, 128, 256),
                             activation="leaky_relu"),
        predict_mean=True,
        use_offset=True,
    )
    config.train.rd_lambda = 0.01
    config.train.export_dtype = "float16"  # as released models are
    return config


def get_hyper():
    return sweeps.over("train.rd_lambda", (0.0025, 0.01))
