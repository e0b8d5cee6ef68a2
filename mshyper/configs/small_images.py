"""Mean-scale hyperprior for images of 32 x 32 pixels, with the small hyper transforms.

With those of mbt2018, z has a stride of 64 and most of it would lie beyond the image.
"""

from common import recipes, sweeps

TITLE = "Mean-scale hyperprior for images of 32 x 32 pixels"
PAPER = "Yang, Mandt 2023"


def get_config(recipe="yang2023"):
    config = recipes.build(recipe)
    config.model = dict(
        analysis=dict(cls="MBT2018Analysis", channels=(192, 192, 192, 192)),
        synthesis=dict(cls="MBT2018Synthesis", channels=(192, 192, 192, 3)),
        hyper_analysis=dict(cls="HyperAnalysisSmall", channels=(192, 192)),
        hyper_synthesis=dict(cls="HyperSynthesisSmall", channels=(288, 384)),
        predict_mean=True,
        use_offset=True,
    )
    config.data.update(train="cifar10", validation="cifar10_test", patch_size=32, batch_size=128)
    return config


def get_hyper():
    return sweeps.over("train.rd_lambda", recipes.LAMBDAS)
