"""advDNIC, variant 3_old: variant 3 with a plain stack of masked convolutions (PixelCNN)."""

from joint_ar.configs import advdnic_variant3

TITLE = "advDNIC variant 3_old: masked convolutions"
PAPER = "advDNIC; van den Oord et al. 2016"

get_hyper = advdnic_variant3.get_hyper


def get_config(recipe="advdnic"):
    config = advdnic_variant3.get_config(recipe)
    config.model.context = dict(cls="MaskedStack", channels=(192, 192, 384))
    return config
