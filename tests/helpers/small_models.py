"""Models of every class with few channels, and what is coded with them."""

import functools
import math

import numpy as np
import tensorflow as tf

import factorized.models
import hific.models
import joint_ar.models
import mshyper.models
from common import data, priors, range_coding

ANALYSIS = dict(cls="MBT2018Analysis", channels=(8, 8, 8, 12))
SYNTHESIS = dict(cls="MBT2018Synthesis", channels=(8, 8, 8, 3))
HYPER_ANALYSIS = dict(cls="HyperAnalysis", channels=(8, 8, 10))


def hyperprior(last, **more):
    """Arguments of the models that have one; its hyper-synthesis ends in `last` channels."""
    return dict(analysis=ANALYSIS, synthesis=SYNTHESIS, hyper_analysis=HYPER_ANALYSIS,
                hyper_synthesis=dict(cls="HyperSynthesis", channels=(8, 8, last)), **more)


ENTROPY_PARAMETERS = dict(cls="EntropyParameters", channels=(20, 16, 24))
CLASSES = {
    "factorized": factorized.models.FactorizedPrior,
    "mean_scale": mshyper.models.MeanScaleHyperprior,
    "scale_only": mshyper.models.MeanScaleHyperprior,
    "logistic": hific.models.HiFiC,
    "joint_ar": joint_ar.models.JointAutoregressive,
    "joint_gated": joint_ar.models.JointAutoregressive,
    "joint_add_psi": joint_ar.models.JointAutoregressive,
}
CONFIGS = {
    "factorized": dict(analysis=ANALYSIS, synthesis=SYNTHESIS),
    "mean_scale": hyperprior(24),
    "scale_only": hyperprior(12, predict_mean=False),
    "logistic": hyperprior(24, likelihood="logistic"),
    "joint_ar": hyperprior(24, context=dict(cls="MaskedContext", channels=24),
                           entropy_parameters=ENTROPY_PARAMETERS),
    "joint_gated": hyperprior(
        24, context=dict(cls="GatedContext", latents=12, width=8, blocks=1, channels=24),
        entropy_parameters=ENTROPY_PARAMETERS),
    "joint_add_psi": hyperprior(24, context=dict(cls="MaskedContext", channels=24),
                                entropy_parameters=dict(**ENTROPY_PARAMETERS, add_psi=True)),
}


def make(name, **options):
    """A model with tables, whose latents are neither all zero nor far from what it predicts.

    `options` are further arguments of it.
    """
    tf.keras.utils.set_random_seed(0)
    model, rng = CLASSES[name](**CONFIGS[name], **options), np.random.default_rng(0)
    model.initialize()
    for prior in model.priors:
        if isinstance(prior, tf.keras.layers.Layer):  # tables of scales have no weights
            for weight in prior.trainable_variables:
                weight.assign_add(rng.normal(0, 0.3, weight.shape))
    x = picture(data.find("photos/validation")[0].read(), 256, 320)
    standardize(model.analysis, lambda: model.infer(x)["y"], 3.0)
    if name != "factorized":
        standardize(model.hyper_analysis, lambda: model.infer(x)["z"], 3.0)
        joint = isinstance(model, joint_ar.models.JointAutoregressive)
        kernel, bias = kernel_and_bias(
            model.entropy_parameters if joint else model.hyper_synthesis)
        kernel.assign(kernel * 0.1 if np.any(kernel) else rng.normal(0, 0.03, kernel.shape))
        scales = rng.normal(math.log(3), 0.2, 12)
        if options.get("scale_output") == "scale":
            scales = np.exp(scales)
        elif options.get("scale_output") == "exp_index":
            scales = np.log(priors.ScaleTable().index(scales))
        bias.assign(np.concatenate([rng.normal(0, 1, bias.shape[0] - 12), scales]))
    model.prepare_coding()
    return model


def kernel_and_bias(transform):
    """The variables of its last layer."""
    return sorted(transform.layers[-1].trainable_weights, key=lambda weight: -weight.shape.rank)


def standardize(transform, output, deviation):
    """Gives every channel of the last layer's output mean 0 and this standard deviation."""
    kernel, bias = kernel_and_bias(transform)
    mean, variance = tf.nn.moments(output(), axes=(0, 1, 2))
    factor = deviation / tf.sqrt(variance)
    kernel.assign(kernel * factor)
    bias.assign((bias - mean) * factor)


@functools.cache
def shared(name):
    """A model for tests that leave its weights as they are."""
    return make(name)


def picture(photo, height, width):
    return data.to_float(photo[100:100 + height, 200:200 + width])[None]


def encode(model, latents):
    coder = range_coding.RangeEncoder(model.tables)
    model.encode(latents, coder)
    return coder.finish(), coder.crc
