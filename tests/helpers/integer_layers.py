"""Layers with weights that all matter, their integer networks, and how far both may differ."""

import numpy as np
import tensorflow as tf

from common import integer_builder
from common.transforms import contract

BITS = 12  # of the inputs, unless a test says otherwise
BOUND = 2.0**(BITS + 4)

# How far floats and integers may differ. Sums, relative to the largest number that goes in or
# comes out: each 16-bit weight is off by at most 2^-15 of the largest one, and the errors of some
# hundred terms add up like a random walk. Tables: slopes are at most 1, and arguments are off by
# half a step of 2^-10.
SUM_ERROR = 2.0**-13
TABLE_ERROR = 2.0**-11


def integers(*shape, seed=0, spread=2.0**(BITS + 1)):
    return np.round(np.random.default_rng(seed).normal(0, spread, shape))


def call(layer, *inputs):
    """A layer's float form; merging layers take a list."""
    return layer(inputs[0] if len(inputs) == 1 else list(inputs))


def trained(layer, *channels, spread=0.5):
    """The layer, built for inputs with these channels, with weights that all matter."""
    call(layer, *(tf.zeros([1, 4, 4, c]) for c in channels))
    rng = np.random.default_rng(0)
    for weight in layer.weights:
        positive = "variance" in weight.name
        weight.assign(rng.uniform(0.3, 3, weight.shape) if positive else
                      rng.normal(0, spread, weight.shape))
    return layer


class Recorder(integer_builder.Builder):
    """Remembers what is known of every operation's output, accumulators included."""

    def __init__(self):
        super().__init__()
        self.values = []

    def _append(self, *args):
        self.values.append(super()._append(*args))
        return self.values[-1]


def converted(layer, *channels, bits=BITS, bound=BOUND, builder=None):
    builder = builder or integer_builder.Builder()
    inputs = [builder.input(k, c, bits, bound) for k, c in enumerate(channels)]
    return builder.network(contract.integers(layer, builder, *inputs))


def assert_agree(network, layer, *inputs, bits=BITS, tables=0.0):
    """The network on integers is the layer on what they stand for."""
    [value], [y] = network.outputs, network(*inputs)
    expected = call(layer, *(tf.constant(x * 2.0**-bits, tf.float32) for x in inputs)).numpy()
    assert y.dtype == tf.float64 and y.shape == expected.shape and value.channels == y.shape[-1]
    np.testing.assert_array_equal(y, np.round(y))
    assert np.max(np.abs(expected)) > 0.1  # zeros would agree with anything small
    largest = max(np.max(np.abs(expected)), *(np.max(np.abs(x)) * 2.0**-bits for x in inputs))
    np.testing.assert_allclose(y * 2.0**-value.bits, expected, rtol=0,
                               atol=SUM_ERROR * largest + 2.0**-(value.bits + 1) + tables)
