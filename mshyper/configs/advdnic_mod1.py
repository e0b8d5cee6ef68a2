"""advDNIC, mod1: variant 1 with an MBConv block after each GDN."""

from mshyper.configs import advdnic_variant1

TITLE = "advDNIC mod 1: an MBConv block after each GDN"
PAPER = "advDNIC"

get_hyper = advdnic_variant1.get_hyper


def get_config(recipe="advdnic"):
    config = advdnic_variant1.get_config(recipe)
    config.model.analysis.cls = "AdvDNICMod1Analysis"
    config.model.synthesis.cls = "AdvDNICMod1Synthesis"
    return config
