"""advDNIC, mod4: variant 1 with sub-pixel convolutions for the synthesis."""

from mshyper.configs import advdnic_variant1

TITLE = "advDNIC mod 4: sub-pixel synthesis"
PAPER = "advDNIC"

get_hyper = advdnic_variant1.get_hyper


def get_config(recipe="advdnic"):
    config = advdnic_variant1.get_config(recipe)
    config.model.synthesis.cls = "AdvDNICMod4Synthesis"
    return config
