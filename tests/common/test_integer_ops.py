"""Operations on integers: exact up to their bounds, and clipped beyond."""

from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf

from common import integer_builder, integer_ops
from common.transforms.layers import conv
from tests.helpers.integer_layers import BITS, Recorder, converted, integers, trained

K = tf.keras.layers


def patches(op, x):
    """What each position of a 3x3-convolution reads: Python's integers [B, H, W, T, C]."""
    batch, height, width, channels = x.shape
    padded = np.zeros([batch, height + 2, width + 2, channels], object)
    padded[:, 1:-1, 1:-1] = x.astype(np.int64).astype(object)
    return np.stack([padded[:, 1 + row:1 + row + height, 1 + column:1 + column + width]
                     for row, column in op.taps], axis=-2)[:, ::op.stride, ::op.stride]


def accumulator(layer, bound, channels=8):
    """A converted convolution: its operation, and the value of its sums before any rounding."""
    builder = Recorder()
    network = converted(layer, channels, bound=bound, builder=builder)
    return network.ops[2], builder.values[2]


# 2^28 is what networks have inside; beyond 2^33 weights must have fewer bits to fit.
@pytest.mark.parametrize("bound", [2.0**28, 2.0**36])
def test_the_bound_of_a_convolution_is_reached_and_exact(bound):
    layer = trained(conv(4, 3), 8)
    op, value = accumulator(layer, bound)
    assert value.bound < 2**53 and (bound == 2**28 or value.bound >= 2**52)
    weights, biases = op.kernel.astype(object), [int(b) for b in op.bias]
    # Image f is the worst case of filter f, at its centre.
    signs = np.sign(op.kernel.reshape(4, 3, 3, 8)) * np.sign(op.bias)[:, None, None, None]
    x = bound * signs
    y = op(tf.constant(x)).numpy()
    worst = [int(np.sum(np.abs(w))) * int(bound) + abs(b) for w, b in zip(weights, biases)]
    assert [abs(int(y[f, 1, 1, f])) for f in range(4)] == worst
    assert max(worst) == int(value.bound)
    expected = patches(op, x).reshape(4, 3, 3, -1) @ weights.T + np.array(biases, object)
    assert np.all(y.astype(np.int64) == expected)


@pytest.mark.parametrize("bound", [2.0**22, 2.0**36])
def test_the_bound_of_a_depthwise_convolution_is_reached_and_exact(bound):
    layer = trained(K.DepthwiseConv2D(3, padding="same"), 8)
    op, value = accumulator(layer, bound)
    assert value.bound < 2**53 and (bound == 2**22 or value.bound >= 2**52)
    x = bound * (np.sign(op.kernel) * np.sign(op.bias)).reshape(1, 3, 3, 8)
    y = op(tf.constant(x)).numpy()
    weights, biases = op.kernel.astype(object), op.bias.astype(object)
    worst = np.sum(np.abs(weights), axis=0) * int(bound) + np.abs(biases)
    assert np.all(np.abs(y[0, 1, 1]).astype(np.int64) == worst)
    assert max(worst) == int(value.bound)
    expected = np.sum(patches(op, x) * weights, axis=-2) + biases
    assert np.all(y.astype(np.int64) == expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_sums_do_not_depend_on_their_order(stride):
    op, _ = accumulator(trained(conv(4, 3, stride=stride), 8), 2.0**28)
    rng = np.random.default_rng(0)
    x = np.round(rng.uniform(-2.0**28, 2.0**28, [2, 7, 6, 8]))
    y = op(tf.constant(x)).numpy()
    read = patches(op, x)
    assert np.all(y.astype(np.int64) == read.reshape(*read.shape[:3], -1) @ op.kernel.astype(
        object).T + op.bias.astype(object))
    taps, channels = rng.permutation(9), rng.permutation(8)
    kernel = op.kernel.reshape(4, 9, 8)[:, taps][..., channels].reshape(4, -1)
    permuted = integer_ops.Conv(op.inputs, op.offsets[taps], kernel, op.bias, stride)
    np.testing.assert_array_equal(permuted(tf.constant(x[..., channels])), y)
    # The same in float32, where it matters.
    single = read.reshape(*read.shape[:3], -1).astype(np.float32)
    order = rng.permutation(72)
    one, other = (single[..., o] @ op.kernel.T[o].astype(np.float32) for o in (slice(None), order))
    assert np.any(one != other) and np.any(one.astype(np.float64) + op.bias != y)


def test_products_of_wide_factors_are_exact():
    # Two of 28 bits would have 56; the factors lose bits first, and not more than they must.
    builder = Recorder()
    a, b = (builder.input(k, 1, 14, 2.0**28) for k in range(2))
    result = builder.multiply(a, b)
    [op] = [op for op in builder.network(result).ops if isinstance(op, integer_ops.Multiply)]
    factors, product = [builder.values[i] for i in op.inputs], builder.values[result.index - 1]
    assert 2**51 <= product.bound < 2**53
    x = [np.round(np.random.default_rng(k).uniform(-2.0**28, 2.0**28, [1, 10, 10, 1]))
         for k in range(2)]
    left, right, y, rounded = builder.network(*factors, product, result)(*x)
    assert [int(v) for v in np.ravel(y)] == [
        int(v) * int(w) for v, w in zip(np.ravel(left), np.ravel(right))]
    expected = np.clip(x[0] * x[1] * 2.0**-28, -2.0**14, 2.0**14)
    np.testing.assert_allclose(rounded * 2.0**-result.bits, expected, atol=2.0**4)


def test_rounding_is_that_of_fractions():
    # Halves to even, once; Python's `round` of a fraction does the same.
    x = np.concatenate([np.arange(-40, 41), integers(500, spread=2.0**26)])
    steps = [int(v) for v in x]
    for shift in (1, 3):
        y = integer_ops.Requantize((0,), shift, -2.0**40, 2.0**40)(tf.constant(x))
        assert list(y) == [round(Fraction(v, 2**shift)) for v in steps]
    for slope in (2**15, 13107, 2**16):
        y = integer_ops.LeakyRelu((0,), slope)(tf.constant(x))
        assert list(y) == [v if v > 0 else round(Fraction(v * slope, 2**16)) for v in steps]


def test_activations_beyond_the_largest_are_clipped():
    builder = integer_builder.Builder()
    x = builder.input(0, 1, BITS, 2.0**28)
    y = builder.conv("steep", x, [(0, 0)], [[[1000.0, -1000.0]]], [0.0, 0.0])
    sum_ = builder.add(y, y)
    product = builder.multiply(y, y)
    outputs = builder.network(y, sum_, product)(np.array([-60000, -1, 0, 1, 60000]).reshape(
        1, 1, 5, 1) * 2.0**BITS)
    largest = 2.0**14
    for value, result, expected in zip((y, sum_, product), outputs, (
            [largest, 1000, 0, -1000, -largest],
            [largest, 2000, 0, -2000, -largest],
            [largest, largest, 0, largest, largest])):
        np.testing.assert_array_equal(result[0, 0, :, 1] * 2.0**-value.bits, expected)
        assert value.bound <= 2**28


@pytest.mark.parametrize("name, ends", [
    ("sigmoid", (0, 1)), ("tanh", (-1, 1)), ("elu", (-1, 1000)), ("swish", (0, 1000)),
    ("mish", (0, 1000)), ("softplus", (0, 1000))])
def test_tables_end_where_their_functions_do(name, ends):
    network = converted(K.Activation(name), 1, bound=2.0**28)
    [y] = network(np.array([-1000, 1000]).reshape(1, 1, 2, 1) * 2.0**BITS)
    np.testing.assert_allclose(np.ravel(y) * 2.0**-network.outputs[0].bits, ends, atol=2.0**-BITS)


def test_nan_does_not_spread_and_no_table_takes_it():
    # No latent is NaN; if one were, it stays NaN where it is read rather than becoming a number.
    x = integers(2, 5, 6, 3)
    damaged = x.copy()
    damaged[0, 0, 0, 0] = np.nan
    linear = converted(trained(conv(4, 3, activation="relu"), 3), 3)
    [y], [reference] = linear(damaged), linear(x)
    reached = np.zeros([2, 5, 6, 4], bool)
    reached[0, :2, :2] = True
    np.testing.assert_array_equal(np.isnan(y), reached)
    np.testing.assert_array_equal(y[~reached], reference[~reached])
    with pytest.raises(tf.errors.InvalidArgumentError, match="not in"):
        converted(K.Activation("sigmoid"), 3)(damaged)
