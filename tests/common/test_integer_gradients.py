"""Gradients of integer networks: those of the float layers, the same bits always."""

import itertools
import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf

from common import integer_builder, integer_gradients, integer_ops
from common.errors import ConversionError, UserError
from common.transforms import contract, mbt2018
from common.transforms.composites import Residual
from common.transforms.layers import DepthToSpace, conv, deconv
from tests.helpers.integer_gradients import (
    BITS,
    BOUND,
    converted,
    digest,
    integers,
    random_pull,
    trained,
)


def hyper_synthesis(activation="leaky_relu"):
    """A hyper-synthesis of few channels; and its network with two outputs, as models have it."""
    layer = trained(mbt2018.HyperSynthesis(channels=(6, 8, 10), activation=activation), 5)
    builder = integer_builder.Builder()
    psi = contract.integers(layer, builder, builder.input(0, 5, BITS, BOUND))
    mean = builder.requantize(builder.slice(psi, 0, 5), 12)
    scale = builder.affine("scales", builder.slice(psi, 5, 10), 8.0, 20.0, bits=6)
    return layer, builder.network(mean, scale)


def float_gradient(function, x, weights, bits):
    """Of sum(weights * outputs in units of 2^-bits), by an integer of `x`."""
    values = tf.constant(x * 2.0**-BITS, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(values)
        total = tf.add_n([tf.reduce_sum(output * tf.constant(weight * 2.0**b, tf.float32))
                          for output, weight, b in zip(function(values), weights, bits)])
    return tape.gradient(total, values).numpy() * 2.0**-BITS


def assert_close(found, expected, tolerance=1e-3):
    assert found.dtype == np.float64 and found.shape == expected.shape
    assert np.std(expected) > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.max(np.abs(expected)))


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 1, 5), (1, 1, 6, 5)], ids=str)
@pytest.mark.parametrize("activation", ["leaky_relu", "relu"])
def test_gradient_of_a_hyper_synthesis_is_that_of_its_layers(activation, shape):
    layer, network = hyper_synthesis(activation)
    x = integers(*shape)
    outputs = [y.numpy() for y in network(x)]
    gradients_of, weights, seen = random_pull([y.shape for y in outputs])
    found, gradient = integer_gradients.pull_back(network, x, gradients_of)
    for results in (found, seen):
        assert len(results) == 2
        for result, output in zip(results, outputs):
            assert result.dtype == np.float64
            np.testing.assert_array_equal(result, output)

    def floats(values):
        mean, scale = tf.split(layer(values), 2, axis=-1)
        return mean, 8 * scale + 20

    expected = float_gradient(floats, x, weights, [value.bits for value in network.outputs])
    assert_close(gradient, expected)


@pytest.mark.parametrize("make, channels", [
    (lambda: conv(3, 3), 4),
    (lambda: conv(3, 5, activation="leaky_relu"), 4),
    (lambda: deconv(3, 5, stride=2), 4),
    (lambda: deconv(3, 3, activation="relu"), 4),
    (lambda: deconv(2, 2, stride=2), 4),
    (lambda: tf.keras.layers.Conv2D(3, (1, 3), padding="same"), 4),
    (lambda: DepthToSpace(2), 8),
    (lambda: tf.keras.layers.LeakyReLU(0.1), 4),
    (lambda: tf.keras.layers.BatchNormalization(), 4),
], ids=["conv", "leaky", "deconv", "relu", "phases", "row", "depth-to-space", "slope", "affine"])
def test_gradients_of_layers(make, channels):
    layer = trained(make(), channels)
    network = converted(layer, channels)
    for height, width in [(1, 1), (5, 8), (6, 3)]:
        x = integers(2, height, width, channels)
        x[x == 0] = 1  # a corner of the activations
        gradients_of, weights, _ = random_pull([y.shape for y in network(x)])
        _, gradient = integer_gradients.pull_back(network, x, gradients_of)
        expected = float_gradient(
            lambda values: [layer(values)], x, weights, [value.bits for value in network.outputs])
        assert_close(gradient, expected)


def test_gradients_of_branches_add_up():
    # One value is used three times, and two of the network's outputs are the same.
    builder = integer_builder.Builder()
    x = builder.input(0, 4, BITS, BOUND)
    first = builder.affine("a", x, 2.0, 1.0, bits=BITS)
    second = builder.affine("b", x, [1.0, 3.0, 5.0, 0.5], 0.0, bits=BITS)
    network = builder.network(first, second, builder.slice(x, 1, 3), first)
    given = integers(1, 2, 3, 4)
    gradients_of, weights, _ = random_pull([(1, 2, 3, 4)] * 2 + [(1, 2, 3, 2), (1, 2, 3, 4)])
    _, gradient = integer_gradients.pull_back(network, given, gradients_of)
    expected = 2 * (weights[0] + weights[3]) + weights[1] * [1.0, 3.0, 5.0, 0.5]
    expected[..., 1:3] += weights[2]
    np.testing.assert_allclose(gradient, expected, rtol=1e-12)


def test_an_output_without_influence_has_no_gradient():
    _, network = hyper_synthesis()
    x = integers(1, 2, 2, 5)
    _, gradient = integer_gradients.pull_back(
        network, x, lambda outputs: [np.zeros(y.shape) for y in outputs])
    np.testing.assert_array_equal(gradient, np.zeros(x.shape))


def test_clipping_blocks_gradients():
    builder = integer_builder.Builder()
    x = builder.input(0, 1, bits=0, bound=4.0)
    network = builder.network(builder.affine("x3", x, 3.0, 0.0, bits=0, low=-6, high=8))
    values = np.array([-9.0, -4, -3, -2, -1, 0, 1, 2, 3, 4, 9])
    [y], gradient = integer_gradients.pull_back(
        network, values[None, None, :, None], lambda outputs: [np.ones(outputs[0].shape)])
    np.testing.assert_array_equal(y.ravel(), [-6, -6, -6, -6, -3, 0, 3, 6, 8, 8, 8])
    # A wall stands where the value is: clipped ones and those at the bound have none.
    np.testing.assert_array_equal(gradient.ravel(), [0, 0, 0, 0, 3, 3, 3, 3, 0, 0, 0])


def test_rounding_counts_as_the_identity():
    builder = integer_builder.Builder()
    x = builder.input(0, 1, bits=8, bound=2.0**12)
    network = builder.network(builder.requantize(x, 2))  # x / 64, to whole numbers
    values = np.arange(-100.0, 100)[None, None, :, None]
    [y], gradient = integer_gradients.pull_back(
        network, values, lambda outputs: [np.full(outputs[0].shape, 5.0)])
    np.testing.assert_array_equal(y, np.round(values / 64))
    np.testing.assert_array_equal(gradient, np.full(values.shape, 5 / 64))


# --- Refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make, message", [
    (lambda: conv(3, 3, stride=2), "stride"),
    (lambda: conv(3, 3, activation="sigmoid"), "Lookup has no gradient in integers; these .*Conv"),
    (lambda: tf.keras.layers.DepthwiseConv2D(3, padding="same"), "channelwise"),
    (lambda: Residual([conv(4, 3)]), "Add has no gradient in integers"),
])
def test_operations_without_a_gradient_in_integers(make, message):
    network = converted(trained(make(), 4), 4)
    x = integers(1, 4, 4, 4)
    network(x)  # forwards it works
    with pytest.raises(ConversionError, match=message) as refused:
        integer_gradients.pull_back(network, x, lambda outputs: [np.ones(outputs[0].shape)])
    assert isinstance(refused.value, UserError)


# --- The same bits ------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 4, 24])
def test_rounded_to_integers_of_so_many_bits(bits):
    for x in (np.random.default_rng(0).normal(0, 1e-9, 1000), np.array([3.0, -1.0, 0.26]),
              np.array([-1.0]), np.array([1.0, 2.0**-30])):
        y = integer_gradients.rounded(x, bits)
        _, exponent = np.frexp(np.max(np.abs(x)))
        unit = 2.0**(int(exponent) - bits)
        np.testing.assert_array_equal(y / unit, np.round(y / unit))
        assert np.max(np.abs(y / unit)) <= 2**bits
        assert np.max(np.abs(y - x)) <= unit / 2
        np.testing.assert_array_equal(integer_gradients.rounded(y, bits), y)
    for zeros in (np.zeros([2, 3]), np.zeros([0, 3])):
        np.testing.assert_array_equal(integer_gradients.rounded(zeros, bits), zeros)


def exact_pull(op, gradient):
    """The gradient through a convolution [B, H, W, C] in fractions, term by term."""
    batch, height, width, filters = gradient.shape
    channels = op.kernel.shape[1] // len(op.taps)
    kernel = op.kernel.reshape(filters, len(op.taps), channels)
    result = np.full((batch, height, width, channels), Fraction(0), object)
    for b, i, j in np.ndindex(batch, height, width):
        for (k, (row, column)), f, c in itertools.product(
                enumerate(op.taps), range(filters), range(channels)):
            if 0 <= i + row < height and 0 <= j + column < width:
                result[b, i + row, j + column, c] += (
                    Fraction(float(gradient[b, i, j, f])) * int(kernel[f, k, c]))
    return result


@pytest.mark.parametrize("filters", [6, 2048])
def test_sums_are_exact(filters):
    # Equal to sums of fractions, which no order, library or number of threads changes. With 2048
    # filters, 24 bits of gradient would be too many.
    rng = np.random.default_rng(0)
    offsets = np.array([*itertools.product((-1, 0, 1), repeat=2)])
    kernel = rng.integers(30000, 2**15, (filters, len(offsets) * 2)).astype(np.int16)
    op = integer_ops.Conv((0,), offsets, kernel, np.zeros(filters, np.int64))
    gradient = rng.uniform(0.5, 1, (1, 3, 3, filters))
    found = integer_gradients._pull(op, gradient, np.zeros([1, 3, 3, 2]), None)
    bits = 24 if filters == 6 else 22
    given = integer_gradients.rounded(gradient, bits)
    for c, (i, j) in itertools.product((0, 1), ((0, 0), (1, 1))):
        expected = Fraction(0)
        for k, (row, column) in enumerate(offsets):
            if 0 <= i - row < 3 and 0 <= j - column < 3:
                expected += sum(Fraction(g) * int(w) for g, w in zip(
                    given[0, i - row, j - column].tolist(), kernel[:, 2 * k + c]))
        assert Fraction(float(found[0, i, j, c])) == expected


def test_order_of_summation_does_not_matter():
    first, second = trained(conv(40, 3, activation="leaky_relu"), 6), trained(conv(8, 5), 40)
    order = np.random.default_rng(2).permutation(40)
    x, results = integers(1, 6, 7, 6), []
    for permuted in (False, True):
        if permuted:
            for weight in first.weights:
                weight.assign(tf.gather(weight, order, axis=-1))
            kernel = next(weight for weight in second.weights if weight.shape.rank == 4)
            kernel.assign(tf.gather(kernel, order, axis=2))
        network = converted(tf.keras.Sequential([first, second]), 6)
        gradients_of, _, _ = random_pull([y.shape for y in network(x)])
        results.append((*integer_gradients.pull_back(network, x, gradients_of), network))
    one, other = results
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])
    kernels = [next(op.kernel for op in network.ops if isinstance(op, integer_ops.Conv))
               for _, _, network in results]
    assert np.any(kernels[0] != kernels[1])


@pytest.mark.slow
def test_gradients_are_the_same_bits_in_other_processes():
    # With another number of threads than here, and the code of another CPU.
    settings = dict(OPENBLAS_NUM_THREADS=str(1 + os.cpu_count()), OPENBLAS_CORETYPE="Nehalem")
    program = "from tests.helpers.integer_gradients import digest; print(digest())"
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **settings},
                          capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == digest()
