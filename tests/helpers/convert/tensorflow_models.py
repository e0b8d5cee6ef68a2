"""Parts of models of code bases in TensorFlow, and what their tests do with them."""

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

from tests.helpers.convert.models import check_files, load

N, M = 6, 8


def randomised(*modules, seed=0):
    """Gives every weight of built layers some noise."""
    random = np.random.default_rng(seed)
    for module in modules:
        for weight in module.trainable_variables:
            weight.assign_add(0.05 * random.standard_normal(weight.shape).astype(np.float32))


def widen(analysis, layer):
    """Scales the last convolution, lest nearly all of y round to 0."""
    y = analysis(tf.random.stateless_uniform([1, 64, 64, 3], (0, 1), -0.5, 0.5))
    for weight in layer.trainable_variables:
        if "bias" not in weight.name:  # of kernels also the real and imaginary part
            weight.assign(4 * weight / tf.math.reduce_std(y))


def round_trip(folder, image):
    pixels = np.round(255 * image[0, :53, :75].numpy()).astype(np.uint8)
    check_files(load(folder, folder.parent / "exported"), pixels)


def signal(channels, kernel, down=1, up=1, activation=None, use_bias=True):
    return tfc.SignalConv2D(channels, (kernel, kernel), corr=up == 1, strides_down=down,
                            strides_up=up, padding="same_zeros", use_bias=use_bias,
                            activation=activation)


def mbt_analysis():
    return tf.keras.Sequential(
        [signal(N, 5, 2, activation=tfc.GDN()) for _ in range(3)] + [signal(M, 5, 2)])


def mbt_synthesis():
    return tf.keras.Sequential([
        signal(N, 5, up=2, activation=tfc.GDN(inverse=True)) for _ in range(3)]
        + [signal(3, 5, up=2)])


def bls_analysis():
    return tf.keras.Sequential([
        signal(N, 9, 4, activation=tfc.GDN()), signal(N, 5, 2, activation=tfc.GDN()),
        signal(N, 5, 2, use_bias=False)])


def bls_synthesis():
    return tf.keras.Sequential([
        signal(N, 5, up=2, activation=tfc.GDN(inverse=True)),
        signal(N, 5, up=2, activation=tfc.GDN(inverse=True)), signal(3, 9, up=4)])
