"""Scale hyperprior of Ballé et al. 2018, section 4: N = 128, M = 192 (their lower rates)."""

from common import recipes, sweeps

TITLE = "Scale hyperprior"
PAPER = "Ballé, Minnen, Singh, Hwang, Johnston 2018"


def get_config(recipe="yang2023"):
    config = recipes.build(recipe)
    config.model = dict(
        analysis=dict(cls="MBT2018Analysis", channels=(128, 128, 128, 192)),
        synthesis=dict(cls="MBT2018Synthesis", channels=(128, 128, 128, 3)),
        hyper_analysis=dict(cls="HyperAnalysis", channels=(128, 128, 128), activation="relu"),
        hyper_synthesis=dict(cls="HyperSynthesis", channels=(128, 128, 192), activation="relu"),
        predict_mean=False,
        use_offset=True,
    )
    return config


def get_hyper():
    return sweeps.over("train.rd_lambda", recipes.LAMBDAS)
