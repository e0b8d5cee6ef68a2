"""Factorised prior of Ballé et al. 2017 with 256 channels (their higher rates)."""

from common import recipes, sweeps

TITLE = "Factorised prior"
PAPER = "Ballé, Laparra, Simoncelli 2017"


def get_config(recipe="yang2023"):
    config = recipes.build(recipe)
    config.model = dict(
        analysis=dict(cls="BLS2017Analysis", channels=(256, 256, 256)),
        synthesis=dict(cls="BLS2017Synthesis", channels=(256, 256, 3)),
        use_offset=True,
    )
    return config


def get_hyper():
    return sweeps.over("train.rd_lambda", recipes.LAMBDAS)
