"""Integer networks: like their float form, within their bounds, the same bits always."""

import functools
import json
import math
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf

from common import integer_builder, integer_networks, integer_ops
from common.errors import UserError
from common.transforms import advdnic, cheng2020, hific2020, mbt2018, yang2023
from common.transforms.layers import ConcatElu, conv, deconv
from common.transforms.mbconv import mbconv
from tests.helpers.integer_layers import (
    BITS,
    TABLE_ERROR,
    Recorder,
    assert_agree,
    converted,
    integers,
    trained,
)

K = tf.keras.layers


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
    builder = integer_builder.Builder()
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
