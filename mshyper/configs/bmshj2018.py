"""Scale hyperprior of Ballé et al. 2018, section 4: N = 128, M = 192.

At their higher rates N = 192 and M = 320, which entries of `get_hyper()` with a large lambda set.
"""

from common import recipes

TITLE = "Scale hyperprior"
PAPER = "Ballé, Minnen, Singh, Hwang, Johnston 2018"


def get_config(recipe="yang2023"):
    config = recipes.build(recipe)
    config.model = dict(
        analysis=dict(cls="MBT2018Analysis"),
        synthesis=dict(cls="MBT2018Synthesis"),
        hyper_analysis=dict(cls="HyperAnalysis", activation="relu"),
        hyper_synthesis=dict(cls="HyperSynthesis", activation="relu"),
        predict_mean=False,
        use_offset=True,
    )
    config.update_from_flattened_dict(_widths(128, 192))
    return config


def _widths(inner, latents):
    """All widths, by N and M, as overrides."""
    return {
        "model.analysis.channels": (inner, inner, inner, latents),
        "model.synthesis.channels": (inner, inner, inner, 3),
        "model.hyper_analysis.channels": (inner, inner, inner),
        "model.hyper_synthesis.channels": (inner, inner, latents),
    }


def get_hyper():
    return recipes.wider_at_high_rates(_widths(128, 192), _widths(192, 320))
