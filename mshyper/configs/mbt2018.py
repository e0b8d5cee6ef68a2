"""Mean-scale hyperprior of Minnen et al. 2018 (their model without context), N = M = 192.

M = 320 at high rates: set the last of `analysis.channels` to 320 and the last of
`hyper_synthesis.channels` to 640.
"""

from common import recipes, sweeps

TITLE = "Mean-scale hyperprior"
PAPER = "Minnen, Ballé, Toderici 2018"


def get_config(recipe="yang2023"):
    config = recipes.build(recipe)
    config.model = dict(
        analysis=dict(cls="MBT2018Analysis", channels=(192, 192, 192, 192)),
        synthesis=dict(cls="MBT2018Synthesis", channels=(192, 192, 192, 3)),
        hyper_analysis=dict(cls="HyperAnalysis", channels=(192, 192, 192),
                            activation="leaky_relu"),
        hyper_synthesis=dict(cls="HyperSynthesis", channels=(192, 288, 384),
                             activation="leaky_relu"),
        predict_mean=True,
        use_offset=True,
    )
    if recipe == "yang2023":  # that paper's number for this model
        config.train.num_steps = 2_000_000
    return config


def get_hyper():
    return sweeps.over("train.rd_lambda", recipes.LAMBDAS)
