"""HiFiC with mixtures: its rate by hand, its softmax in integers, and its files."""

import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

import mshyper.models
from common import (
    coding,
    export,
    priors,
    quantizers,
    range_coding,
    tiles,
    transforms,
)
from common.errors import UserError
from common.objectives import Objective
from hific import mixture
from tests.helpers import small_models
from tests.helpers.small_mixture import CHANNELS, COMPONENTS, CONFIG, make, photograph, picture


@pytest.fixture(scope="module")
def model():
    return make()


# --- The rate ---------------------------------------------------------------------------------


@pytest.mark.parametrize("table, density", [
    (priors.ScaleTable(), stats.norm), (priors.LogisticTable(), stats.logistic),
    (priors.ShiftedLogisticTable(4), stats.logistic)])
def test_rate_by_hand(table, density):
    value, mean = np.array([3.0, -1.0]), np.array([[0.0, -1.2], [2.6, 5.0], [3.1, -20.0]])
    logits, scale = np.array([[1.0, 0.3], [0.2, 0.0], [-3.0, 2.0]]), np.array(
        [[2.0, 0.2], [0.5, 7.0], [0.3, 1.0]])
    mass = density.cdf((value + 0.5 - mean) / scale) - density.cdf((value - 0.5 - mean) / scale)
    expected = -np.log2(np.sum(special.softmax(logits, axis=0) * mass, axis=0))
    bits = table.mixture_bits(
        *(tf.constant(x, tf.float32) for x in (value - mean, logits)),
        table.index(tf.math.log(tf.constant(scale, tf.float32))))
    np.testing.assert_allclose(bits, expected, rtol=1e-4)


def test_equal_components_have_the_rate_of_a_scale_hyperprior(model):
    config = dict(CONFIG, hyper_synthesis=dict(cls="HyperSynthesis", channels=(8, 8, CHANNELS)))
    single = mshyper.models.MeanScaleHyperprior(**config, predict_mean=False)
    several = mixture.HiFiCMixture(**CONFIG)
    for each in (single, several):
        each.initialize()
    kernel, bias = small_models.kernel_and_bias(several.hyper_synthesis)
    kernel.assign(tf.zeros_like(kernel))
    log_scales = np.linspace(-1.5, 3, CHANNELS)
    bias.assign(np.tile([np.zeros(CHANNELS), np.zeros(CHANNELS), log_scales], COMPONENTS).ravel())
    kernel, bias = small_models.kernel_and_bias(single.hyper_synthesis)
    kernel.assign(tf.zeros_like(kernel))
    bias.assign(log_scales)
    latents = model.infer(picture(64, 96))
    rates = [each.generate(latents, quantizers.Round()).bits["y"] for each in (single, several)]
    assert float(rates[0]) > 100
    np.testing.assert_allclose(*rates, rtol=1e-5)


@pytest.mark.parametrize("table", [priors.ScaleTable(), priors.LogisticTable()])
@pytest.mark.parametrize("distance", [30.0, -5000.0, 1e6])
@pytest.mark.parametrize("scale", [0.11, 1.0, 256.0])
def test_far_from_all_components_the_nearest_pulls(table, distance, scale):
    logits = tf.constant([[0.0], [50.0], [-50.0]])
    value = tf.constant([[1.0], [1.1], [1.2]]) * distance
    log_scale = tf.fill([3, 1], math.log(scale))
    with tf.GradientTape() as tape:
        tape.watch([value, logits, log_scale])
        bits = table.mixture_bits(value, logits, table.index(log_scale))
    assert 0 < float(bits) <= priors.MAX_BITS
    by_value, *others = tape.gradient(bits, [value, logits, log_scale])
    assert np.all(np.isfinite(by_value)) and all(np.all(np.isfinite(g)) for g in others)
    assert np.sum(by_value) * distance > 0 and np.all(by_value.numpy() * distance >= 0)


def test_gradient_reaches_every_trainable_weight(model):
    x = picture(64, 96)
    with tf.GradientTape() as tape:
        generated = model.generate(
            model.infer(x), quantizers.UniformNoise(tf.constant([1, 2])), training=True)
        loss = Objective(0.01)(x, generated)["rd_loss"]
    weights = model.trainable_variables
    for weight, gradient in zip(weights, tape.gradient(loss, weights)):
        assert gradient is not None, weight.name
        assert np.all(np.isfinite(gradient)) and np.any(gradient.numpy() != 0), weight.name


# --- The parts --------------------------------------------------------------------------------


def test_hyper_transforms_have_the_parameters_of_the_port():
    for config, channels, expected in (
            (dict(cls="HyperAnalysis", channels=(320, 320, 320)), 64, 5_305_280),
            (dict(cls="HiFiCMixtureHyperSynthesis"), 320, 5_354_944)):
        transform = transforms.build(config)
        transform(tf.zeros([1, 4, 4, channels]))
        assert transform.count_params() == expected


def test_integers_are_what_floats_predict(model):
    z = tf.round(model.infer(picture(128, 128))["z"])
    weights, mean, index = (np.asarray(x) for x in model.networks["hyper_synthesis"](z))
    shape = (*weights.shape[:-1], COMPONENTS, CHANNELS)
    psi = model.hyper_synthesis(z + model.z_prior.offset)
    logits, float_mean, log_scale = (
        x.numpy().reshape(shape) for x in tf.split(psi, 3, axis=-1))
    weights = weights.reshape(shape)
    assert np.min(weights) >= 0 and np.all(np.max(weights, axis=-2) == 2**14)
    softmax = special.softmax(logits, axis=-2)
    assert np.std(softmax) > 0.1
    np.testing.assert_allclose(weights / weights.sum(axis=-2, keepdims=True), softmax, atol=1e-3)
    np.testing.assert_allclose(mean.reshape(shape) / 16, float_mean, atol=0.5 / 16 + 1e-3)
    np.testing.assert_allclose(
        index.reshape(shape), model.y_prior.table.index(log_scale), atol=0.51)


@pytest.mark.parametrize("channels, more, message", [
    ((8, 8, 11), {}, "mixtures for 12 channels need a multiple of 36"),
    ((8, 8, 12), dict(likelihood="cauchy"), "cauchy.*normal, logistic")])
def test_parts_that_do_not_fit_are_refused(channels, more, message):
    config = dict(CONFIG, hyper_synthesis=dict(
        cls="HiFiCMixtureHyperSynthesis", channels=channels), **more)
    with pytest.raises(UserError, match=message):
        export.build(mixture.HiFiCMixture, {"model": config})


# --- Coding -----------------------------------------------------------------------------------


def code(model, latents, height, width):
    stream, crc = small_models.encode(model, latents)
    decoder = range_coding.RangeDecoder(model.tables, stream)
    decoded = model.decode(decoder, height, width)
    assert decoder.crc == crc
    return decoded, stream


@pytest.mark.parametrize("options, height, width", [
    ({}, 1, 1), ({}, 1, 65), ({}, 67, 131), ({}, 255, 257),
    (dict(likelihood="logistic"), 67, 131),
    (dict(scale_output="scale", pixel_range=(-1, 1), use_offset="stored"), 67, 131)])
def test_decode_returns_what_generate_uses(options, height, width):
    model = make(**options)
    latents = model.infer(picture(height, width))
    generated = model.generate(latents, quantizers.Round())
    decoded, _ = code(model, latents, height, width)
    assert decoded.keys() == generated.latents.keys()
    for name, expected in generated.latents.items():
        np.testing.assert_allclose(decoded[name], expected, atol=1e-6)
    assert np.std(decoded["y"]) > 0.5


def test_y_far_outside_of_its_mixtures_is_decoded(model):
    latents = model.infer(picture(64, 64))
    y = latents["y"].numpy()
    y.flat[[0, 5, 50]] = 1e6, -1e6, 300
    decoded, _ = code(model, dict(latents, y=y), 64, 64)
    np.testing.assert_array_equal(decoded["y"], np.round(y))


def test_parameters_in_tiles_are_the_same(model, monkeypatch):
    latents = model.infer(picture(255, 257))
    _, whole = code(model, latents, 255, 257)
    monkeypatch.setattr(tiles, "LATENT_SIDE", 8)
    _, stream = code(model, latents, 255, 257)
    assert stream == whole


@pytest.mark.parametrize("likelihood", ["normal", "logistic"])
def test_stated_rate_is_the_coded_rate(likelihood):
    model = make(likelihood)
    latents = model.infer(picture(256, 320))
    bits = sum(float(b) for b in model.generate(latents, quantizers.Round()).bits.values())
    _, stream = code(model, latents, 256, 320)
    counter = range_coding.BitCounter(model.priors)
    model.encode(latents, counter)
    assert bits > 8000
    np.testing.assert_allclose(counter.bits, bits, rtol=2e-3)
    assert abs(8 * len(stream) - bits) < 0.005 * bits + 160


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model, folder = make(), tmp_path_factory.mktemp("mixture")
    config = {"package": "hific", "module": "mixture", "model": CONFIG}
    model.fingerprint = export.save(model, config, folder / "model")
    (folder / "file.ntc").write_bytes(coding.compress(model, photograph()[:131, :67]))
    return folder


def test_damaged_files_are_refused(exported, model):
    ntc = (exported / "file.ntc").read_bytes()
    assert coding.decompress(model, ntc).shape == (131, 67, 3)
    for position in range(16, len(ntc), 37):
        damaged = bytearray(ntc)
        damaged[position] ^= 0x10
        for each in (bytes(damaged), ntc[:position]):
            with pytest.raises(UserError):
                coding.decompress(model, each)
