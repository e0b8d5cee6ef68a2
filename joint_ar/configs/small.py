"""A small joint autoregressive model for CPUs: that of mshyper/configs/small.py with a context."""

from ml_collections import config_dict

from mshyper.configs import small

TITLE = "Joint autoregressive and hierarchical prior, small"
PAPER = "this zoo, for a few CPU cores"


def get_config(recipe="cpu"):
    config = small.get_config(recipe)
    add_context(config)
    return config


def add_context(config: config_dict.ConfigDict) -> None:
    """Makes the mean-scale hyperprior of a config a joint prior."""
    latents = config.model.analysis.channels[-1]
    del config.model["predict_mean"]
    config.model.context = dict(cls="MaskedContext", channels=2 * latents, kernel=5)
    config.model.entropy_parameters = dict(
        cls="EntropyParameters", channels=(10 * latents // 3, 8 * latents // 3, 2 * latents))


get_hyper = small.get_hyper
