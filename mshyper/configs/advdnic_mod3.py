"""advDNIC, mod3: mod2 with swish, batch normalisation before it, and sub-pixel up-sampling."""

from mshyper.configs import advdnic_mod2

TITLE = "advDNIC mod 3: MBConv blocks with swish"
PAPER = "advDNIC"

get_hyper = advdnic_mod2.get_hyper


def get_config(recipe="advdnic"):
    config = advdnic_mod2.get_config(recipe)
    config.model.analysis.cls = "AdvDNICMod3Analysis"
    config.model.synthesis.cls = "AdvDNICMod3Synthesis"
    return config
