"""advDNIC, variant 1: base transforms and a scale hyperprior (Ballé et al. 2018), N = 192."""

from common import recipes, sweeps

TITLE = "advDNIC variant 1: scale hyperprior"
PAPER = "advDNIC; Ballé et al. 2018"


def get_config(recipe="advdnic"):
    config = recipes.build(recipe)
    config.model = dict(
        analysis=dict(cls="MBT2018Analysis", channels=(192, 192, 192, 192)),
        synthesis=dict(cls="MBT2018Synthesis", channels=(192, 192, 192, 3)),
        hyper_analysis=dict(cls="HyperAnalysis", channels=(192, 192, 192), activation="relu",
                            last_bias=False),
        hyper_synthesis=dict(cls="HyperSynthesis", channels=(192, 192, 192), activation="relu"),
        predict_mean=False,
        use_offset=True,
    )
    return config


def get_hyper():
    return sweeps.over("train.rd_lambda", recipes.LAMBDAS)
