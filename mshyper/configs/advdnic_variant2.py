"""advDNIC, variant 2: variant 1 with means and scales, from a hyper-synthesis each."""

from mshyper.configs import advdnic_variant1

TITLE = "advDNIC variant 2: means and scales apart"
PAPER = "advDNIC; Minnen et al. 2018"

get_hyper = advdnic_variant1.get_hyper


def get_config(recipe="advdnic"):
    config = advdnic_variant1.get_config(recipe)
    config.model.hyper_analysis.activation = "leaky_relu"
    config.model.hyper_synthesis = dict(
        cls="SeparateHyperSyntheses", channels=(192, 192, 192), activation="leaky_relu")
    config.model.predict_mean = True
    return config
