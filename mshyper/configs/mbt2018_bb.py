"""Mean-scale hyperprior with a Gaussian posterior over z, for bits-back coding (Yang et al. 2020).

N = 192, and 256 for the two largest lambdas of `get_hyper()`.
"""

from common import recipes


def get_config(recipe="yang2020"):
    config = recipes.build(recipe)
    config.module = "bits_back"
    config.model = dict(
        analysis=dict(cls="MBT2018Analysis"),
        synthesis=dict(cls="MBT2018Synthesis"),
        hyper_analysis=dict(cls="HyperAnalysis"),
        hyper_synthesis=dict(cls="HyperSynthesis"),
    )
    config.update_from_flattened_dict(_widths(192))
    return config


def _widths(n):
    """All widths, by N, as overrides. The posterior of z has a mean and a scale."""
    return {
        "model.analysis.channels": (n, n, n, n),
        "model.synthesis.channels": (n, n, n, 3),
        "model.hyper_analysis.channels": (n, n, 2 * n),
        "model.hyper_synthesis.channels": (n, 3 * n // 2, 2 * n),
    }


def get_hyper():
    return recipes.wider_at_high_rates(_widths(192), _widths(256))
