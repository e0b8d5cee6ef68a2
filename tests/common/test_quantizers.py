import numpy as np
import pytest
import tensorflow as tf

from common import quantizers
from common.cli import UserError

SEED = tf.constant([3, 4])
OFFSET = 0.25
NOISY = [quantizers.UniformNoise, quantizers.Mixed, quantizers.SoftRound]


@pytest.fixture(scope="module")
def value():
    """Latents [2, 8, 8, 4] of many integer cells, none of them on the edge of one."""
    rng = np.random.default_rng(0)
    cells, inside = rng.integers(-9, 10, (2, 8, 8, 4)), rng.uniform(-0.45, 0.45, (2, 8, 8, 4))
    return tf.constant(cells + inside + OFFSET, tf.float32)


def gradients(quantizer, value):
    """d(sum of the rate's value)/d value and d(sum of the decoder's value)/d value."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(value)
        rate, decoded = (tf.reduce_sum(v) for v in quantizer(value, OFFSET, "y"))
    return tape.gradient(rate, value), tape.gradient(decoded, value)


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


@pytest.mark.parametrize("name", ["UniformNoise", "Mixed", "SoftRound", "StraightThrough"])
def test_training_quantizers_by_name(name, value):
    quantizer = quantizers.for_training(name, SEED)
    assert type(quantizer) is getattr(quantizers, name)
    same = quantizers.for_training(name, SEED)(value, OFFSET, "y")
    np.testing.assert_array_equal(quantizer(value, OFFSET, "y"), same)


def test_unknown_name_is_a_user_error():
    with pytest.raises(UserError, match="'Noise'.*UniformNoise"):
        quantizers.for_training("Noise", SEED)
