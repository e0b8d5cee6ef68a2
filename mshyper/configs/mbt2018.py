"""Mean-scale hyperprior of Minnen et al. 2018 (their model without context), N = M = 192.

At high rates y has M = 320 channels, which entries of `get_hyper()` with a large lambda set.
"""

from common import recipes

TITLE = "Mean-scale hyperprior"
PAPER = "Minnen, Ballé, Toderici 2018"


def get_config(recipe="yang2023"):
    config = recipes.build(recipe)
    config.model = dict(
        analysis=dict(cls="MBT2018Analysis"),
        synthesis=dict(cls="MBT2018Synthesis", channels=(192, 192, 192, 3)),
        hyper_analysis=dict(cls="HyperAnalysis", channels=(192, 192, 192),
                            activation="leaky_relu"),
        hyper_synthesis=dict(cls="HyperSynthesis", activation="leaky_relu"),
        predict_mean=True,
        use_offset=True,
    )
    config.update_from_flattened_dict(widths(192))
    if recipe == "yang2023":  # that paper's number for this model
        config.train.num_steps = 2_000_000
    return config


def widths(latents):
    """What depends on M, as overrides."""
    return {
        "model.analysis.channels": (192, 192, 192, latents),
        "model.hyper_synthesis.channels": (latents, 3 * latents // 2, 2 * latents),
    }


def get_hyper():
    return recipes.wider_at_high_rates(widths(192), widths(320))
