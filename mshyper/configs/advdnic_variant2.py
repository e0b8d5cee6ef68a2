"""advDNIC, variant 2: base transforms, means and scales from a hyper-synthesis each, N = 192."""

from common import recipes


def get_config(recipe="advdnic"):
    config = recipes.build(recipe)
    config.model = dict(
        analysis=dict(cls="MBT2018Analysis", channels=(192, 192, 192, 192)),
        synthesis=dict(cls="MBT2018Synthesis", channels=(192, 192, 192, 3)),
        hyper_analysis=dict(cls="HyperAnalysis", channels=(192, 192, 192), activation="leaky_relu",
                            last_bias=False),
        hyper_synthesis=dict(cls="AdvDNICTwoHyperSyntheses", channels=(192, 192, 192)),
        predict_mean=True,
        use_offset=True,
    )
    return config


def get_hyper():
    return [{"train.rd_lambda": value} for value in recipes.LAMBDAS]


def get_runname(config):
    return f"advdnic_variant2-rd_lambda={config.train.rd_lambda:g}"
