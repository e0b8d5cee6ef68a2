"""Integer networks: like their float form, within their bounds, the same bits always."""

import functools
import json
import math
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_compression as tfc

from common import integer_networks, integer_ops
from common.errors import UserError
from common.transforms import advdnic, cheng2020, contract, hific2020, mbt2018, yang2023
from common.transforms.composites import Branches, Gated, Residual, Sum
from common.transforms.layers import (
    GDN,
    ConcatElu,
    DepthToSpace,
    ShiftedConv,
    SignalConv2D,
    conv,
    deconv,
)
from common.transforms.mbconv import mbconv

K = tf.keras.layers

BITS = 12  # of the inputs, unless a test says otherwise
BOUND = 2.0**(BITS + 4)
POINTWISE = sorted(contract._POINTWISE)

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


class Recorder(integer_networks.Builder):
    """Remembers what is known of every operation's output, accumulators included."""

    def __init__(self):
        super().__init__()
        self.values = []

    def _append(self, *args):
        self.values.append(super()._append(*args))
        return self.values[-1]


def converted(layer, *channels, bits=BITS, bound=BOUND, builder=None):
    builder = builder or integer_networks.Builder()
    inputs = [builder.input(k, c, bits, bound) for k, c in enumerate(channels)]
    return builder.network(contract.convert(builder, layer, *inputs))


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


# --- Layers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make, kernel, stride", [
    *((make, kernel, stride) for make in (conv, deconv) for kernel, stride in [
        (1, 1), (3, 1), (5, 1), (3, 2), (5, 2), (9, 4), (2, 1), (2, 2), (4, 2), (6, 4)]),
    (conv, 1, 2)])
def test_convolutions_agree(make, kernel, stride):
    layer = trained(make(3, kernel, stride=stride), 4)
    network = converted(layer, 4)
    for height, width in [(1, 1), (5, 8), (6, 7)]:
        assert_agree(network, layer, integers(2, height, width, 4))


@pytest.mark.parametrize("kernel, origin, last", [
    ((5, 5), (-2, -2), (0, -1)),  # masked, without its centre and with it
    ((5, 5), (-2, -2), (0, 0)),
    ((2, 3), (-2, -1), None),     # above only
    ((2, 1), (-1, -1), None),
    ((2, 2), (-1, -1), None),
    ((1, 1), (0, -1), None),      # a pure shift
    ((1, 3), (0, -3), None),
    ((3, 3), (-1, -1), None),     # sees what comes later, or nothing else
    ((2, 2), (0, 0), None),
    ((2, 2), (1, 1), None),
], ids=str)
def test_shifted_convolutions_agree(kernel, origin, last):
    layer = trained(ShiftedConv(3, kernel, origin, last), 4)
    network = converted(layer, 4)
    for height, width in [(1, 2), (2, 1), (5, 8)]:
        assert_agree(network, layer, integers(2, height, width, 4))


@pytest.mark.parametrize("make, kernel, stride", [
    (make, *sizes) for make in (conv, deconv)
    for sizes in [(5, 2), (3, 2), (3, 1), (9, 4), (4, 2)]])
def test_convolutions_in_keras_alignment_agree(make, kernel, stride):
    for use_bias in (True, False):
        layer = trained(make(3, kernel, stride, use_bias=use_bias, align="keras"), 4)
        network = converted(layer, 4)
        for height, width in [(1, 1), (5, 8), (6, 7)]:
            assert_agree(network, layer, integers(2, height, width, 4))


def test_reflection_has_no_integer_form():
    layer = trained(ShiftedConv(3, (3, 3), (-1, -1), padding="reflect"), 4)
    refusal = f"{layer.name}: padding 'reflect' has no integer form; 'zeros' has"
    with pytest.raises(integer_networks.ConversionError, match=refusal):
        converted(layer, 4)


@pytest.mark.parametrize("make, channels, tables", [
    (lambda: K.Conv2D(3, (3, 5), padding="same"), [4], 0),
    (lambda: K.Conv2D(3, 1, padding="same", use_bias=False), [4], 0),
    (lambda: K.DepthwiseConv2D((5, 3), padding="same"), [4], 0),
    (lambda: K.DepthwiseConv2D(3, padding="same", use_bias=False), [4], 0),
    (lambda: SignalConv2D(3, (3, 5), corr=True), [4], 0),  # rdft
    (lambda: K.BatchNormalization(), [4], 0),
    (lambda: K.BatchNormalization(scale=False), [4], 0),
    (lambda: K.BatchNormalization(center=False), [4], 0),
    (lambda: K.ReLU(), [4], 0),
    (lambda: K.ReLU(negative_slope=0.3), [4], 0),
    (lambda: K.LeakyReLU(0.1), [4], 0),
    (lambda: K.LeakyReLU(1.0), [4], 0),
    (lambda: ConcatElu(), [4], TABLE_ERROR),
    (lambda: K.Add(), [4, 4], 0),
    (lambda: K.Add(), [1, 4, 4], 0),
    (lambda: K.Multiply(), [4, 4], 0),
    (lambda: K.Multiply(), [1, 4, 4], 0),
    (lambda: K.Concatenate(), [4, 2, 1], 0),
    (lambda: K.GlobalAveragePooling2D(keepdims=True), [4], 0),
    *((lambda k=k, s=s: K.Conv2DTranspose(3, k, s, padding="same"), [4], 0)
      for k, s in [(6, 4), (2, 2), (4, 2), (5, 2), (3, 1), (18, 16)]),
    (lambda: DepthToSpace(2), [8], 0),
    (lambda: Residual([conv(4, 3), K.ReLU()]), [4], 0),
    (lambda: Sum([conv(3, 1)], [conv(3, 3), K.ReLU()]), [4], 0),
    (lambda: Branches([conv(3, 1)], [conv(2, 3)]), [4], 0),
    (lambda: Gated([conv(4, 3)], [conv(4, 1, activation="sigmoid")]), [4], 8 * TABLE_ERROR),
    (lambda: Gated([], [K.GlobalAveragePooling2D(keepdims=True)]), [4], 0),
], ids=[
    "conv", "conv without bias", "depthwise", "depthwise without bias", "signal conv rdft",
    "batch norm", "batch norm without gamma", "batch norm without beta", "relu", "leaky relu",
    "LeakyReLU", "identity", "concat elu", "add", "add broadcast", "multiply",
    "multiply broadcast", "concatenate", "mean",
    "blocks 6 4", "blocks 2 2", "blocks 4 2", "blocks 5 2", "blocks 3 1", "blocks 18 16",
    "depth to space", "residual", "sum", "branches", "gated", "gated channels"])
def test_layers_agree(make, channels, tables):
    layer = trained(make(), *channels)
    inputs = [integers(2, 5, 8, c, seed=k) for k, c in enumerate(channels)]
    assert_agree(converted(layer, *channels), layer, *inputs, tables=tables)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("name", POINTWISE + ["relu", "leaky_relu", "linear"])
def test_activations_agree(name, bits):
    # Also beyond the table's range, and with arguments coarser and finer than its steps.
    x = np.round(np.linspace(-30, 30, 5001) * 2.0**bits).reshape(1, 1, -1, 1)
    layer = K.Activation(name)
    network = converted(layer, 1, bits=bits, bound=2.0**(bits + 5))
    [y] = network(x)
    difference = y * 2.0**-network.outputs[0].bits - layer(x * 2.0**-bits).numpy()
    assert np.max(np.abs(difference)) <= TABLE_ERROR + 2.0**-(bits + 1) + 1e-5


@pytest.mark.parametrize("activation", POINTWISE + [
    "relu", "leaky_relu", tf.nn.leaky_relu, K.LeakyReLU(0.3), ConcatElu()],
    ids=lambda activation: activation if isinstance(activation, str) else type(activation).__name__)
@pytest.mark.parametrize("make", [
    lambda activation: conv(3, 3, activation=activation),
    lambda activation: deconv(3, 3, stride=2, activation=activation),
    lambda activation: ShiftedConv(3, (2, 2), (-1, -1), activation=activation),
    lambda activation: K.Conv2D(3, 3, padding="same", activation=activation),
    lambda activation: K.DepthwiseConv2D(3, padding="same", activation=activation),
], ids=["conv", "deconv", "shifted", "Conv2D", "DepthwiseConv2D"])
def test_activations_of_convolutions_agree(make, activation):
    layer = trained(make(activation), 4)
    assert_agree(converted(layer, 4), layer, integers(1, 3, 5, 4), tables=2 * TABLE_ERROR)


# --- Whole networks ---------------------------------------------------------------------------


def stack():
    return tf.keras.Sequential([
        K.Conv2D(8, 3, padding="same"), K.BatchNormalization(), K.ReLU(),
        K.DepthwiseConv2D(3, padding="same", activation="swish"), ConcatElu(),
        conv(6, 5, stride=2, activation="leaky_relu"), deconv(5, 3, stride=2)])


def squeeze_and_excitation():
    """A residual block whose channels are gated by what the whole image holds, and a nested one."""
    x = tf.keras.Input([None, None, 6])
    hidden = tf.keras.Sequential([conv(6, 3, activation="elu"), conv(6, 3)])(x)
    gate = K.GlobalAveragePooling2D(keepdims=True)(hidden)
    gate = K.Conv2D(3, 1, padding="same", activation="relu")(gate)
    gate = K.Conv2D(6, 1, padding="same", activation="sigmoid")(gate)
    y = K.Add()([x, K.Multiply()([hidden, gate])])
    inner = tf.keras.Input([None, None, 6])
    block = tf.keras.Model(inner, K.Add()([inner, K.Activation("tanh")(inner)]))
    return tf.keras.Model(x, K.Concatenate()([block(y), block(x), y]))


# Name: the network, its input's channels and fractional bits.
NETWORKS = {
    "HyperAnalysis": (lambda: mbt2018.HyperAnalysis((6, 8, 7)), 5, BITS),
    "HyperSynthesis": (lambda: mbt2018.HyperSynthesis((6, 8, 10), "leaky_relu"), 5, 0),
    "HyperSynthesis keras": (
        lambda: mbt2018.HyperSynthesis((6, 8, 10), align="keras"), 5, 0),
    "Cheng2020HyperSynthesis": (lambda: cheng2020.Cheng2020HyperSynthesis(6), 5, 0),
    "Sequential": (stack, 5, BITS),
    "functional": (squeeze_and_excitation, 6, 16),
    "HyperSynthesisSmall": (lambda: yang2023.HyperSynthesisSmall((6, 10)), 5, 0),
    "JPEGLikeHyperSynthesis": (lambda: yang2023.JPEGLikeHyperSynthesis(10), 5, 0),
    "SeparateHyperSyntheses": (
        lambda: hific2020.SeparateHyperSyntheses((6, 8, 5), "leaky_relu_0.1"), 5, 0),
    "AdvDNICNlaicHyperSynthesis": (lambda: advdnic.AdvDNICNlaicHyperSynthesis(8), 5, 0),
    "mbconv": (lambda: mbconv(5, 5, normalize=True), 5, BITS),
}


@functools.cache
def whole(name):
    """The float network, the integer one, and the values of all operations."""
    make, channels, bits = NETWORKS[name]
    layer, builder = trained(make(), channels, spread=0.25), Recorder()
    network = converted(layer, channels, bits=bits, bound=2.0**(bits + 4), builder=builder)
    return layer, network, builder.values


def whole_input(name, *shape, seed=0):
    _, channels, bits = NETWORKS[name]
    return integers(*shape, channels, seed=seed, spread=2.0**(bits + 1))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("height, width", [(1, 1), (6, 4), (5, 7)])
def test_whole_networks_agree(name, height, width):
    layer, network, _ = whole(name)
    if name == "Sequential":  # its down- and up-sampling would make an odd size even
        height, width = 2 * height, 2 * width
    x = whole_input(name, 2, height, width)
    assert_agree(network, layer, x, bits=NETWORKS[name][2], tables=4 * TABLE_ERROR)


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_integers_within_their_bounds(name):
    _, network, values = whole(name)
    bound, rng = 2.0**(NETWORKS[name][2] + 4), np.random.default_rng(1)
    full = integer_networks.Network(  # without the raw input
        network.ops, network.channels, tuple(values[1:]))
    shape = (3, 4, 6, NETWORKS[name][1])
    for x in (rng.choice([-bound, bound], shape), np.full(shape, bound), np.full(shape, -bound),
              rng.choice([-1e300, 0, 1, 1e300], shape), whole_input(name, 3, 4, 6)):
        for value, y in zip(full.outputs, full(x)):
            operation = network.ops[value.index]
            np.testing.assert_array_equal(y, np.round(y), err_msg=str(operation))
            assert np.max(np.abs(y)) <= value.bound < 2**53, operation
            assert y.shape[-1] == value.channels == network.channels[value.index], operation


# --- Exactness --------------------------------------------------------------------------------


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


# --- Same bits everywhere ---------------------------------------------------------------------


MODES = {"eager": lambda f: f, "graph": tf.function,
         "XLA": functools.partial(tf.function, jit_compile=True)}


@pytest.mark.parametrize("mode", ["graph", "XLA"])
@pytest.mark.parametrize("name", NETWORKS)
def test_graphs_give_the_same_bits(name, mode):
    _, network, _ = whole(name)
    x = tf.constant(whole_input(name, 2, 5, 7))
    [expected], [y] = network(x), MODES[mode](network)(x)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("height, width", [(7, 14), (14, 14), (3, 5), (4, 8)])
def test_mean_is_rounded_once(height, width, mode):
    # Where the size is known, TensorFlow would like to multiply by 1 / (H W) rather than to
    # divide, which rounds twice; 147 / 98 = 1.5 is the first half that would come out below.
    count = height * width
    totals = np.arange(-2000, 2000) * (count // 2)
    x = np.zeros([len(totals), height, width, 1])
    x[:, 0, 0, 0] = totals - 5
    x[:, -1, -1, 0] = 5
    mean = MODES[mode](integer_ops.Mean((0,)))(tf.constant(x)).numpy()
    halves_up = [math.floor(Fraction(int(total), count) + Fraction(1, 2)) for total in totals]
    assert list(mean.ravel()) == halves_up


@pytest.mark.parametrize("mode", MODES)
def test_steps_are_counted(mode):
    builder = integer_networks.Builder()
    steps = builder.steps("steps", builder.input(0, 2, BITS, 2.0**28), [-1.0, 0.5, 3.0, 2.0**15])
    assert (steps.bits, steps.bound, steps.channels) == (0, 4, 2)
    network = integer_networks.Network.from_arrays(builder.network(steps).to_arrays())
    assert network.ops[-1].taps == ((0, 0),)
    unit = 2**BITS
    x = np.array([[-2**28, -unit - 1, -unit, 0, unit // 2 - 1, unit // 2, 3 * unit, 2**28]])
    found, = MODES[mode](network)(tf.constant(x.reshape(1, 2, 2, 2)))
    assert found.dtype == tf.float64 and found.shape == (1, 2, 2, 2)
    np.testing.assert_array_equal(np.ravel(found), [0, 0, 1, 1, 1, 2, 3, 4])
    with pytest.raises(UserError, match="layer steps .* 12 fractional bits, too few"):
        builder.steps("steps", integer_networks.Value(0, 2, BITS, 2.0**28), [0.0, 0.5, 0.5001])


@pytest.mark.parametrize("name", NETWORKS)
def test_other_images_in_the_batch_change_nothing(name):
    _, network, _ = whole(name)
    x = whole_input(name, 5, 6, 4)
    [together] = network(x)
    for k in range(5):
        np.testing.assert_array_equal(network(x[k:k + 1])[0], together[k:k + 1])


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64, tf.float32])
def test_type_of_the_input_changes_nothing(dtype):
    _, network, _ = whole("Sequential")
    x = tf.constant(whole_input("Sequential", 1, 4, 4))
    np.testing.assert_array_equal(network(tf.cast(x, dtype))[0], network(x)[0])
    if dtype.is_integer:  # more bits than float32 has
        wide = tf.fill([1, 1, 1, 1], tf.cast(2**28 - 1, dtype))
        [y] = converted(K.ReLU(), 1, bound=2.0**28)(wide)
        assert y == 2**28 - 1


# --- Clipping ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_inputs_beyond_the_bound_are_clipped(name):
    _, network, _ = whole(name)
    bound = 2.0**(NETWORKS[name][2] + 4)
    x = 8 * whole_input(name, 1, 4, 6)
    assert np.mean(np.abs(x) > bound) > 0.2
    [y] = network(np.clip(x, -bound, bound))
    np.testing.assert_array_equal(network(x)[0], y)
    assert np.any(network(x / 8)[0] != y)
    # Far beyond, where a cast would wrap around.
    far = np.where(np.abs(x) > bound, np.copysign(np.inf, x), x)
    np.testing.assert_array_equal(network(far)[0], y)


def test_activations_beyond_the_largest_are_clipped():
    builder = integer_networks.Builder()
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


# --- Refusals ---------------------------------------------------------------------------------


class Subclassed(tf.keras.Model):
    """What `call` does with its layers cannot be known."""

    def __init__(self):
        super().__init__()
        self.inner = K.Conv2D(3, 3, padding="same")

    def call(self, x):
        return self.inner(x)


def signal_conv(kernel=3, corr=True, **kwargs):
    return SignalConv2D(4, kernel, corr=corr, use_bias=True, **kwargs)


def culprit(layer, channels=4):
    layer._name = "culprit"  # default names, like "activation", are words of the messages too
    return trained(layer, channels)


def assert_refused(layer, channels=4, **kwargs):
    with pytest.raises(integer_networks.ConversionError, match="culprit") as error:
        converted(layer, channels, **kwargs)
    assert isinstance(error.value, UserError)


@pytest.mark.parametrize("make", [
    GDN, K.LayerNormalization, K.PReLU, K.ELU, Subclassed,
    lambda: K.Conv2D(4, 3), lambda: K.Conv2D(4, 4, padding="same"),
    lambda: K.Conv2D(4, (3, 2), padding="same"), lambda: K.Conv2D(4, 3, 2, padding="same"),
    lambda: K.Conv2D(4, 3, padding="same", dilation_rate=2),
    lambda: K.Conv2D(4, 3, padding="same", groups=2),
    lambda: K.DepthwiseConv2D(3), lambda: K.DepthwiseConv2D(2, padding="same"),
    lambda: K.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
    lambda: tfc.SignalConv2D(4, 3, corr=True, padding="same_reflect"),
    lambda: signal_conv((3, 5), corr=False), lambda: signal_conv((5, 3), corr=False, strides_up=2),
    lambda: K.Conv2D(4, 3, padding="same", activation="exponential"),
    lambda: signal_conv(activation=tf.math.sin), lambda: K.Activation(lambda x: x + 1),
    lambda: K.Activation("relu6"), lambda: K.ReLU(max_value=6), lambda: K.ReLU(threshold=1),
    lambda: K.GlobalAveragePooling2D(), lambda: K.LeakyReLU(1.5),
], ids=[
    "GDN", "LayerNormalization", "PReLU", "ELU", "subclassed", "valid", "even", "half even",
    "stride", "dilation", "groups", "depthwise valid", "depthwise even", "multiplier", "library's",
    "transposed 3x5", "transposed 5x3", "exponential", "sin", "lambda",
    "relu6", "max_value", "threshold", "keepdims", "slope"])
def test_layers_without_integer_form_are_refused_by_name(make):
    assert_refused(culprit(make()))


def test_refused_layer_is_named_wherever_it_is():
    layer = culprit(GDN())
    x = tf.keras.Input([None, None, 4])
    functional = tf.keras.Model(x, K.Add()([x, tf.keras.Sequential([K.ReLU(), layer])(x)]))
    assert_refused(functional)
    assert_refused(trained(conv(4, 3, activation=layer), 4))


@pytest.mark.parametrize("make", [
    lambda: K.Conv2DTranspose(4, 3), lambda: K.Conv2DTranspose(4, (3, 5), padding="same"),
    lambda: K.Conv2DTranspose(4, 3, 4, padding="same"),
    lambda: K.Conv2DTranspose(4, 3, (2, 1), padding="same"),
    lambda: signal_conv((3, 2)),
    lambda: signal_conv(corr=False, strides_up=2, extra_pad_end=False),
    lambda: K.BatchNormalization(axis=1),
    lambda: K.Activation(functools.partial(tf.nn.leaky_relu, alpha=0.4)),
], ids=[
    "transposed valid", "transposed half", "transposed gaps", "transposed strides",
    "3x2", "without extra_pad_end", "batch norm of rows", "partial"])
def test_no_layer_is_converted_into_another(make):
    # These may gain an integer form; until then they are refused.
    layer = culprit(make())
    try:
        network = converted(layer, 4)
    except integer_networks.ConversionError as error:
        assert "culprit" in str(error)
    else:
        assert_agree(network, layer, integers(1, 4, 6, 4))


def test_concatenation_of_positions_is_refused():
    layer = K.Concatenate(axis=1, name="culprit")
    builder = integer_networks.Builder()
    x = builder.input(0, 4, BITS, BOUND)
    with pytest.raises(integer_networks.ConversionError, match="culprit"):
        contract.convert(builder, layer, x, x)


def test_model_with_two_outputs_is_refused():
    # The second would be dropped in silence.
    x = tf.keras.Input([None, None, 4])
    assert_refused(tf.keras.Model(x, [K.ReLU()(x), K.Activation("tanh")(x)], name="culprit"))


@pytest.mark.parametrize("spoil", [
    lambda kernel, bias: bias.assign(bias + 1e12),
    lambda kernel, bias: bias.assign(bias * np.nan),
    lambda kernel, bias: kernel.assign(kernel * np.nan),
    lambda kernel, bias: kernel.assign(kernel * np.inf),
], ids=["large bias", "nan bias", "nan kernel", "infinite kernel"])
@pytest.mark.parametrize("make", [
    lambda: conv(4, 3), lambda: deconv(4, 3, stride=2), lambda: K.DepthwiseConv2D(3, padding="same")
], ids=["conv", "deconv", "depthwise"])
def test_impossible_weights_are_refused_by_name(make, spoil):
    layer = culprit(make())
    spoil(*sorted(layer.trainable_weights, key=lambda weight: -weight.shape.rank))
    assert_refused(layer)


def test_impossible_statistics_are_refused_by_name():
    layer = culprit(K.BatchNormalization())
    layer.moving_mean.assign([1e12] * 4)
    assert_refused(layer)


def test_fan_in_is_refused_where_eight_bits_overflow():
    # Weights of 2^-1 have 8 bits as 2^7, and inputs 2^28: 2^18 of these make 2^53.
    for channels, possible in ((2**18, False), (2**18 - 1, True)):
        layer = K.Conv2D(1, 1, padding="same", use_bias=False, kernel_initializer=(
            tf.keras.initializers.Constant(0.5)), name="culprit")
        layer.build([None, None, None, channels])
        if possible:
            builder = Recorder()
            converted(layer, channels, bound=2.0**28, builder=builder)
            assert builder.values[2].bound == 2**53 - 2**35
        else:
            assert_refused(layer, channels, bound=2.0**28)


# --- Storage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_stored_networks_give_the_same_bits(name, tmp_path):
    _, network, _ = whole(name)
    np.savez_compressed(tmp_path / "network.npz", **network.to_arrays())
    with np.load(tmp_path / "network.npz", allow_pickle=False) as arrays:
        loaded = integer_networks.Network.from_arrays(arrays)
    x = whole_input(name, 2, 4, 6)
    np.testing.assert_array_equal(loaded(x)[0], network(x)[0])
    assert loaded.channels == network.channels
    [a], [b] = loaded.outputs, network.outputs
    assert (a.index, a.channels, a.bits, a.bound) == (b.index, b.channels, b.bits, b.bound)
    # Stored again, nothing is lost.
    again, arrays = loaded.to_arrays(), network.to_arrays()
    assert again.keys() == arrays.keys()
    assert all(np.array_equal(again[key], arrays[key]) for key in arrays)


def test_equal_tables_are_stored_once():
    layers = [K.Activation(name) for name in ("sigmoid", "tanh", "sigmoid", "sigmoid", "tanh")]
    network = converted(tf.keras.Sequential([*layers, ConcatElu(), ConcatElu()]), 2)
    tables = [array for array in network.to_arrays().values() if array.size > 2**14]
    assert len(tables) == 3
    assert sum(isinstance(op, integer_ops.Lookup) for op in network.ops) == 7
    loaded = integer_networks.Network.from_arrays(network.to_arrays())
    x = integers(1, 2, 3, 2)
    np.testing.assert_array_equal(loaded(x)[0], network(x)[0])


def change(arrays, function):
    """The arrays with another program: `function` of operations, channels and outputs."""
    program = json.loads(str(arrays["program"]))
    return {**arrays, "program": np.array(json.dumps(function(*program)))}


@pytest.mark.parametrize("damage", [
    lambda arrays: {},
    lambda arrays: {"program": arrays["program"]},
    lambda arrays: {**arrays, "program": np.array("")},
    lambda arrays: {**arrays, "program": np.array(str(arrays["program"])[:-5])},
    lambda arrays: {**arrays, "program": np.zeros(3)},
    lambda arrays: change(arrays, lambda *program: 5),
    lambda arrays: change(arrays, lambda *program: program[:2]),
    lambda arrays: change(arrays, lambda ops, *rest: [[5], *rest]),
    lambda arrays: change(arrays, lambda ops, *rest: [ops[1:], *rest]),
    lambda arrays: change(arrays, lambda ops, channels, outputs: [ops, channels, []]),
    lambda arrays: change(arrays, lambda ops, channels, outputs: [
        ops, channels, [{**outputs[0], "index": 99}]]),
    lambda arrays: change(arrays, lambda ops, *rest: [["Input"], *rest]),
    lambda arrays: change(arrays, lambda ops, *rest: [[["Input"]], *rest]),
    lambda arrays: change(arrays, lambda ops, *rest: [[{**ops[0], "op": "Sine"}], *rest]),
    lambda arrays: change(arrays, lambda ops, *rest: [[{**ops[0], "op": []}], *rest]),
    lambda arrays: change(arrays, lambda ops, *rest: [[{**ops[0], "inputs": 1}], *rest]),
    lambda arrays: change(arrays, lambda ops, *rest: [[{**ops[0], "extra": 1}], *rest]),
    lambda arrays: change(arrays, lambda ops, *rest: [[{"op": "Input", "inputs": []}], *rest]),
    lambda arrays: change(arrays, lambda ops, *rest: [[{"inputs": []}], *rest]),
    lambda arrays: change(arrays, lambda ops, *rest: [[{**ops[0], "number": {}}], *rest]),
    lambda arrays: change(arrays, lambda ops, channels, outputs: [ops, 5, outputs]),
    lambda arrays: change(arrays, lambda ops, channels, outputs: [ops, channels, [5]]),
    lambda arrays: change(arrays, lambda ops, channels, outputs: [ops, channels, [{}]]),
], ids=[
    "nothing", "no arrays", "empty", "cut", "numbers", "a number", "no outputs", "op a number",
    "first op missing", "empty outputs", "an output that is not there", "op a name", "op a list",
    "unknown op", "no op's name", "inputs", "extra field", "missing field", "no name",
    "no array's name", "channels", "output", "empty output"])
def test_damaged_programs_are_refused(damage):
    arrays = converted(trained(conv(2, 3, activation="tanh"), 2), 2).to_arrays()
    integer_networks.Network.from_arrays(arrays)
    with pytest.raises((KeyError, TypeError, ValueError)):
        integer_networks.Network.from_arrays(damage(arrays))
