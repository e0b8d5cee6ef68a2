"""advDNIC, variant 3: base transforms and a deep context, N = 192.

advDNIC's context is a PixelSNAIL whose attention sees the symbol it predicts; this is its causal
part, the gated residual blocks on shifted convolutions.
"""

from common import recipes, sweeps

TITLE = "advDNIC variant 3: gated context"
PAPER = "advDNIC; Salimans et al. 2017"


def get_config(recipe="advdnic"):
    config = recipes.build(recipe)
    config.model = dict(
        analysis=dict(cls="MBT2018Analysis", channels=(192, 192, 192, 192)),
        synthesis=dict(cls="MBT2018Synthesis", channels=(192, 192, 192, 3)),
        hyper_analysis=dict(cls="HyperAnalysis", channels=(192, 192, 192),
                            activation="leaky_relu_0.1", last_bias=False),
        hyper_synthesis=dict(cls="HyperSynthesis", channels=(192, 288, 384),
                             activation="leaky_relu_0.1"),
        context=dict(cls="GatedContext", latents=192, width=96, blocks=2, channels=384),
        entropy_parameters=dict(cls="EntropyParameters", channels=(768, 384, 384)),
        use_offset=True,
    )
    return config


def get_hyper():
    return sweeps.over("train.rd_lambda", recipes.LAMBDAS)
