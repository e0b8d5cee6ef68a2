"""Models with other densities, scales, pixels and grids than the zoo's own: they code as all do."""

import functools
import inspect

import numpy as np
import pytest
import tensorflow as tf

from common import data, export, padding, quantizers, range_coding, tiles
from common.ans import AnsStack
from common.errors import ConversionError, UserError
from common.objectives import Objective
from hific.mixture import HiFiCMixture
from mshyper.bits_back import BitsBackHyperprior
from tests.helpers import small_mixture, small_models

OPTIONS = dict(
    density=dict(num_filters=(3, 3, 3, 3)), scale_output="scale", use_offset="stored",
    pixel_range=(0, 1))
MODELS = {
    "mean_scale": OPTIONS,
    "joint_ar": OPTIONS,
    "scale_only": dict(OPTIONS, scale_output="exp_index", pixel_range=(-1.0, 1.0)),
    "logistic": dict(scale_output="scale", density=dict(num_filters=(3, 3, 3), last_factor=True)),
}


@functools.cache
def make(name):
    """As `small_models.make`, with medians that are no function of the density."""
    model = small_models.make(name, **MODELS[name])
    if model.z_prior.offset.numpy().any():
        return model
    model.z_prior.offset.assign(np.random.default_rng(2).uniform(-0.5, 0.5, 10))
    model.prepare_coding()
    return model


@pytest.fixture(scope="module")
def photograph():
    return data.find("photos/validation")[0].read()


@pytest.mark.parametrize("name", MODELS)
def test_files_hold_the_latents_at_the_stated_rate(name, photograph):
    model = make(name)
    latents = model.infer(small_models.picture(photograph, 200, 320))
    generated = model.generate(latents, quantizers.Round())
    stream, crc = small_models.encode(model, latents)
    decoder = range_coding.RangeDecoder(model.tables, stream)
    decoded = model.decode(decoder, 200, 320)
    assert decoder.crc == crc
    for key, expected in generated.latents.items():
        assert np.std(expected) > 0.5
        assert np.mean(np.abs(decoded[key] - expected) > 1e-3) < (
            0.05 if name == "joint_ar" else 1e-3)
    # What was decoded is coded to the same file.
    assert small_models.encode(model, decoded) == (stream, crc)
    # Both of the same latents: here and there a context rounds otherwise.
    bits = sum(float(b) for b in model.generate(decoded, quantizers.Round()).bits.values())
    assert bits > 8000
    assert abs(len(stream) - bits / 8) < 0.001 * bits / 8 + 20


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_every_weight(name, photograph):
    model, x = make(name), small_models.picture(photograph, 64, 96)
    with tf.GradientTape() as tape:
        generated = model.generate(
            model.infer(x), quantizers.UniformNoise(tf.constant([1, 2])), training=True)
        loss = Objective(0.01)(x, generated)["rd_loss"]
    weights = model.trainable_variables
    assert {weight.ref() for weight in model.z_prior.trainable_variables} <= {
        weight.ref() for weight in weights}
    for weight, gradient in zip(weights, tape.gradient(loss, weights)):
        assert np.all(np.isfinite(gradient)) and np.any(gradient.numpy() != 0), weight.name


@pytest.mark.parametrize("name", ["mean_scale", "scale_only", "logistic"])
def test_integer_networks_pick_the_entries_of_the_floats(name, photograph):
    model = small_models.make(name, **MODELS[name])
    z = tf.round(model.infer(small_models.picture(photograph, 512, 512))["z"])
    # Over all of the table, and beyond its lower end.
    small_models.standardize(model.hyper_synthesis, lambda: model.hyper_synthesis(z), 1.5)
    _, bias = small_models.kernel_and_bias(model.hyper_synthesis)
    bias.assign_add(tf.fill(bias.shape, 1.5))
    model.prepare_coding()
    index = model.networks["hyper_synthesis"](z)[-1].numpy()
    psi = model.hyper_synthesis(z + model.z_prior.offset)
    floats = np.round(model.y_prior.table.index(psi[..., -12:]))
    assert len(np.unique(floats)) > 30
    assert np.mean(index == floats) >= 0.998 and np.max(np.abs(index - floats)) <= 1


def test_steps_in_tiles_are_the_same(photograph, monkeypatch):
    model = make("mean_scale")
    latents = model.infer(small_models.picture(photograph, 255, 257))
    whole = small_models.encode(model, latents)
    monkeypatch.setattr(tiles, "LATENT_SIDE", 8)
    assert small_models.encode(model, latents) == whole


def test_bits_back_with_another_density(photograph):
    cls, config = EVERY["bits_back"]
    tf.keras.utils.set_random_seed(0)
    model = cls(**config, replay_steps=2, pixel_range=(0, 1),
                density=dict(num_filters=(3, 3, 3), last_factor=True))
    model.initialize()
    rng = np.random.default_rng(0)
    for weight in model.z_prior.trainable_variables:
        weight.assign_add(rng.normal(0, 0.3, weight.shape))
    x = small_models.picture(photograph, 67, 131)
    small_models.standardize(model.analysis, lambda: model.infer(x)["y"], 3.0)
    model.prepare_coding()
    y = np.round(model.infer(x)["y"])
    bits = rng.bytes(4000)
    stack = AnsStack(model.tables, bits)
    model.encode({"y": y}, stack)
    stack = AnsStack(model.tables, stack.finish())
    np.testing.assert_array_equal(model.decode(stack, 67, 131)["y"], y)
    assert stack.finish() == bits


def test_bits_back_is_refused_with_a_network_that_a_search_cannot_differentiate():
    cls, config = EVERY["bits_back"]
    config = {**config, "hyper_synthesis": dict(
        cls="SeparateHyperSyntheses", channels=(4, 4, config["analysis"]["channels"][-1]))}
    model = cls(**config, replay_steps=0)
    model.initialize()
    model.prepare_coding()
    model = cls(**config)
    model.initialize()
    with pytest.raises(ConversionError, match="Concat has no gradient in integers"):
        model.prepare_coding()


def test_the_context_in_integers_is_that_of_the_floats_and_causal(photograph):
    model = make("joint_ar")
    latents = model.infer(small_models.picture(photograph, 200, 320))
    z = tf.round(latents["z"])
    psi, = model.networks["hyper_synthesis"](z)
    psi, y = psi[:, :13, :20], np.round(latents["y"] * 2.0**12)
    before = [x.numpy() for x in model.networks["context"](y, psi)]
    parameters = model.entropy_parameters(tf.concat([
        model.context(tf.constant(y * 2.0**-12, tf.float32)),
        model.hyper_synthesis(z + model.z_prior.offset)[:, :13, :20]], axis=-1))
    floats = np.round(model.y_prior.table.index(parameters[..., 12:]))
    assert len(np.unique(floats)) > 5 and np.mean(before[1] == floats) >= 0.998
    y[0, 6, 9] += 2**15
    changed = np.any([np.any(a != b, axis=-1) for a, b in zip(
        before, model.networks["context"](y, psi))], axis=0).ravel()
    assert changed.any() and np.min(np.nonzero(changed)) == 6 * 20 + 10


def test_pixels_are_shown_in_the_range(photograph):
    x = small_models.picture(photograph, 45, 77)
    padded = padding.pad_to_multiple(x, 16)
    for name, low, high in (("mean_scale", 0, 1), ("scale_only", -1, 1), ("logistic", -0.5, 0.5)):
        model = make(name)
        np.testing.assert_allclose(
            model.to_latent(x), model.analysis(padded * (high - low) + low), rtol=1e-5, atol=1e-5)
        y = model.to_latent(x)
        np.testing.assert_allclose(
            model.to_image(y), (model.synthesis(y) - low) / (high - low), rtol=1e-5, atol=1e-5)
    # By default, to the bit.
    np.testing.assert_array_equal(model.to_latent(x), model.analysis(padded - 0.5))
    np.testing.assert_array_equal(model.to_image(y), model.synthesis(y) + 0.5)


def test_stored_medians_survive_export(tmp_path):
    cls, options = small_models.CLASSES["mean_scale"], MODELS["mean_scale"]
    for use_offset, stay in (("stored", True), (True, False)):
        config = dict(package="mshyper", model=dict(
            small_models.CONFIGS["mean_scale"], **{**options, "use_offset": use_offset}))
        model = export.build(cls, config)
        rng = np.random.default_rng(0)
        for weight in model.z_prior.trainable_variables:
            weight.assign_add(rng.normal(0, 0.5, weight.shape))
        medians = np.linspace(-0.45, 0.5, 10, dtype=np.float32)
        model.z_prior.offset.assign(medians)
        path = tmp_path / str(use_offset)
        export.save(model, config, path, "float16")
        loaded = export.load(cls, path)
        assert np.array_equal(loaded.z_prior.offset, medians) == stay
        tables, networks = loaded.tables, loaded.networks["hyper_synthesis"].to_arrays()
        loaded.prepare_coding()
        np.testing.assert_array_equal(loaded.tables.cdfs, tables.cdfs)
        again = loaded.networks["hyper_synthesis"].to_arrays()
        assert networks.keys() == again.keys()
        for key, array in networks.items():
            np.testing.assert_array_equal(again[key], array)


EVERY = {
    **{name: (small_models.CLASSES[name], small_models.CONFIGS[name])
       for name in ("factorized", "mean_scale", "logistic", "joint_ar")},
    "mixture": (HiFiCMixture, small_mixture.CONFIG),
    "bits_back": (BitsBackHyperprior, dict(
        small_models.hyperprior(24),
        hyper_analysis=dict(cls="HyperAnalysis", channels=(8, 8, 20)))),
}


@pytest.mark.parametrize("name", EVERY)
def test_every_model_takes_them_or_says_what_is_wrong(name):
    cls, config = EVERY[name]
    known = inspect.signature(cls).parameters
    given = {key: value for key, value in OPTIONS.items() if key in known}
    assert {"density", "pixel_range"} <= given.keys()
    assert ("scale_output" in given) == (name not in ("factorized", "bits_back"))
    model = cls(**config, **given)
    names = {weight.name.rpartition("/")[2] for weight in model.priors[0].trainable_variables}
    assert "matrix_4:0" in names and "factor_4:0" not in names
    assert "last_factor:0" in {
        weight.name.rpartition("/")[2] for weight in cls(
            **config, density=dict(last_factor=True)).priors[0].trainable_variables}
    for key, value, message in (
            ("density", dict(filters=(3,)), "density: it takes no filters"),
            ("density", dict(num_filters=0), "density: num_filters is 0; need a list"),
            ("scale_output", "variance", "'variance'; known: log_scale, scale, exp_index"),
            ("use_offset", "saved", "use_offset is 'saved'; need"),
            ("pixel_range", (1, 0), r"pixel_range is \(1, 0\); need"),
            ("pixel_range", (0, 0), "pixel_range"), ("pixel_range", (0, 1, 2), "pixel_range")):
        if key in known:
            with pytest.raises(UserError, match=message):
                export.build(cls, {"model": {**config, key: value}})
