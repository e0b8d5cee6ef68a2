"""Joint autoregressive and hierarchical prior of Minnen et al. 2018, N = M = 192.

At high rates y has M = 320 channels, which entries of `get_hyper()` with a large lambda set.
"""

from common import recipes
from mshyper.configs import mbt2018

TITLE = "Joint autoregressive and hierarchical prior"
PAPER = "Minnen, Ballé, Toderici 2018"


def get_config(recipe="yang2023"):
    config = recipes.build(recipe)
    config.model = dict(
        analysis=dict(cls="MBT2018Analysis"),
        synthesis=dict(cls="MBT2018Synthesis", channels=(192, 192, 192, 3)),
        hyper_analysis=dict(cls="HyperAnalysis", channels=(192, 192, 192),
                            activation="leaky_relu"),
        hyper_synthesis=dict(cls="HyperSynthesis", activation="leaky_relu"),
        context=dict(cls="MaskedContext", kernel=5),
        entropy_parameters=dict(cls="EntropyParameters"),
        use_offset=True,
    )
    config.update_from_flattened_dict(_widths(192))
    return config


def _widths(latents):
    """All that depends on M, as overrides."""
    return {
        **mbt2018.widths(latents),
        "model.context.channels": 2 * latents,
        "model.entropy_parameters.channels": (
            10 * latents // 3, 8 * latents // 3, 2 * latents),
    }


def get_hyper():
    return recipes.wider_at_high_rates(_widths(192), _widths(320))
