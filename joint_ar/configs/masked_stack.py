"""mbt2018 with a deep context: a plain stack of masked convolutions (PixelCNN)."""

from joint_ar.configs import mbt2018

TITLE = "Joint autoregressive and hierarchical prior, stack of masked convolutions"
PAPER = "van den Oord et al. 2016 (PixelCNN)"


def get_config(recipe="yang2023"):
    config = mbt2018.get_config(recipe)
    config.model.context = dict(
        cls="MaskedStack", channels=_channels(config.model.context.channels), first_kernel=5,
        kernel=3, activation="elu")
    return config


def get_hyper():
    """The sweep of mbt2018, with the stack's last layer as wide."""
    return [{**overrides,
             "model.context.channels": _channels(overrides["model.context.channels"])}
            for overrides in mbt2018.get_hyper()]


def _channels(outputs):
    return (192, 192, outputs)
