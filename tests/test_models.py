"""The four verbs of every model: infer, generate, encode, decode."""

import numpy as np
import pytest
import tensorflow as tf

from common import padding, quantizers, range_coding, weights
from common.errors import CodingError
from common.objectives import Objective
from tests.helpers.small_models import CLASSES, CONFIGS, encode, make, picture, shared

SIZES = [(1, 1), (1, 65), (67, 131)]


@pytest.fixture(params=list(CONFIGS))
def model(request):
    return shared(request.param)


@pytest.fixture
def mean_scale():
    return shared("mean_scale")


def test_a_context_that_adds_to_psi_starts_as_the_hyperprior(photo):
    hyperprior = shared("mean_scale")
    joint = CLASSES["joint_add_psi"](**CONFIGS["joint_add_psi"])
    x = picture(photo, 64, 96)
    joint(x)
    common = weights.named({name: part for name, part in weights.parts(joint).items()
                            if name in weights.parts(hyperprior)})
    for name, weight in weights.named(weights.parts(hyperprior)).items():
        common[name].assign(weight)
    ours, theirs = joint(x), hyperprior(x)
    np.testing.assert_allclose(ours.element_bits["y"], theirs.element_bits["y"], atol=1e-3)
    np.testing.assert_allclose(ours.x_hat, theirs.x_hat, atol=1e-5)


@pytest.mark.parametrize("height, width", [*SIZES, (255, 257)])
def test_decode_returns_what_generate_uses(model, photo, height, width):
    x = picture(photo, height, width)
    latents = model.infer(x)
    generated = model.generate(latents, quantizers.Round())
    stream, crc = encode(model, latents)
    coder = range_coding.RangeDecoder(model.tables, stream)
    decoded = model.decode(coder, height, width)
    assert coder.crc == crc
    assert decoded.keys() == generated.latents.keys() == latents.keys()
    for name, expected in generated.latents.items():
        # Means are integers when coding and floats here. Rarely they round y to two neighbours,
        # and with a context of random weights all that follows.
        error = np.abs(decoded[name] - expected)
        assert np.mean(error > 1e-3) < (0.05 if model.context is not None else 1e-3)
        assert np.std(expected) > 0.5  # not all alike
    assert np.mean(np.abs(model.to_image(decoded["y"]) - generated.x_hat)) < 2e-3


@pytest.mark.parametrize("cls", [
    quantizers.Round, quantizers.StraightThrough, lambda: quantizers.Mixed(tf.constant([1, 2]))])
def test_generate_returns_what_it_quantised_and_on_which_grid(model, photo, cls):
    latents = model.infer(picture(photo, 67, 131))
    generated = model.generate(latents, cls())
    assert generated.latents.keys() == generated.offsets.keys() == latents.keys()
    for name, value in latents.items():
        steps = generated.latents[name] - generated.offsets[name]
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
        # In a context model y is rounded after the predicted mean has followed it.
        assert np.max(np.abs(generated.latents[name] - value)) < 0.501
        assert np.std(steps) > 0.5
    np.testing.assert_array_equal(model.to_image(generated.latents["y"]), generated.x_hat)


def test_latents_have_the_stated_sizes(model, photo):
    shapes = {name: value.shape for name, value in model.infer(picture(photo, 67, 131)).items()}
    assert shapes.pop("y") == (1, 5, 9, 12)
    assert shapes in ({}, {"z": (1, 2, 3, 10)})
    for height, width in SIZES:
        for name, value in model.infer(picture(photo, height, width)).items():
            assert model.latent_size(height, width, name) == value.shape[1:3]
    assert model.latent_size(67, 131) == (5, 9)


def test_stated_rate_is_the_coded_rate(model, photo):
    x = picture(photo, 256, 320)
    latents = model.infer(x)
    bits = sum(float(b) for b in model.generate(latents, quantizers.Round()).bits.values())
    stream, _ = encode(model, latents)
    assert bits > 8000
    counter = range_coding.BitCounter(model.priors)
    model.encode(latents, counter)
    np.testing.assert_allclose(counter.bits, bits, rtol=1e-3)
    assert abs(8 * len(stream) - bits) < 0.005 * bits + 32


def test_rates_of_a_batch_are_those_of_its_images(model, photo):
    x = tf.concat([picture(photo, 64, 64), picture(photo[::-1], 64, 64)], axis=0)
    both = model(x)
    singles = [model(x[i:i + 1]) for i in (0, 1)]
    for name, bits in both.bits.items():
        assert bits.shape == (2,) and bits.dtype == tf.float32
        np.testing.assert_allclose(bits, [float(s.bits[name]) for s in singles], rtol=1e-4)
        assert bits[0] != bits[1]
    np.testing.assert_allclose(both.x_hat[1], singles[1].x_hat[0], atol=1e-4)


@pytest.mark.parametrize("height, width", SIZES)
def test_call_crops_to_the_image(model, photo, height, width):
    x = picture(photo, height, width)
    generated = model(x)
    assert generated.x_hat.shape == x.shape
    whole = model.generate(model.infer(x), quantizers.Round())
    assert whole.x_hat.shape == (1, -(-height // 16) * 16, -(-width // 16) * 16, 3)
    np.testing.assert_array_equal(generated.x_hat, padding.crop_to(whole.x_hat, x))


def test_gradient_reaches_every_trainable_weight(model, photo):
    x = picture(photo, 64, 96)
    with tf.GradientTape() as tape:
        generated = model.generate(
            model.infer(x), quantizers.UniformNoise(tf.constant([1, 2])), training=True)
        loss = Objective(0.01)(x, generated)["rd_loss"]
    weights = model.trainable_variables
    names = {weight.name for weight in weights}
    for prior in model.priors:  # the densities must not be forgotten by Keras
        if isinstance(prior, tf.keras.layers.Layer):
            assert {weight.name for weight in prior.trainable_variables} <= names
    for weight, gradient in zip(weights, tape.gradient(loss, weights)):
        assert gradient is not None, weight.name
        assert np.all(np.isfinite(gradient)) and np.any(gradient.numpy() != 0), weight.name


def test_a_smaller_offset_between_latent_and_mean_is_cheaper(mean_scale, photo):
    # y itself is costly; y at its predicted mean costs less than anywhere else.
    latents = mean_scale.infer(picture(photo, 64, 64))
    far = mean_scale.generate(latents, quantizers.Round()).bits["y"]

    class Means(quantizers.Round):
        def __call__(self, value, offset, name):
            return super().__call__(offset + tf.zeros_like(value) if name == "y" else value,
                                    offset, name)

    assert float(mean_scale.generate(latents, Means()).bits["y"]) < 0.8 * float(far)


def test_a_differentiable_rate_uses_scales_between_the_table_entries(mean_scale, photo):
    latents, rounding = mean_scale.infer(picture(photo, 64, 64)), quantizers.Round()
    stored = mean_scale.generate(latents, rounding).bits
    assert float(mean_scale.generate(latents, rounding, training=True).bits["y"]) == float(
        stored["y"])
    rounding.differentiable = True
    continuous = mean_scale.generate(latents, rounding).bits
    assert float(stored["z"]) == float(continuous["z"])
    assert float(stored["y"]) != float(continuous["y"])
    np.testing.assert_allclose(stored["y"], continuous["y"], rtol=0.01)


@pytest.mark.parametrize("name, same", [("scale_only", True), ("mean_scale", False)])
def test_only_the_scale_hyperprior_ignores_the_sign_of_y(photo, name, same):
    model, x = make(name), picture(photo, 64, 64)
    before = model.infer(x)
    for weight in model.analysis.layers[-1].trainable_weights:
        weight.assign(-weight)
    after = model.infer(x)
    np.testing.assert_array_equal(after["y"], -before["y"])
    assert np.allclose(after["z"], before["z"], atol=1e-5) == same


def test_scale_only_rounds_to_whole_numbers(photo):
    y = shared("scale_only")(picture(photo, 64, 64)).latents["y"]
    np.testing.assert_array_equal(y, np.round(y))


def test_offsets_follow_the_weights():
    model = make("factorized")
    before = model.prior.offset.numpy()
    for weight in model.prior.trainable_variables:
        if "bias" in weight.name:
            weight.assign_add(tf.fill(weight.shape, 0.2))
    model.update_offsets()
    assert np.all(model.prior.offset.numpy() != before)


def test_impossible_latents_are_refused(model, photo):
    latents = model.infer(picture(photo, 64, 64))
    for value in (np.nan, np.inf, 2e9):
        damaged = dict(latents, y=latents["y"] * value)
        with pytest.raises(CodingError):
            encode(model, damaged)
