import functools
import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_compression as tfc

from common import quantizers
from common.errors import UserError
from tests.helpers.quantizing import OFFSET, SEED, gradients, ks_distance, latents

NOISY = [quantizers.UniformNoise, quantizers.Mixed,
         functools.partial(quantizers.SoftRound, alpha=4.0)]


@pytest.fixture(scope="module")
def value():
    return latents()


@pytest.mark.parametrize("cls", [quantizers.Round, quantizers.StraightThrough])
def test_rounding_is_on_the_shifted_grid(cls):
    value = tf.constant([-0.3, 0.7, 0.8, 1.2, 1.8])
    rate, decoded = cls()(value, OFFSET, "y")
    np.testing.assert_allclose(rate, [-0.75, 0.25, 1.25, 1.25, 2.25], atol=1e-6)
    np.testing.assert_array_equal(rate, decoded)


def test_offset_may_differ_by_element():
    rate, _ = quantizers.Round()(tf.constant([[0.4, 0.4]]), tf.constant([0.0, 0.45]), "y")
    np.testing.assert_allclose(rate, [[0.0, 0.45]])


def test_straight_through_has_the_gradient_of_the_identity(value):
    for gradient in gradients(quantizers.StraightThrough(), value):
        np.testing.assert_array_equal(gradient, tf.ones_like(value))


def test_uniform_noise_is_uniform_on_the_unit_interval():
    value = tf.zeros([2, 64, 64, 8])
    rate, decoded = quantizers.UniformNoise(SEED)(value, OFFSET, "y")
    np.testing.assert_array_equal(rate, decoded)
    noise = np.sort(rate.numpy().ravel())
    assert noise[0] >= -0.5 and noise[-1] <= 0.5
    # Kolmogorov-Smirnov distance; of 65,536 samples 0.0064 is exceeded once in a hundred seeds.
    assert np.max(np.abs(noise + 0.5 - np.arange(noise.size) / noise.size)) < 0.008


def test_noise_is_a_function_of_seed_name_and_example(value):
    def noise(seed, name):
        return quantizers.UniformNoise(tf.constant(seed)).noise(value, name).numpy()

    reference = noise([3, 4], "y")
    np.testing.assert_array_equal(reference, noise([3, 4], "y"))
    for other in (noise([3, 5], "y"), noise([2, 4], "y"), noise([3, 4], "z"), reference[::-1]):
        assert np.mean(other == reference) < 0.01
    alone = quantizers.UniformNoise(SEED).noise(value[:1], "y")
    np.testing.assert_array_equal(alone, reference[:1])


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("cls", NOISY)
def test_noise_does_not_depend_on_the_compiler(cls, jit_compile, value):
    quantizer = cls(SEED)
    compiled = tf.function(lambda v: quantizer(v, OFFSET, "y"), jit_compile=jit_compile)
    for eager, graph in zip(quantizer(value, OFFSET, "y"), compiled(value)):
        np.testing.assert_allclose(eager, graph, atol=1e-4)


def test_mixed_is_noise_for_the_rate_and_rounding_for_the_decoder(value):
    quantizer = quantizers.Mixed(SEED)
    rate, decoded = quantizer(value, OFFSET, "y")
    np.testing.assert_array_equal(rate, quantizers.UniformNoise(SEED)(value, OFFSET, "y")[0])
    np.testing.assert_allclose(decoded, quantizers.Round()(value, OFFSET, "y")[1], atol=1e-6)
    for gradient in gradients(quantizer, value):
        np.testing.assert_array_equal(gradient, tf.ones_like(value))


def test_decoders_of_latents_that_mixed_leaves_noisy_see_the_noise(value):
    quantizer, plain = quantizers.Mixed(SEED, noisy=("z",)), quantizers.Mixed(SEED)
    rate, decoded = quantizer(value, OFFSET, "z")
    np.testing.assert_array_equal(decoded, rate)
    np.testing.assert_array_equal(rate, plain(value, OFFSET, "z")[0])
    for found, expected in zip(quantizer(value, OFFSET, "y"), plain(value, OFFSET, "y")):
        np.testing.assert_array_equal(found, expected)


def test_soft_round_of_low_sharpness_is_uniform_noise(value):
    rate, decoded = quantizers.SoftRound(SEED, alpha=1e-2)(value, OFFSET, "y")
    noisy, _ = quantizers.UniformNoise(SEED)(value, OFFSET, "y")
    np.testing.assert_allclose(rate, noisy, atol=1e-4)
    np.testing.assert_allclose(decoded, noisy, atol=1e-4)


def test_soft_round_of_high_sharpness_rounds(value):
    quantizer = quantizers.SoftRound(SEED, alpha=200.0)
    rate, decoded = quantizer(value, OFFSET, "y")
    rounded, _ = quantizers.Round()(value, OFFSET, "y")
    np.testing.assert_allclose(rate, rounded + quantizer.noise(value, "y"), atol=1e-4)
    # Noise within 1/alpha of the edge of a cell is soft still.
    assert np.mean(np.abs(decoded - rounded) < 0.02) > 0.97


def test_soft_round_lies_between_and_has_a_gradient(value):
    quantizer = quantizers.SoftRound(SEED, alpha=4.0)
    rate, _ = quantizer(value, OFFSET, "y")
    soft = (rate - quantizer.noise(value, "y")).numpy()
    rounded = quantizers.Round()(value, OFFSET, "y")[1].numpy()
    low, high = np.minimum(value, rounded), np.maximum(value, rounded)
    assert np.all((soft >= low - 1e-5) & (soft <= high + 1e-5))
    for gradient in gradients(quantizer, value):
        assert np.all(gradient.numpy() > 0)


@pytest.mark.parametrize("alpha", [1.0, 14.0, 16.0, 200.0])
def test_soft_round_has_finite_gradients_on_the_edges_of_cells(alpha, monkeypatch):
    edges = np.array([-1.5, -0.5, 0.0, 0.5, 1.0, 2.5], np.float32)
    value = tf.constant(np.concatenate([
        edges, np.nextafter(edges, -9, dtype=np.float32), np.nextafter(edges, 9, dtype=np.float32)
    ]) + OFFSET)
    quantizer = quantizers.SoftRound(SEED, alpha)
    # The noise that takes a soft value back to where it was: the decoder's is inverted there too.
    monkeypatch.setattr(quantizer, "noise", lambda value, name: tf.zeros_like(value))
    for gradient in gradients(quantizer, value):
        assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("alpha", [1.0, 4.0, 8.0, 16.0, 60.0])
def test_gradients_of_soft_round_are_those_of_means_over_noise(alpha):
    # By hand, of s alone: r adds nothing on average, and by itself up to thousands.
    value = tf.reshape(tf.linspace(-3.0, 3.0, 60_001)[:-1] + OFFSET, [1, 1, 1, -1])
    quantizer = quantizers.SoftRound(SEED, alpha)
    with tf.GradientTape() as tape:
        tape.watch(value)
        soft = tfc.soft_round(value - OFFSET, alpha)
    expected = tape.gradient(soft, value)
    for gradient in gradients(quantizer, value):
        np.testing.assert_allclose(gradient, expected, rtol=1e-5)
        assert np.mean(gradient) == pytest.approx(1.0, abs=0.01)
        assert np.max(gradient) < max(2.0, alpha)


def test_gradients_of_soft_round_are_means_of_differences():
    # Of a sharpness at which 20,000 draws are enough.
    quantizer, step = quantizers.SoftRound(SEED, 4.0), 1e-2
    places = tf.reshape(tf.constant([0.1, 0.3, 0.45]) + OFFSET, [1, 1, 1, 3])
    copies = tf.tile(places, [400, 50, 1, 1])
    up, down = (quantizer(copies + sign * step / 2, OFFSET, "y")[1] for sign in (1, -1))
    np.testing.assert_allclose(
        tf.reduce_mean((up - down) / step, axis=(0, 1, 2)),
        np.ravel(gradients(quantizer, places)[1]), rtol=0.1)


@pytest.mark.parametrize("alpha", [0.5, 4.0, 12.0])
def test_soft_round_decodes_the_conditional_mean(alpha, value):
    rate, decoded = quantizers.SoftRound(SEED, alpha)(value, OFFSET, "y")
    expected = tfc.soft_round_conditional_mean(rate - OFFSET, alpha) + OFFSET
    np.testing.assert_allclose(decoded, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["UniformNoise", "Mixed", "SoftRound", "StraightThrough"])
def test_training_quantizers_by_name(name, value):
    results = [quantizers.for_training(dict(cls=name), SEED, 3, 10)(value, OFFSET, "y")
               for _ in range(2)]
    np.testing.assert_array_equal(*results)
    assert type(quantizers.for_training(dict(cls=name), SEED, 3, 10)) is getattr(quantizers, name)


@pytest.mark.parametrize("alpha, at", [
    ((1.0, 16.0), {0: 1.0, 40: 7.0, 100: 16.0}), ([2, 1], {0: 2.0, 100: 1.0}),
    (3.0, {0: 3.0, 100: 3.0})])
def test_sharpness_is_a_line_over_training(alpha, at, value):
    for step, sharpness in at.items():
        annealed = quantizers.for_training(dict(cls="SoftRound", alpha=alpha), SEED, step, 100)
        expected = quantizers.SoftRound(SEED, sharpness)(value, OFFSET, "y")
        np.testing.assert_allclose(annealed(value, OFFSET, "y"), expected, atol=1e-5)


@pytest.mark.parametrize("config, message", [
    (dict(cls="Noise"), "'Noise'.*UniformNoise"),
    (dict(), "None"),
    (dict(cls="UniformNoise", alpha=1.0), "UniformNoise.*alpha"),
    (dict(cls="SoftRound", alfa=1.0), "SoftRound.*alfa"),
    (dict(cls="SoftRound", alpha=(1.0, 0.0)), "more than 0"),
    (dict(cls="SoftRound", alpha=(1.0, 2.0, 3.0)), "SoftRound.*unpack"),
    (dict(cls="SoftRound", alpha="sharp"), "SoftRound"),
])
def test_mistakes_in_the_config_are_user_errors(config, message):
    with pytest.raises(UserError, match=message):
        quantizers.for_training(config, SEED, 0, 10)


def test_continuous_is_the_identity(value):
    for result in quantizers.Continuous()(value, OFFSET, "y"):
        np.testing.assert_array_equal(result, value)
    for gradient in gradients(quantizers.Continuous(), value):
        np.testing.assert_array_equal(gradient, tf.ones_like(value))
    assert not quantizers.Continuous.depends_on_offset


def test_a_known_grid_overrides_the_offset(value):
    offset = np.float32([0.25, 0.0, -0.5, 0.125])
    quantizer = quantizers.OnGrid(
        quantizers.Round(), {"y": tf.constant(offset), "z": 0.0},
        quantizers.UniformNoise(SEED).noise)
    expected, _ = quantizers.Round()(value, offset, "y")
    for ignored in (0.0, 0.4, tf.ones_like(value)):
        for result in quantizer(value, ignored, "y"):
            np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(quantizer(value, 0.25, "z")[0], tf.round(value))
    assert not quantizer.depends_on_offset


def test_a_known_grid_has_noise_for_latents_that_are_drawn(value):
    # Whether or not those that are quantised have some.
    for inner in (quantizers.Round(), quantizers.StochasticGumbel(0.5, tf.constant([5, 6]))):
        quantizer = quantizers.OnGrid(inner, {"y": OFFSET}, quantizers.UniformNoise(SEED).noise)
        np.testing.assert_array_equal(
            quantizers.normal_noise(quantizer, value, "z"),
            quantizers.normal_noise(quantizers.UniformNoise(SEED), value, "z"))
        np.testing.assert_array_equal(quantizer(value, 7.0, "y"), inner(value, OFFSET, "y"))


@pytest.mark.parametrize("quantizer", [
    quantizers.Continuous(), quantizers.Round(), quantizers.StraightThrough(),
    quantizers.UniformNoise(SEED), quantizers.Mixed(SEED), quantizers.SoftRound(SEED, 2.0),
    quantizers.DeterministicAnnealing(0.5), quantizers.StochasticGumbel(0.5, SEED)])
def test_those_that_are_differentiable_say_so(quantizer, value):
    for each in (quantizer, quantizers.OnGrid(quantizer, {"y": OFFSET}, noise=None)):
        with tf.GradientTape() as tape:
            tape.watch(value)
            results = each(value, OFFSET, "y")
        gradient = tape.gradient(results, value, unconnected_gradients="zero")
        assert np.any(gradient.numpy() != 0) == each.differentiable


def test_normal_noise_is_standard_normal():
    noise = quantizers.normal_noise(
        quantizers.UniformNoise(SEED), tf.zeros([2, 64, 64, 8]), "z").numpy()
    distance = ks_distance([0.5 * math.erfc(-x / math.sqrt(2)) for x in noise.ravel().tolist()])
    # Of 65,536 samples 0.0064 is exceeded once in a hundred seeds.
    assert distance < 0.008
    assert 3.5 < np.max(np.abs(noise)) < 6


def test_normal_noise_is_finite_at_the_ends(value):
    class Ends:
        def noise(self, value, name):
            return tf.where(tf.range(tf.size(value)) % 2 == 0, -0.5, 0.5)

    noise = quantizers.normal_noise(Ends(), tf.zeros([4]), "z")
    np.testing.assert_allclose(noise, [-4.89, 4.89, -4.89, 4.89], atol=0.1)


def test_normal_noise_follows_the_seed_of_the_quantizer(value):
    def noise(quantizer, name="z"):
        return quantizers.normal_noise(quantizer, value, name).numpy()

    other_seed = tf.constant([3, 5])
    reference = noise(quantizers.UniformNoise(SEED))
    same = quantizers.StochasticGumbel(0.5, SEED)
    for quantizer in (same, quantizers.SoftRound(SEED, 4.0), quantizers.StraightThrough(SEED)):
        np.testing.assert_array_equal(noise(quantizer), reference)
    always = noise(quantizers.Round())
    np.testing.assert_array_equal(always, noise(quantizers.StraightThrough()))
    for other in (noise(quantizers.UniformNoise(other_seed)), always,
                  noise(quantizers.UniformNoise(SEED), "y"), reference[::-1]):
        assert np.mean(other == reference) < 0.01
