"""Layers with trained weights, their integer networks, and gradients to pull back through them."""

import hashlib

import numpy as np
import tensorflow as tf

from common import integer_builder, integer_gradients
from common.transforms import contract, mbt2018

BITS = 4  # of the inputs
BOUND = 2.0**(BITS + 8)


def trained(layer, channels, seed=0):
    """The layer with weights that all matter."""
    layer(tf.zeros([1, 4, 4, channels]))
    rng = np.random.default_rng(seed)
    for weight in layer.weights:
        fan_in = max(1, np.prod(weight.shape[:2]) * channels / 4)
        values = rng.normal(0, 1 / np.sqrt(fan_in), weight.shape)
        weight.assign(np.abs(values) if "variance" in weight.name else values)
    return layer


def converted(layer, channels, **requantize):
    builder = integer_builder.Builder()
    y = contract.integers(layer, builder, builder.input(0, channels, BITS, BOUND))
    return builder.network(builder.requantize(y, **requantize) if requantize else y)


def integers(*shape, seed=0, spread=2.0**BITS):
    return np.round(np.random.default_rng(seed).normal(0, 2 * spread, shape))


def random_pull(shapes, seed=1):
    """`gradients_of` that returns numbers that are no integers, and records what it got."""
    rng = np.random.default_rng(seed)
    weights = [rng.normal(0, 1, shape) for shape in shapes]
    seen = []

    def gradients_of(outputs):
        seen.extend(outputs)
        return weights

    return gradients_of, weights, seen


def digest():
    """A hash of the gradient of a network that is wide enough for threads to share."""
    layer = trained(mbt2018.HyperSynthesis(channels=(48, 64, 96), activation="leaky_relu"), 48)
    network, x = converted(layer, 48), integers(1, 6, 8, 48)
    gradients_of, _, _ = random_pull([y.shape for y in network(x)])
    _, gradient = integer_gradients.pull_back(network, x, gradients_of)
    return hashlib.sha256(gradient.tobytes()).hexdigest()
