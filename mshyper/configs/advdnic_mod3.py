"""advDNIC, mod3: variant 1 with a chain of MBConv blocks with swish and batch normalisation."""

from mshyper.configs import advdnic_variant1

get_hyper = advdnic_variant1.get_hyper


def get_config(recipe="advdnic"):
    config = advdnic_variant1.get_config(recipe)
    config.model.analysis = dict(cls="AdvDNICMod3Analysis", channels=192)
    config.model.synthesis = dict(cls="AdvDNICMod3Synthesis", channels=192)
    config.model.hyper_analysis = dict(
        cls="HyperAnalysis", channels=(192, 192, 320), activation="relu", last_bias=False)
    config.model.hyper_synthesis = dict(
        cls="HyperSynthesis", channels=(320, 192, 192), activation="relu")
    return config


def get_runname(config):
    return f"advdnic_mod3-rd_lambda={config.train.rd_lambda:g}"
