"""Models with levels: the four verbs of every package at several rates."""

import functools
import math

import numpy as np
import pytest
import tensorflow as tf

import hific.mixture
import mshyper.bits_back
from common import coding, images, methods, quantizers, range_coding, refinement, tiles
from common.ans import AnsStack
from common.coding_tables import CodingTables
from common.errors import CodingError
from common.levels import Levels
from common.objectives import Objective
from mshyper import chain
from tests.helpers import graphs, small_mixture, small_models
from tests.helpers.small_levels import COUNT, LEVELS, photograph

BITS_BACK = dict(small_models.hyperprior(24), replay_steps=2,
                 hyper_analysis=dict(cls="HyperAnalysis", channels=(8, 8, 20)))
MODELS = {
    **{name: (small_models.CLASSES[name], small_models.CONFIGS[name])
       for name in ("factorized", "mean_scale", "joint_ar", "logistic")},
    "mixture": (hific.mixture.HiFiCMixture, small_mixture.CONFIG),
    "bits_back": (mshyper.bits_back.BitsBackHyperprior, BITS_BACK),
}


def make(name, **levels):
    """A model with tables and random weights, whose latents are spread."""
    tf.keras.utils.set_random_seed(0)
    cls, config = MODELS[name]
    model, rng = cls(**config, levels={**LEVELS, **levels}), np.random.default_rng(0)
    model.initialize()
    small_models.standardize(model.analysis, lambda: model.to_latent(photograph()), 3.0)
    for weight in model.levels.trainable_weights[:2]:
        weight.assign_add(rng.normal(0, 0.1, weight.shape))
    model.prepare_coding()
    model.fingerprint = "0123456789abcdef"
    return model


@functools.cache
def shared(name):
    """A model for tests that leave its weights as they are."""
    return make(name)


@pytest.fixture(params=[name for name in MODELS if name != "bits_back"])
def model(request):
    return shared(request.param)


# --- Coding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, COUNT // 2, COUNT - 1])
@pytest.mark.parametrize("height, width", [(1, 1), (67, 131)])
def test_round_trip(model, level, height, width):
    x = photograph(height, width)
    latents = model.infer(x, level=level)
    generated = model.generate(latents, quantizers.Round())
    stream, crc = small_models.encode(model, latents)
    coder = range_coding.RangeDecoder(model.tables, stream)
    decoded = model.decode(coder, height, width)
    assert coder.crc == crc
    assert decoded.keys() == generated.latents.keys() == latents.keys()
    assert decoded["level"].dtype == latents["level"].dtype == tf.int32
    np.testing.assert_array_equal(decoded["level"], [level])
    assert small_models.encode(model, decoded) == (stream, crc)
    if model.context is None:  # whose random weights make much of another last bit
        np.testing.assert_allclose(decoded["y"], generated.latents["y"], atol=1e-3)
        x_hat = model.to_image(decoded["y"], level=decoded["level"])
        np.testing.assert_allclose(x_hat, generated.x_hat, atol=2e-3)


def test_a_file_is_all_that_decoding_needs(model):
    image = small_mixture.photograph()[:67, :131]
    for level in (0, COUNT - 1):
        ntc = coding.compress(model, image, level=level)
        decoded = coding.decode(model, ntc)
        assert int(decoded.latents["level"]) == level
        x_hat = model.to_image(decoded.latents["y"], level=tf.constant([level]))
        np.testing.assert_array_equal(
            coding.decompress(model, ntc), images.to_uint8(x_hat[0, :67, :131]))


def test_levels_give_rates_and_images_of_their_own(model):
    x = photograph()
    bits = [float(model(x, level=level).bits["y"]) for level in (0, 10, 20)]
    assert bits[0] < bits[1] < bits[2]
    latents = model.infer(x, level=20)
    low, high = (model.to_image(latents["y"], level=tf.constant([level])) for level in (0, 20))
    assert np.std(low - high) > 0.1 * np.std(low)
    np.testing.assert_array_equal(model.infer(x)["level"], [COUNT // 2])


def test_images_of_a_batch_have_levels_of_their_own(model):
    x = tf.concat([photograph(64, 64), photograph(64, 64)], axis=0)
    both = model(x, level=tf.constant([3, 17]))
    for i, level in enumerate((3, 17)):
        one = model(x[i:i + 1], level=level)
        for name, bits in both.bits.items():
            np.testing.assert_allclose(bits[i], one.bits[name][0], rtol=1e-4)
        np.testing.assert_allclose(both.x_hat[i], one.x_hat[0], atol=1e-4)


def test_without_scales_one_analysis_serves_all_levels(model):
    x = photograph()
    y = model.to_latent(x)
    for level in (0, 20):
        for name, value in model.at_level(y, level=level).items():
            np.testing.assert_array_equal(value, model.infer(x, level=level)[name])


def test_scales_by_hand():
    model, x = make("mean_scale", scales=True), photograph(64, 96)
    assert [w.shape for w in model.levels.weights[2:]] == [
        (2, n) for n in (8, 8, 8, 12, 8, 8, 8, 3)]
    before = model.infer(x, level=20)
    plain = shared("mean_scale").infer(x, level=20)
    np.testing.assert_allclose(before["y"], plain["y"], atol=1e-5)  # they begin as ones
    last = model.levels.weights[2 + 3]
    last.assign(np.stack([np.full(12, 0.5), np.full(12, 0.25)]))
    for level, logarithm in ((0, -0.25), (10, 0.0), (20, 0.75)):
        np.testing.assert_allclose(
            model.infer(x, level=level)["y"],
            math.exp(logarithm) * shared("mean_scale").infer(x, level=level)["y"], rtol=1e-4,
            atol=1e-5)


def test_scales_reach_both_transforms_in_graphs_and_tiles(monkeypatch):
    model, rng = make("mean_scale", scales=True), np.random.default_rng(0)
    image = small_mixture.photograph()[:130, :210]
    for weight in model.levels.weights[2:]:
        weight.assign(rng.normal(0, 0.3, weight.shape))
    x = image[None] / np.float32(255)
    alone = [model(x, level=level) for level in (2, 17)]
    assert np.std(alone[0].x_hat - alone[1].x_hat) > 0.1
    both = tf.function(model)(tf.repeat(x, 2, axis=0), tf.constant([2, 17]))
    for i, one in enumerate(alone):
        np.testing.assert_allclose(both.x_hat[i], one.x_hat[0], atol=1e-3)
        np.testing.assert_allclose(both.latents["y"][i], one.latents["y"][0], atol=1e-3)
    ntc = coding.compress(model, image, level=17)
    whole, latents = coding.decompress(model, ntc), coding.infer(model, image, level=17)
    monkeypatch.setattr(tiles, "SIDE", 64)
    np.testing.assert_allclose(
        coding.infer(model, image, level=17)["y"], latents["y"], atol=1e-3)
    assert np.max(np.abs(coding.decompress(model, ntc).astype(int) - whole)) <= 1
    with tf.GradientTape() as tape:
        latents = model.infer(both.x_hat, training=True, level=tf.constant([2, 17]))
        generated = model.generate(
            latents, quantizers.UniformNoise(tf.constant([1, 2])), training=True)
        loss = Objective(0.01)(both.x_hat, generated)["rd_loss"]
    for gradient in tape.gradient(loss, model.levels.trainable_weights[2:]):
        assert np.all(np.isfinite(gradient)) and np.all(gradient.numpy() != 0)


def test_graphs_of_transforms_are_for_every_level_and_size():
    model = make("mean_scale", scales=True)
    for weight in model.levels.weights[2:]:
        weight.assign(tf.random.stateless_normal(weight.shape, [0, 0], stddev=0.3))
    x = photograph(64, 96)
    cases = [(x, 2), (x, 17), (x[:, :48, :80], 2), (tf.repeat(x, 2, axis=0), tf.constant([2, 17]))]
    expected = [model(x, level=level) for x, level in cases]
    with graphs.of_programs():
        for (x, level), without in zip(cases, expected):
            with_graphs = model(x, level=level)
            np.testing.assert_allclose(
                with_graphs.latents["y"], without.latents["y"], atol=1e-3)
            np.testing.assert_allclose(with_graphs.x_hat, without.x_hat, atol=1e-3)
    # One for one level, one for several.
    assert {*model.analysis.__dict__[tiles._GRAPHS]} == {1, 2}
    assert {*model.synthesis.__dict__[tiles._GRAPHS]} == {1, 2}


def test_the_stated_rate_has_the_level_which_takes_less_than_a_byte(model):
    x = photograph()
    latents = model.infer(x, level=3)
    bits = model.generate(latents, quantizers.Round()).bits
    np.testing.assert_allclose(bits["level"], [math.log2(COUNT)])
    counter = range_coding.BitCounter(model.priors)
    model.encode(latents, counter)
    np.testing.assert_allclose(counter.bits, sum(float(b) for b in bits.values()), rtol=1e-3)
    largest = Levels(channels=1, count=201, rd_lambda=(0.0015, 0.06))
    tables = CodingTables.build([largest])
    coder = range_coding.RangeEncoder(tables)
    for _ in range(100):
        largest.encode(tf.constant([137]), coder, 0)
    assert len(coder.finish()) < 100


def test_tiles(monkeypatch):
    model, image = shared("mean_scale"), small_mixture.photograph()[:130, :210]
    whole = coding.infer(model, image, level=18)
    ntc = coding.compress(model, image, level=18)
    x_hat = coding.decompress(model, ntc)
    monkeypatch.setattr(tiles, "SIDE", 64)
    for name, value in coding.infer(model, image, level=18).items():
        np.testing.assert_allclose(value, whole[name], atol=1e-4)
    assert np.max(np.abs(coding.decompress(model, ntc).astype(int) - x_hat)) <= 1


def test_a_level_that_the_model_does_not_have_is_an_error(model):
    latents = model.infer(photograph(64, 64), level=2)
    # No encoder writes it; it is what escapes elsewhere, the symbol above the table.
    coder = range_coding.RangeEncoder(model.tables)
    number = sum(prior.distributions for prior in model.priors[:-1])
    coder._write(np.array([COUNT]), np.array([number]))
    with pytest.raises(CodingError, match=f"level {COUNT} of a model with {COUNT}"):
        model.decode(range_coding.RangeDecoder(model.tables, coder.finish()), 64, 64)
    for level in (COUNT, -1):
        with pytest.raises(CodingError, match="outside of its table"):
            small_models.encode(model, {**latents, "level": tf.constant([level])})


def test_bits_back():
    model = shared("bits_back")
    start = np.random.RandomState(1).bytes(4000)
    for level in (0, 10, 20):
        latents = model.infer(photograph(67, 131), level=level)
        stack = AnsStack(model.tables, start)
        model.encode(latents, stack)
        decoder = AnsStack(model.tables, stack.finish())
        decoded = model.decode(decoder, 67, 131)
        np.testing.assert_array_equal(decoded["level"], [level])
        np.testing.assert_array_equal(decoded["y"], np.round(latents["y"]))
        assert decoder.finish() == start and decoder.crc == stack.crc


def test_the_posterior_is_of_what_the_decoder_has(photo):
    model = shared("bits_back")
    latents = model.infer(photograph(64, 64), level=3)
    of_rounded, of_y = (model.posterior(y)["z"] for y in (tf.round(latents["y"]), latents["y"]))
    np.testing.assert_allclose(latents["z"], of_rounded, atol=1e-5)
    assert np.max(np.abs(latents["z"] - of_y)) > 1e-3


def test_chains_of_images_at_a_level(photo):
    model, sizes = shared("bits_back"), []
    pictures = [photo[:70, :90], photo[100:140, 50:100]]
    for level in (0, COUNT - 1):
        ntb, _ = chain.compress(
            model, pictures, b"payload" * 1000,
            lambda model, image, level=level: coding.infer(model, image, level))
        decoded, payload = chain.decompress(model, ntb)
        assert payload == b"payload" * 1000
        for picture, x_hat in zip(pictures, decoded, strict=True):
            latents = coding.infer(model, picture, level)
            expected = model.to_image(tf.round(latents["y"]), level=latents["level"])
            np.testing.assert_array_equal(
                x_hat, images.to_uint8(expected)[0, :picture.shape[0], :picture.shape[1]])
        sizes.append(len(ntb))
    assert sizes[0] < sizes[1]


def test_models_of_one_rate_have_no_levels():
    model = small_models.shared("mean_scale")
    assert model.levels is None and "level" not in model.infer(photograph(64, 64))
    with pytest.raises(ValueError, match="trained for one rate"):
        model.infer(photograph(64, 64), level=3)
    for level in (-1, COUNT, np.int64(COUNT)):
        with pytest.raises(ValueError, match=f"level {level}: this model has 0 to {COUNT - 1}"):
            shared("mean_scale").infer(photograph(64, 64), level=level)


# --- Training and refinement --------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_gradient_reaches_every_gain(name):
    model = shared(name)
    x, level = tf.repeat(photograph(64, 96), 6, axis=0), tf.constant([0, 3, 8, 12, 16, 20])
    with tf.GradientTape() as tape:
        generated = model.generate(model.infer(x, training=True, level=level),
                                   quantizers.UniformNoise(tf.constant([1, 2])), training=True)
        loss = Objective(None)(x, generated, model.levels.rd_lambda(level),
                               weight=model.levels.weight(level))["rd_loss"]
    weights = model.levels.trainable_weights
    assert len(weights) == 2 and {w.ref() for w in weights} <= {
        w.ref() for w in model.trainable_variables}
    for gradient in tape.gradient(loss, weights):
        assert np.all(np.isfinite(gradient)) and np.all(gradient.numpy() != 0)


def test_the_loss_weighs_every_image(model):
    x, level = tf.repeat(photograph(64, 96), 2, axis=0), tf.constant([0, 20])
    generated = model(x, level=level)
    measured = Objective(None).per_image(x, generated, model.levels.rd_lambda(level),
                                         weight=model.levels.weight(level))
    for i, (rd_lambda, weight) in enumerate(((0.0015, 40**0.25), (0.06, 40**-0.25))):
        np.testing.assert_allclose(
            measured["rd_loss"][i], weight * (measured["bpp"][i] + rd_lambda * measured["mse"][i]),
            rtol=1e-4)
    assert measured["bpp_level"].shape == (2,)


def test_refinement_is_for_the_lambda_of_the_level(model, request):
    if model is not shared("mean_scale"):  # graphs of one model take long enough to make
        request.getfixturevalue("without_graphs")
    x = photograph(64, 96)
    method = methods.method("danneal")
    method.update(num_steps=6, check_interval=3)
    refiner = refinement.Refiner(model, method, Objective(None))
    for level in (0, 20):
        found = refiner(x, level=level)
        first, *_, last = found.traces[0]
        rd_lambda = float(model.levels.rd_lambda(level))
        assert first["rd_loss"] == pytest.approx(first["bpp"] + rd_lambda * first["mse"], rel=1e-4)
        assert last["rd_loss"] <= first["rd_loss"]
        np.testing.assert_array_equal(found.latents["level"], [level])
        fixed = refinement.Refiner(model, method, Objective(rd_lambda))(x, level=level)
        np.testing.assert_allclose(fixed.latents["y"], found.latents["y"], atol=1e-4)
