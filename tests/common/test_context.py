"""Context networks are causal, and the wavefront does what raster order does."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from common import context, integer_builder, priors, range_coding, transforms
from common.coding_tables import CodingTables
from common.errors import CodingError, ConversionError
from common.transforms import contract

M = 6
BITS = 12
CONTEXTS = {
    "MaskedContext": dict(cls="MaskedContext", channels=2 * M, kernel=5),
    "MaskedStack": dict(cls="MaskedStack", channels=(8, 10, 2 * M), first_kernel=5, kernel=3),
    "MaskedStack3x3": dict(cls="MaskedStack", channels=(8, 2 * M), first_kernel=3, kernel=3),
    "GatedContext": dict(cls="GatedContext", latents=M, width=8, blocks=1, channels=2 * M),
}
# That of joint_ar/configs/gated.py has two blocks. Tests of coding do without: graphs of its steps
# take twice as long to make.
DEEPER = "GatedContext of two blocks"
ALL = CONTEXTS | {DEEPER: CONTEXTS["GatedContext"] | {"blocks": 2}}
SLOPES = {
    "MaskedContext": 3, "MaskedStack": 3, "MaskedStack3x3": 2, "GatedContext": 4, DEEPER: 6}
SIZES = [(1, 1), (1, 9), (9, 1), (2, 3), (5, 8), (11, 4), (20, 2), (10, 17)]
RASTER = 17  # from the largest width on, every step is one position


@functools.cache
def layer(name):
    """A context with weights large enough that everything it reads shows."""
    tf.keras.utils.set_random_seed(1)
    built = transforms.build(ALL[name])
    built(tf.zeros([1, 4, 4, M]))
    for weight in built.trainable_weights:
        weight.assign(tf.random.normal(weight.shape, stddev=0.3))
    return built


@functools.cache
def network(name):
    """Context and entropy parameters, as a joint_ar model has them."""
    tf.keras.utils.set_random_seed(2)
    parameters = transforms.build(dict(cls="EntropyParameters", channels=(20, 16, 2 * M)))
    parameters(tf.zeros([1, 4, 4, 4 * M]))
    for weight in parameters.trainable_weights:
        weight.assign(tf.random.normal(weight.shape, stddev=0.3))
    builder = integer_builder.Builder()
    y = builder.input(0, M, BITS, 2.0**24)
    psi = builder.input(1, 2 * M, 14, 2.0**20)
    output = contract.integers(
        parameters, builder, builder.concat(contract.integers(layer(name), builder, y), psi))
    mean = builder.requantize(builder.slice(output, 0, M), BITS)
    index = priors.ScaleTable().integer_index(builder, builder.slice(output, M, 2 * M))
    return builder.network(mean, index)


@functools.cache
def tables():
    return CodingTables.build([priors.ScaleTable()])


def latents(height, width, seed=0):
    rng = np.random.default_rng(seed)
    y = tf.constant(rng.normal(0, 4, [1, height, width, M]), tf.float32)
    psi = tf.constant(np.round(rng.normal(0, 2**14, [1, height, width, 2 * M])))
    return y, psi


@functools.cache
def wavefront(name, steepness=None):
    return context.Wavefront(network(name), tables(), 0, BITS, steepness)


def encode(coding, y, psi):
    coder = range_coding.RangeEncoder(tables())
    y_hat = coding.encode(y, psi, coder)
    return coder.finish(), coder.crc, y_hat.numpy()


def decode(coding, stream, psi):
    coder = range_coding.RangeDecoder(tables(), stream)
    return coding.decode(coder, psi).numpy(), coder.crc


def perturbed(y):
    """For each position of y [1, H, W, M] in raster order, y with another value there."""
    others = np.repeat(y.numpy(), np.prod(y.shape[1:3]), axis=0)
    for other, position in zip(others, np.ndindex(*y.shape[1:3])):
        other[position] += np.random.default_rng(3).normal(0, 3, M)
    return others


@pytest.mark.parametrize("name", sorted(ALL.keys() - {"GatedContext"}))
@pytest.mark.parametrize("arithmetic", ["float", "integer"])
def test_causal_by_perturbation_of_every_position(name, arithmetic):
    height, width = 6, 7
    y, psi = latents(height, width)
    if arithmetic == "float":  # one by one, as sums of a batch may have another order
        function = tf.function(layer(name))
        before, *after = (function(each[None])[0] for each in (y[0], *perturbed(y)))
    else:
        every = tf.concat([y, perturbed(y)], axis=0)
        before, *after = tf.concat(network(name)(
            tf.round(every * 2**BITS), tf.repeat(psi, len(every), axis=0)), axis=-1)
    neighbourhood = context.causal_neighbourhood(network(name))
    reached = set()
    for (i, j), output in zip(np.ndindex(height, width), after, strict=True):
        affected = np.any(output != before, axis=-1)
        assert not np.any(affected.ravel()[:i * width + j + 1]), "a position sees itself or later"
        for k, m in np.argwhere(affected):
            reached.add((i - k, j - m))
    # What it states is what it reads: all of it that fits into this size, and nothing else.
    stated = {(down, right) for down, right in neighbourhood
              if -down < height and abs(right) < width}
    assert reached <= stated
    assert len(reached) > 0.9 * len(stated)


@pytest.mark.parametrize("name", ALL)
def test_slope_is_the_smallest(name):
    neighbourhood = context.causal_neighbourhood(network(name))
    slope = context.slope(neighbourhood)
    assert slope == SLOPES[name]
    assert all(right + slope * down < 0 for down, right in neighbourhood)
    assert any(right + (slope - 1) * down >= 0 for down, right in neighbourhood)


def test_slope_of_the_row_alone_is_one():
    assert context.slope({(0, -1), (0, -2)}) == 1
    assert context.slope({(-1, -1), (0, -1)}) == 1
    with pytest.raises(ValueError, match="less than"):
        wavefront("MaskedContext", steepness=2)


def test_a_network_that_is_not_causal_is_refused():
    builder = integer_builder.Builder()
    y = builder.input(0, M, BITS, 2.0**24)
    psi = builder.input(1, M, 14, 2.0**20)
    seen = builder.conv("leaky", y, [(-1, 0), (0, 0)], np.ones([2, M, M]), np.zeros(M))
    with pytest.raises(ConversionError, match=r"not causal.*\(0, 0\)"):
        context.Wavefront(builder.network(builder.add(seen, psi), seen), tables(), 0, BITS)


def test_psi_is_read_at_its_own_position_only():
    builder = integer_builder.Builder()
    y = builder.input(0, M, BITS, 2.0**24)
    psi = builder.input(1, M, 14, 2.0**20)
    before = builder.conv("before", y, [(0, -1)], np.ones([1, M, M]), np.zeros(M))
    beside = builder.conv("beside", psi, [(0, 3)], np.ones([1, M, M]), np.zeros(M))
    with pytest.raises(ConversionError, match="psi"):
        context.Wavefront(builder.network(builder.add(before, beside), before), tables(), 0, BITS)


@pytest.mark.parametrize("height, width", SIZES)
@pytest.mark.parametrize("name", CONTEXTS)
def test_wavefront_equals_raster_order_and_the_whole_tensor(name, height, width):
    y, psi = latents(height, width, seed=height * width)
    stream, crc, y_hat = encode(wavefront(name), y, psi)
    decoded, decoded_crc = decode(wavefront(name), stream, psi)
    assert crc == decoded_crc
    np.testing.assert_array_equal(decoded, y_hat)
    # One position a step: the order of the symbols differs, what they are does not.
    raster = wavefront(name, steepness=RASTER)
    raster_stream, _, raster_y_hat = encode(raster, y, psi)
    np.testing.assert_array_equal(raster_y_hat, y_hat)
    np.testing.assert_array_equal(decode(raster, raster_stream, psi)[0], y_hat)
    # With all of y known, the network computes the same means for all positions at once.
    mean, _ = network(name)(np.round(y_hat.astype(np.float64) * 2**BITS), psi)
    mean = mean.numpy() * 2.0**-BITS
    expected = (np.round(y.numpy().astype(np.float64) - mean) + mean).astype(np.float32)
    np.testing.assert_array_equal(y_hat, expected)


def test_symbols_depend_on_the_context():
    """The tests above would pass with a network that ignores y."""
    y, psi = latents(5, 8)
    for name in CONTEXTS:
        _, _, with_context = encode(wavefront(name), y, psi)
        mean, _ = network(name)(tf.zeros([1, 5, 8, M]), psi)
        mean = mean.numpy() * 2.0**-BITS
        without = np.round(y.numpy() - mean) + mean
        assert np.mean(np.abs(with_context - without) > 1e-3) > 0.5


def test_masked_taps_have_no_part_in_coding():
    y, psi = latents(4, 6)
    tf.keras.utils.set_random_seed(1)
    masked = transforms.build(CONTEXTS["MaskedContext"])
    masked(y)
    outputs = []
    for value in (0.0, 1e6):
        kernel = masked.layers[0].kernel
        dead = np.ones([5, 5, 1, 1], np.float32)
        dead.reshape(-1)[:12] = 0
        kernel.assign(np.where(dead, value, kernel.numpy()))
        builder = integer_builder.Builder()
        converted = contract.integers(masked, builder, builder.input(0, M, BITS, 2.0**24))
        whole, = builder.network(converted)(tf.round(y * 2**BITS))
        outputs.append((masked(y).numpy(), whole.numpy()))
        assert builder.network(converted).ops[2].kernel.shape == (2 * M, 12 * M)
    for a, b in zip(*outputs):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2e9])
def test_latents_that_are_not_finite_are_refused(value):
    y, psi = latents(3, 4)
    y = tf.tensor_scatter_nd_update(y, [[0, 1, 1, 2]], [value])
    with pytest.raises(CodingError):
        encode(wavefront("MaskedContext"), y, psi)


def test_values_outside_of_the_tables_survive():
    y, psi = latents(4, 5)
    far = np.where(np.random.default_rng(5).random(y.shape) < 0.1, 50 * y.numpy(), y.numpy())
    stream, _, y_hat = encode(wavefront("MaskedContext"), tf.constant(far), psi)
    assert np.max(np.abs(y_hat)) > 300
    np.testing.assert_array_equal(decode(wavefront("MaskedContext"), stream, psi)[0], y_hat)


def test_a_damaged_stream_ends():
    y, psi = latents(5, 8)
    coding = wavefront("MaskedContext")
    stream, crc, y_hat = encode(coding, y, psi)
    rng = np.random.default_rng(0)
    for _ in range(30):
        damaged = bytearray(stream)
        damaged[rng.integers(len(stream))] ^= 1 << rng.integers(8)
        try:
            decoded, decoded_crc = decode(coding, bytes(damaged), psi)
        except CodingError:
            continue
        assert (decoded_crc == crc) == np.array_equal(decoded, y_hat)


def test_one_trace_serves_all_sizes():
    coding = wavefront("MaskedContext")
    for height, width in SIZES:
        y, psi = latents(height, width)
        decode(coding, encode(coding, y, psi)[0], psi)
    assert coding._encode.experimental_get_tracing_count() == 1
    assert coding._decode.experimental_get_tracing_count() == 1
