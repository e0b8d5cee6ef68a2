import math

import numpy as np
import pytest
import tensorflow as tf

from common import quantizers
from tests.helpers.quantizing import OFFSET, SEED, gradients, ks_distance, latents

ANNEALED = {
    "DeterministicAnnealing": quantizers.DeterministicAnnealing,
    "StochasticGumbel": lambda temperature: quantizers.StochasticGumbel(temperature, SEED),
}
annealed = pytest.mark.parametrize("cls", ANNEALED.values(), ids=ANNEALED)


@pytest.fixture(scope="module")
def value():
    return latents()


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def chance_of_upper(f, temperature):
    """P(upper) of SGA as Yang et al. 2020 have it, without atanh."""
    upper = (f / (2 - f)) ** (1 / (2 * temperature))
    lower = ((1 - f) / (1 + f)) ** (1 / (2 * temperature))
    return upper / (upper + lower)


def logistic_noise(quantizer, value):
    """The difference of two Gumbel variables that SGA has for each element."""
    u = np.clip(quantizer.noise(value, "y").numpy().astype(np.float64) + 0.5, 2**-24, 1 - 2**-24)
    return np.log(u / (1 - u))


def relaxed(quantizer, value, temperature):
    """What `quantizer` makes of a float64 array within the cell from 0 to 1, in closed form."""
    odds = (np.arctanh(value) - np.arctanh(1 - value)) / temperature
    if not isinstance(quantizer, quantizers.StochasticGumbel):
        return sigmoid(odds)
    return sigmoid((odds + logistic_noise(quantizer, tf.constant(value, tf.float32))) / temperature)


@pytest.mark.parametrize("temperature", [0.5, 0.25, 0.123])
@pytest.mark.parametrize("f", [0.1, 0.35, 0.5, 0.58, 0.8])
def test_gumbel_samples_have_the_published_chances(f, temperature):
    value = tf.fill([1, 100, 100, 10], -2.0 + f + OFFSET)
    sample, decoded = quantizers.StochasticGumbel(temperature, SEED)(value, OFFSET, "y")
    np.testing.assert_array_equal(sample, decoded)
    upper = np.mean(sample.numpy() - OFFSET > -1.5)
    expected = chance_of_upper(f, temperature)
    # 4.5 standard deviations are exceeded once in 150,000 seeds, and f is known to 2^-23.
    assert abs(upper - expected) < 4.5 * math.sqrt(expected * (1 - expected) / 1e5) + 1e-6


def test_gumbel_samples_are_relaxed_with_the_same_temperature():
    temperature, f = 0.5, 0.35
    value = tf.fill([1, 64, 64, 16], f)
    r = quantizers.StochasticGumbel(temperature, SEED)(value, 0.0, "y")[0].numpy()
    r = np.clip(r.astype(np.float64), 1e-6, 1 - 1e-6)
    odds = (math.atanh(f) - math.atanh(1 - f)) / temperature
    # A binary concrete variable: its logit times the temperature, less the odds, is logistic. Of
    # 65,536 samples the distance 0.0064 is exceeded once in a hundred seeds.
    assert ks_distance(sigmoid(temperature * np.log(r / (1 - r)) - odds)) < 0.008


@annealed
@pytest.mark.parametrize("temperature", [0.5, 0.123, 1e-3, 1e-8])
def test_annealed_values_lie_between_their_grid_points(cls, temperature, value):
    mixed, decoded = cls(temperature)(value, OFFSET, "y")
    np.testing.assert_array_equal(mixed, decoded)
    r = mixed - (tf.floor(value - OFFSET) + OFFSET)
    assert np.all((r >= -1e-6) & (r <= 1 + 1e-6))
    if temperature == 0.5:  # and are not all hard
        assert np.mean((r > 0.05) & (r < 0.95)) > 0.2


@annealed
def test_cold_annealing_is_hard_and_finite(cls):
    edges = np.arange(-2, 2.5, 0.25, np.float32)
    cells = np.concatenate([
        edges, np.nextafter(edges, -9, dtype=np.float32), np.nextafter(edges, 9, dtype=np.float32)])
    value = tf.constant(np.broadcast_to(cells, [50, cells.size]))
    mixed, _ = cls(1e-8)(value, 0.0, "y")
    assert np.all(np.isfinite(mixed))
    halves = np.abs(value - np.floor(value) - 0.5) < 1e-3  # there alone either point may follow
    np.testing.assert_allclose(tf.boolean_mask(mixed, ~halves), np.round(value)[~halves], atol=1e-6)
    with tf.GradientTape() as tape:
        tape.watch(value)
        total = tf.reduce_sum(cls(1e-8)(value, 0.0, "y")[0])
    gradient = tape.gradient(total, value).numpy()
    assert np.all(np.isfinite(gradient)) and np.all((gradient >= 0) & (gradient <= 50))


@annealed
@pytest.mark.parametrize("temperature", [0.5, 0.2, 0.123])
def test_annealed_values_are_the_closed_form(cls, temperature):
    quantizer, f = cls(temperature), np.linspace(0.001, 0.999, 999)
    mixed, _ = quantizer(tf.constant(f, tf.float32), 0.0, "y")
    # The noise is multiplied by the sharpness, and so are the last bits of f.
    np.testing.assert_allclose(mixed, relaxed(quantizer, f, temperature), atol=1e-4)


@annealed
def test_annealed_values_move_with_their_grid(cls):
    quantizer = cls(0.3)
    steps = np.random.default_rng(0).integers(-300, 300, (2, 4, 4, 3))
    value = tf.constant(steps / 64, tf.float32)  # exact with all offsets below
    here, _ = quantizer(value, 0.0, "y")
    for offset in (0.25, -3.5, np.float32([0.125, 0.0, 1.5])):
        there, _ = quantizer(value + offset, tf.constant(offset, tf.float32), "y")
        np.testing.assert_allclose(there, here + offset, atol=1e-6)
    elsewhere, _ = quantizer(value, 0.25, "y")
    assert np.max(np.abs(elsewhere - here)) > 0.1


@annealed
@pytest.mark.parametrize("temperature", [0.5, 0.123])
def test_annealed_gradients_are_those_of_the_closed_form(cls, temperature):
    quantizer, h = cls(temperature), 1e-6
    f = np.linspace(quantizers.DeterministicAnnealing.margin + 1e-3, 0.5, 200)
    f = np.concatenate([f, 1 - f])
    value = tf.constant(f, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(value)
        total = tf.reduce_sum(quantizer(value, 0.0, "y")[0])
    up, down = (relaxed(quantizer, f + move, temperature) for move in (h, -h))
    expected = np.minimum((up - down) / (2 * h), quantizer.steepest)
    assert np.max(expected) > 1
    np.testing.assert_allclose(tape.gradient(total, value), expected, rtol=2e-2, atol=1e-3)


@annealed
@pytest.mark.parametrize("temperature", [0.5, 0.2])
def test_whole_numbers_keep_a_gradient(cls, temperature):
    # The gradient at the margin stands for those beyond, and has no singularity.
    quantizer = cls(temperature)
    margin = quantizer.margin

    def gradient(values):
        value = tf.constant(np.tile(np.float32(values), [40, 1]))
        with tf.GradientTape() as tape:
            tape.watch(value)
            total = tf.reduce_sum(quantizer(value + OFFSET, OFFSET, "y")[0])
        return tape.gradient(total, value).numpy()

    within = gradient([-1.0, 0.0, 0.0, 3.0])
    # Noise far from the odds leaves none, as everywhere.
    assert np.all(np.isfinite(within)) and np.mean(within > 0) > 0.95
    assert np.max(within) <= quantizer.steepest
    for whole, near, at in ((0, 1e-3, margin), (5, 9e-3, margin), (0, 1 - 1e-3, 1 - margin)):
        np.testing.assert_allclose(gradient([whole + near]), gradient([at]), rtol=0.02)
    np.testing.assert_allclose(gradient([4.0]), gradient([margin]), rtol=0.02)
    if temperature == 0.2:  # at 0.5 the weight is all but linear there
        assert np.mean(gradient([2 * margin]) > 1.5 * gradient([margin])) > 0.9


@annealed
@pytest.mark.parametrize("temperature", [0.5, 0.1, 1e-2, 1e-4, 1e-8])
def test_annealed_gradients_are_bounded(cls, temperature):
    f = np.concatenate([np.linspace(0, 1, 1001), np.logspace(-9, -2, 50), 0.5 + np.logspace(
        -9, -3, 50)])
    for gradient in gradients(cls(temperature), tf.constant(f + OFFSET, tf.float32)):
        assert np.all((gradient >= 0) & (gradient <= quantizers.DeterministicAnnealing.steepest))
    if temperature == 1e-2:  # so that the bound is what holds them
        assert np.max(gradient) == quantizers.DeterministicAnnealing.steepest


@annealed
def test_annealing_sends_no_gradient_to_the_grid(cls, value):
    offset = tf.fill([4], OFFSET)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([value, offset])
        total = tf.reduce_sum(cls(0.5)(value, offset, "y")[0])
    assert tape.gradient(total, offset) is None
    assert np.mean(tape.gradient(total, value).numpy() > 0.01) > 0.5


def test_gumbel_noise_is_a_function_of_seed_name_and_example(value):
    def sample(seed, name, value=value):
        return quantizers.StochasticGumbel(0.5, tf.constant(seed))(value, OFFSET, name)[0].numpy()

    reference = sample([3, 4], "y")
    np.testing.assert_array_equal(reference, sample([3, 4], "y"))
    for other in (sample([3, 5], "y"), sample([2, 4], "y"), sample([3, 4], "z")):
        assert np.mean(np.abs(other - reference) < 1e-6) < 0.2  # many are close to a grid point
    np.testing.assert_array_equal(sample([3, 4], "y", value[:1]), reference[:1])
    alike = sample([3, 4], "y", tf.tile(value[:1], [2, 1, 1, 1]))
    assert np.mean(np.abs(alike[0] - alike[1]) < 1e-6) < 0.2


@pytest.mark.parametrize("jit_compile", [False, True])
def test_gumbel_samples_do_not_depend_on_the_compiler(jit_compile, value):
    def sample(temperature):
        return quantizers.StochasticGumbel(temperature, SEED)(value, OFFSET, "y")[0]

    compiled = tf.function(sample, jit_compile=jit_compile)
    np.testing.assert_allclose(compiled(tf.constant(0.5)), sample(0.5), atol=1e-4)
