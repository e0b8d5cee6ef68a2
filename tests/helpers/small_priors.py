"""A density, and a table of scales."""

import math

import numpy as np

from common import priors

TABLE = priors.ScaleTable()
SCALES = np.exp(np.linspace(math.log(0.11), math.log(256.0), 64))


def density(channels=5, seed=0):
    """A learned prior whose weights are anything; its grid is centred."""
    prior, rng = priors.DeepFactorized(channels), np.random.default_rng(seed)
    for weight in prior.trainable_variables:
        weight.assign_add(rng.normal(0, 0.8, weight.shape))
    prior.update_offset()
    return prior
