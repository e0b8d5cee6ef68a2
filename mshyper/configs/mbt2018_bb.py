"""Mean-scale hyperprior with a Gaussian posterior over z, for bits-back coding (Yang et al. 2020).

N = 192; they take 256 for the two largest lambdas.
"""

from common import recipes, sweeps


def get_config(recipe="yang2020"):
    config = recipes.build(recipe)
    config.module = "bits_back"
    config.model = dict(
        analysis=dict(cls="MBT2018Analysis", channels=(192, 192, 192, 192)),
        synthesis=dict(cls="MBT2018Synthesis", channels=(192, 192, 192, 3)),
        hyper_analysis=dict(cls="HyperAnalysis", channels=(192, 192, 384)),
        hyper_synthesis=dict(cls="HyperSynthesis", channels=(192, 288, 384)),
    )
    return config


def get_hyper():
    return sweeps.over("train.rd_lambda", recipes.LAMBDAS)
