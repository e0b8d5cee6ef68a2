"""mbt2018 with a deep context: gated residual blocks on shifted convolutions (PixelCNN++).

More of the neighbourhood costs time: the wavefront's slope is 6, that of the masked 5x5 is 3.
"""

from joint_ar.configs import mbt2018

TITLE = "Joint autoregressive and hierarchical prior, gated context"
PAPER = "Salimans, Karpathy, Chen, Kingma 2017 (PixelCNN++)"


def get_config(recipe="yang2023"):
    config = mbt2018.get_config(recipe)
    latents = config.model.analysis.channels[-1]
    config.model.context = dict(
        cls="GatedContext", latents=latents, width=96, blocks=2, channels=2 * latents)
    return config


def get_hyper():
    """The sweep of mbt2018, with the context's width to fit."""
    return [{**overrides, "model.context.latents": overrides["model.analysis.channels"][-1]}
            for overrides in mbt2018.get_hyper()]
