"""advDNIC, mod2: variant 1 with a chain of MBConv blocks with GDN."""

from mshyper.configs import advdnic_variant1

TITLE = "advDNIC mod 2: MBConv blocks with GDN"
PAPER = "advDNIC"

get_hyper = advdnic_variant1.get_hyper


def get_config(recipe="advdnic"):
    config = advdnic_variant1.get_config(recipe)
    config.model.analysis = dict(cls="AdvDNICMod2Analysis", channels=192)
    config.model.synthesis = dict(cls="AdvDNICMod2Synthesis", channels=192)
    config.model.hyper_analysis = dict(
        cls="HyperAnalysis", channels=(192, 192, 320), activation="relu", last_bias=False)
    config.model.hyper_synthesis = dict(
        cls="HyperSynthesis", channels=(320, 192, 192), activation="relu")
    return config
