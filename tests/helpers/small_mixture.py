"""A HiFiC with mixtures and few channels."""

import functools
import math

import numpy as np
import tensorflow as tf

from common import data
from hific import mixture
from tests.helpers import small_models

CHANNELS, COMPONENTS = 12, 4
CONFIG = dict(
    analysis=small_models.ANALYSIS, synthesis=small_models.SYNTHESIS,
    hyper_analysis=small_models.HYPER_ANALYSIS,
    hyper_synthesis=dict(
        cls="HiFiCMixtureHyperSynthesis", channels=(8, 8, CHANNELS), components=COMPONENTS))


@functools.cache
def make(likelihood="normal", **options):
    """A model with tables, whose mixtures are no single Gaussians; tests leave it as it is."""
    tf.keras.utils.set_random_seed(0)
    model = mixture.HiFiCMixture(**CONFIG, likelihood=likelihood, **options)
    rng = np.random.default_rng(0)
    model.initialize()
    for weight in model.z_prior.trainable_variables:
        weight.assign_add(rng.normal(0, 0.3, weight.shape))
    x = picture(256, 320)
    small_models.standardize(model.analysis, lambda: model.infer(x)["y"], 3.0)
    small_models.standardize(model.hyper_analysis, lambda: model.infer(x)["z"], 3.0)
    z = model.infer(x)["z"]
    small_models.standardize(model.hyper_synthesis, lambda: model.hyper_synthesis(z), 0.3)
    _, bias = small_models.kernel_and_bias(model.hyper_synthesis)
    bias.assign(np.concatenate([
        rng.normal(mean, deviation, COMPONENTS * CHANNELS)
        for mean, deviation in ((0, 1), (0, 2), (math.log(2), 0.3))]))
    model.prepare_coding()
    return model


@functools.cache
def photograph():
    return data.find("photos/validation")[0].read()


def picture(height, width):
    return small_models.picture(photograph(), height, width)
