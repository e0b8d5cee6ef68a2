import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_compression as tfc
from scipy import special, stats

from common import integer_builder, priors
from common.errors import ConversionError, UserError
from tests.helpers.small_priors import SCALES, TABLE, density


@pytest.fixture(scope="module", params=range(3))
def prior(request):
    return density(seed=request.param)


# --- Learned density --------------------------------------------------------------------------


def cumulative(prior, value):
    """The density's own cumulative and its complement, at value [..., channels]."""
    base, value = prior._noisy.base, tf.constant(value, tf.float32)
    return base.cdf(value).numpy(), base.survival_function(value).numpy()


def test_weights_of_the_density_are_trainable():
    # Three filters a layer: 3 + 9 + 3 matrix entries, 3 + 3 + 1 biases, 3 + 3 factors.
    sizes = [tf.size(weight).numpy() for weight in priors.DeepFactorized(5).trainable_variables]
    assert sum(sizes) == 5 * (15 + 7 + 6)


def test_bits_are_those_of_the_pmf(prior):
    pmfs, minima = prior.pmfs()
    for channel, (pmf, minimum) in enumerate(zip(pmfs, minima)):
        grid = minimum + np.arange(len(pmf)) + prior.offset.numpy()[channel]
        value = np.repeat(grid[:, None], prior.channels, axis=1).astype(np.float32)
        bits = prior.bits(value).numpy()[:, channel]
        np.testing.assert_allclose(
            2.0**-bits, np.maximum(pmf, 2.0**-priors.MAX_BITS), rtol=1e-3)
        below, _ = cumulative(prior, value - 0.5)
        up_to, _ = cumulative(prior, value + 0.5)
        np.testing.assert_allclose(pmf, (up_to - below)[:, channel], atol=1e-6)


@pytest.mark.parametrize("value", [-1e30, -2.0**23, 2.0**23 + 1, 3e38])
def test_a_value_far_beyond_the_density_is_pulled_in(value):
    # With value - 1/2 and value + 1/2 one float, gradients were not numbers.
    prior = density(seed=0)
    x = tf.fill([1, prior.channels], value)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        bits = prior.bits(x)
        total = tf.reduce_sum(bits)
    assert np.all(bits == priors.MAX_BITS)
    for weight in prior.trainable_variables:
        assert np.all(np.isfinite(tape.gradient(total, weight)))
    assert np.all(np.isfinite(tape.gradient(total, x)))


def test_pmf_sums_to_one_less_the_tails(prior):
    for pmf in prior.pmfs()[0]:
        assert 1 - priors.TAIL_MASS - 1e-5 < np.sum(pmf, dtype=np.float64) < 1 + 1e-5


def test_tables_end_where_the_tails_begin(prior):
    pmfs, minima = prior.pmfs()
    maxima = minima + [len(pmf) - 1 for pmf in pmfs]
    grid = np.stack([minima - 0.5, maxima + 0.5, minima + 1.5, maxima - 1.5]) + prior.offset
    below, above = cumulative(prior, grid)
    assert np.all(below[0] + above[1] <= priors.TAIL_MASS * 1.001)
    # One symbol less at an end would cut off more than its half of the tails.
    assert np.all(below[2] > priors.TAIL_MASS / 2 * 0.999)
    assert np.all(above[3] > priors.TAIL_MASS / 2 * 0.999)


def test_update_offset_centres_the_grid_on_the_median(prior):
    offset = prior.offset.numpy()
    assert np.all(np.abs(offset) <= 0.5) and np.any(np.abs(offset) > 0.05)
    grid = np.arange(-300, 301)[:, None] + offset
    below, _ = cumulative(prior, grid)
    np.testing.assert_allclose(np.min(np.abs(below - 0.5), axis=0), 0, atol=1e-5)


def test_offset_stays_zero_where_it_is_not_wanted():
    prior = priors.DeepFactorized(3, use_offset=False)
    for weight in prior.trainable_variables:
        weight.assign_add(tf.ones_like(weight) * 0.3)
    prior.update_offset()
    np.testing.assert_array_equal(prior.offset, np.zeros(3))


def by_hand(prior, value):
    """Logits of the cumulative at value [N, channels] by the weights' names, in float64."""
    weights = {weight.name.rpartition("/")[2].partition(":")[0]: weight.numpy().astype(np.float64)
               for weight in prior.trainable_variables}
    layers = sum(name.startswith("matrix") for name in weights)
    logits = np.float64(value).T[:, None]
    for k in range(layers):
        logits = np.log1p(np.exp(weights[f"matrix_{k}"])) @ logits + weights[f"bias_{k}"]
        if k < layers - 1:
            logits += np.tanh(weights[f"factor_{k}"]) * np.tanh(logits)
    if "last_factor" in weights:
        logits += np.tanh(weights["last_factor"])[:, None, None] * np.tanh(logits)
    return logits[:, 0].T


DENSITIES = [dict(), dict(num_filters=(3, 3, 3, 3)), dict(num_filters=[3, 3, 3], last_factor=True),
             dict(num_filters=(2,), last_factor=True)]


def any_density(cls, *args, **options):
    """A density of any shape, with weights that all matter."""
    prior, rng = cls(5, *args, **options), np.random.default_rng(3)
    for weight in prior.trainable_variables:
        weight.assign_add(rng.normal(0, 0.8, weight.shape))
    prior.update_offset()
    return prior


@pytest.mark.parametrize("options", DENSITIES)
def test_densities_of_any_shape_by_hand(options):
    prior = any_density(priors.DeepFactorized, **options)
    widths = [1, *options.get("num_filters", (3, 3)), 1]
    count = sum(a * b + b for a, b in zip(widths, widths[1:])) + sum(widths[1:-1])
    assert (sum(tf.size(weight).numpy() for weight in prior.trainable_variables)
            == 5 * (count + options.get("last_factor", False)))
    value = np.random.default_rng(0).normal(0, 6, (50, 5)).astype(np.float32)
    upper, lower = (by_hand(prior, value + side) for side in (0.5, -0.5))
    # Of both tails the one that does not cancel.
    sign = -np.sign(upper + lower)
    mass = np.abs(special.expit(sign * upper) - special.expit(sign * lower))
    np.testing.assert_allclose(
        prior.bits(value), np.minimum(-np.log2(mass), priors.MAX_BITS), rtol=1e-3, atol=1e-3)
    with tf.GradientTape() as tape:
        bits = prior.bits(value)
    for gradient in tape.gradient(bits, prior.trainable_variables):
        assert np.all(np.isfinite(gradient)) and np.any(gradient != 0)


@pytest.mark.parametrize("options", DENSITIES)
def test_pmfs_of_densities_of_any_shape_sum_to_one(options):
    both = (any_density(priors.DeepFactorized, **options),
            any_density(priors.FineFactorized, 2.0**-4, **options))
    for prior in both:
        pmfs, minima = prior.pmfs()
        for pmf in pmfs:
            assert np.sum(pmf, dtype=np.float64) == pytest.approx(1, abs=2e-4)
    assert np.any(both[0].offset != 0) and not np.any(both[1].offset)
    # Symbols of bits-back coding have the density's own cumulative, without the noise.
    edges = (minima[-1] + np.arange(len(pmf) + 1) - 0.5) * 2.0**-4
    cdf = special.expit(by_hand(both[1], np.repeat(edges[:, None], 5, axis=1))[:, -1])
    np.testing.assert_allclose(pmf, np.diff(cdf), atol=1e-5)


def test_stored_offsets_are_left_alone():
    prior, stored = priors.DeepFactorized(3, use_offset="stored"), [0.25, -0.4, 0.0]
    for weight in prior.trainable_variables:
        weight.assign_add(tf.ones_like(weight) * 0.3)
    prior.offset.assign(stored)
    prior.update_offset()
    np.testing.assert_array_equal(prior.offset, np.float32(stored))
    pmfs, minima = prior.pmfs()
    np.testing.assert_allclose(
        2.0**-prior.bits(minima + 3 + prior.offset), [pmf[3] for pmf in pmfs], rtol=1e-3)
    with pytest.raises(TypeError, match="use_offset is 'saved'; need True, False or 'stored'"):
        priors.DeepFactorized(3, use_offset="saved")


@pytest.mark.parametrize("widths", [3, (3, 0), "33", (2.5,)])
def test_widths_of_a_density_are_checked(widths):
    with pytest.raises(TypeError, match="num_filters is .*; need a list"):
        priors.DeepFactorized(3, num_filters=widths)


# --- Scale table ------------------------------------------------------------------------------


def test_pmfs_are_differences_of_the_gaussian_cumulative():
    pmfs, minima = TABLE.pmfs()
    assert len(pmfs) == len(minima) == 64
    for scale, pmf, minimum in zip(SCALES, pmfs, minima):
        distance = np.abs(minimum + np.arange(len(pmf)))  # the upper tail is exact in floats
        expected = stats.norm.sf((distance - 0.5) / scale) - stats.norm.sf((distance + 0.5) / scale)
        np.testing.assert_allclose(pmf, expected, rtol=1e-8)
        maximum = minimum + len(pmf) - 1
        outside = stats.norm.cdf((minimum - 0.5) / scale) + stats.norm.sf((maximum + 0.5) / scale)
        assert outside <= priors.TAIL_MASS
        assert np.sum(pmf) == pytest.approx(1 - outside, abs=1e-12)


def test_bits_of_a_table_entry_are_those_of_its_pmf():
    for index, (pmf, minimum) in enumerate(zip(*TABLE.pmfs())):
        value = tf.constant(minimum + np.arange(len(pmf)), tf.float32)
        bits = TABLE.bits(value, tf.constant(index, tf.float32))
        expected = np.minimum(-np.log2(pmf), priors.MAX_BITS)
        np.testing.assert_allclose(bits, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("table, distribution", [
    (priors.ScaleTable(), tfc.NoisyNormal), (priors.LogisticTable(), tfc.NoisyLogistic)])
def test_bits_and_their_gradients_are_those_of_the_noisy_distribution(table, distribution):
    value, index = np.meshgrid(
        [-200, -20.5, -3.3, -1, -0.5, -1e-3, 1e-3, 0.2, 0.5, 2, 9, 40], np.linspace(0, 63, 22))
    value, index = tf.constant(value, tf.float32), tf.constant(index, tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch((value, index))
        bits = table.bits(value, index)
        noisy = distribution(loc=0.0, scale=table._scale(index))
        expected = tfc.upper_bound(noisy.log_prob(value) / -np.log(2), priors.MAX_BITS)
    np.testing.assert_allclose(bits, expected, rtol=1e-4, atol=2e-4)
    assert np.sum(bits == priors.MAX_BITS) > 20  # and in the far tails
    for variable in (value, index):
        own, other = (tape.gradient(y, variable).numpy() for y in (bits, expected))
        assert np.all(np.isfinite(own))
        np.testing.assert_allclose(own, other, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("table", [priors.ScaleTable(), priors.LogisticTable()])
def test_a_value_beyond_float32_is_pulled_in(table):
    value = tf.constant([-1e30, -2.0**25, 2.0**25, 1e30])
    with tf.GradientTape() as tape:
        tape.watch(value)
        bits = table.bits(value, tf.constant([0.0, 63.0, 0.0, 63.0]))
    np.testing.assert_array_equal(bits, priors.MAX_BITS)
    gradient = tape.gradient(bits, value).numpy()
    assert np.all(np.isfinite(gradient)) and np.all(gradient * np.sign(value) > 0)


def test_bits_between_entries_are_those_of_the_scale_between():
    bits = float(TABLE.bits(tf.constant(1.3), TABLE.index(tf.math.log(0.7))))
    mass = stats.norm.cdf(1.8 / 0.7) - stats.norm.cdf(0.8 / 0.7)
    assert bits == pytest.approx(-math.log2(mass), rel=1e-4)


def test_index_spans_the_table():
    log_scale = tf.math.log([0.001, 0.11, SCALES[20], 256.0, 1e6])
    np.testing.assert_allclose(TABLE.index(log_scale), [0, 0, 20, 63, 63], atol=1e-4)


def test_gradient_of_the_index_pushes_back_into_the_table():
    log_scale = tf.Variable(tf.math.log([0.01, 1.0, 1000.0]))
    slope = 63 / math.log(256 / 0.11)

    def gradient(sign):
        with tf.GradientTape() as tape:
            loss = sign * tf.reduce_sum(TABLE.index(log_scale))
        return tape.gradient(loss, log_scale)

    # Descent on +index lowers log_scale: blocked below the table, allowed above it.
    np.testing.assert_allclose(gradient(1), [0, slope, slope], rtol=1e-5)
    np.testing.assert_allclose(gradient(-1), [-slope, -slope, 0], rtol=1e-5)


def test_gradient_reaches_value_and_scale():
    value, log_scale = tf.constant([0.7, -5.0]), tf.constant([0.3, 0.3])
    with tf.GradientTape() as tape:
        tape.watch([value, log_scale])
        bits = TABLE.bits(value, TABLE.index(log_scale))
    by_value, by_scale = tape.gradient(bits, [value, log_scale])
    assert by_value[0] > 0 > by_value[1]  # away from the mean is dearer
    assert by_scale[0] > 0 > by_scale[1]  # the first is within its scale, the second far outside


@pytest.mark.parametrize("value", [-30.0, 100.0, -5000.0])
def test_outliers_cost_an_escape_and_are_pulled_in(value):
    value, log_scale = tf.constant(value), tf.math.log(0.5)
    with tf.GradientTape() as tape:
        tape.watch([value, log_scale])
        bits = TABLE.bits(value, TABLE.index(log_scale))
    assert float(bits) == priors.MAX_BITS
    by_value, by_scale = tape.gradient(bits, [value, log_scale])
    assert math.isfinite(by_value) and by_value * value > 0
    assert math.isfinite(by_scale) and by_scale < 0


TABLES = {
    "scale": lambda index: 0.11 * (256 / 0.11)**(index / 63),
    "exp_index": np.log,
}
ALL_TABLES = [priors.ScaleTable, priors.LogisticTable,
              lambda output: priors.ShiftedScaleTable(4, output),
              lambda output: priors.ShiftedLogisticTable(4, output)]


@pytest.mark.parametrize("table", ALL_TABLES)
@pytest.mark.parametrize("output", TABLES)
def test_index_of_other_outputs(output, table):
    index = np.array([0.3, 1.0, 20.0, 41.7, 63.0], np.float32)
    np.testing.assert_allclose(table(output).index(TABLES[output](index)), index, rtol=1e-4)
    below, above = np.float32([-30.0, 1e6])
    np.testing.assert_allclose(table(output).index([below, above]), [0, 63], atol=1e-5)


@pytest.mark.parametrize("output, low, middle, high, pushes_back", [
    ("scale", -0.3, 1.0, 1000.0, True), ("exp_index", -90.0, 1.0, 200.0, False)])
def test_gradients_of_other_outputs(output, low, middle, high, pushes_back):
    predicted, table = tf.Variable([low, middle, high]), priors.ScaleTable(output)

    def gradient(sign):
        with tf.GradientTape() as tape:
            loss = sign * tf.reduce_sum(table.index(predicted))
        return tape.gradient(loss, predicted).numpy()

    for sign in (1, -1):
        assert np.all(np.isfinite(gradient(sign))) and sign * gradient(sign)[1] > 0
    assert gradient(1)[0] <= 1e-30 and gradient(-1)[2] == 0  # farther out there is nothing
    assert gradient(1)[2] > 0
    assert (gradient(-1)[0] < -1) == pushes_back


@pytest.mark.parametrize("table", ALL_TABLES)
@pytest.mark.parametrize("output", TABLES)
@pytest.mark.parametrize("bits", [10, 14, 20])
def test_integer_index_of_other_outputs_is_the_nearest_entry(output, table, bits):
    builder = integer_builder.Builder()
    predicted = builder.input(0, 3, bits, 2.0**28)
    index = table(output).integer_index(builder, predicted)
    assert (index.bits, index.bound, index.channels) == (0, 63, 3)
    between = TABLES[output](np.arange(63) + 0.5) * 2.0**bits
    integers = np.concatenate([
        np.round(between) + d for d in (-2, -1, 0, 1, 2)] + [
        np.round(TABLES[output](np.random.default_rng(0).uniform(0.1, 63.4, 3000)) * 2.0**bits),
        [-2.0**28, -1, 0, 2.0**28]])
    integers = np.resize(integers, [1, 7, len(integers) // 7, 3])
    found, = builder.network(index)(integers)
    with np.errstate(over="ignore"):
        expected = np.round(np.clip(
            np.exp(integers / 2.0**bits) if output == "exp_index" else
            np.log(np.maximum(integers / 2.0**bits, 0.11) / 0.11) * 63 / np.log(256 / 0.11), 0, 63))
    # Of the integers next to where two entries meet, one may go to either.
    at_an_edge = np.min(np.abs(integers[..., None] - between), axis=-1) <= 0.5
    assert 0.01 < np.mean(at_an_edge) < 0.1
    np.testing.assert_array_equal(found[~at_an_edge], expected[~at_an_edge])
    assert np.max(np.abs(found - expected)) <= 1 and len(np.unique(found)) == 64
    clear = np.abs(integers / between[0]) < 1e6
    floats = np.round(table(output).index(np.float32(integers / 2.0**bits)))
    assert np.mean((found == floats)[clear]) > 0.95


def test_integer_index_needs_fractional_bits():
    for output in TABLES:
        builder = integer_builder.Builder()
        with pytest.raises(ConversionError, match="scale_table.*3 fractional bits, too few"):
            priors.ScaleTable(output).integer_index(builder, builder.input(0, 2, 3, 2.0**20))


def test_unknown_outputs_are_refused():
    for table in (priors.ScaleTable, lambda output: priors.scale_table("logistic", 16, output)):
        with pytest.raises(UserError, match="'variance'; known: log_scale, scale, exp_index"):
            table("variance")
