"""Refinement: the loop, and what it may and may not change."""

import functools
import json
import math
import shutil

import numpy as np
import pytest
import tensorflow as tf
from ml_collections import config_dict

import factorized.models
from common import data, methods, ms_ssim, quantizers, range_coding, refinement
from common.errors import UserError
from common.objectives import Objective
from common.transforms.layers import deconv
from tests.helpers import small_models
from tests.helpers.refining import FEW_STEPS, LAMBDA, method

PACKAGES = ["factorized", "mean_scale", "joint_ar"]


@functools.cache
def shared(name):
    """A model for tests that leave its weights as they are."""
    if name != "levels":
        return train() if name == "trained" else small_models.make(name)
    model = small_models.make(
        "factorized", levels=dict(count=9, rd_lambda=(LAMBDA / 4, LAMBDA * 4), scales=True))
    rng = np.random.default_rng(0)
    for weight in model.levels.trainable_variables:  # scales are 1 at first
        weight.assign_add(rng.normal(0, 0.1, weight.shape))
    return model


def train():
    """A mean-scale hyperprior that has seen some photographs."""
    model = small_models.make("mean_scale")
    variables = model.trainable_variables
    optimizer = tf.keras.optimizers.Adam(3e-3)
    optimizer.build(variables)

    @tf.function
    def step(x, number):
        quantizer = quantizers.Mixed(quantizers.fold_in([0, 1], number))
        with tf.GradientTape() as tape:
            generated = model.generate(model.infer(x, training=True), quantizer, training=True)
            loss = Objective(LAMBDA)(x, generated)["rd_loss"]
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))

    photo = data.find("photos/validation")[0].read()
    corners = np.random.default_rng(0).integers(0, min(photo.shape[:2]) - 64, (60, 2, 2))
    for number, batch in enumerate(corners):
        step(tf.stack([data.to_float(photo[row:row + 64, column:column + 64])
                       for row, column in batch]), tf.constant(number))
    model.prepare_coding()
    return model


@functools.cache
def refiner(model, name, **changes):
    """One for several tests: to trace it takes longer than all its steps."""
    return _refiner(model, method(name, **changes).to_json())


@functools.cache
def _refiner(model, text):
    return refinement.Refiner(
        shared(model), config_dict.ConfigDict(json.loads(text)), Objective(LAMBDA))


@pytest.fixture
def x(photo):
    """Float32 [1, 40, 50, 3]: sides that need padding."""
    return small_models.picture(photo, 40, 50)


@pytest.fixture
def unlike(photo):
    """Two images of one size that have little in common, float32 [2, 40, 50, 3]."""
    return tf.concat([small_models.picture(photo, 40, 50),
                      data.to_float(photo[300:340, 100:150])[None]], axis=0)


def rounded(model, latents):
    """What a decoder would get."""
    return model.generate(latents, quantizers.Round()).latents


def losses(model, x, latents, rd_lambda=LAMBDA):
    """On rounded latents and 8-bit images, float32 [B]."""
    generated = model.generate(latents, quantizers.Round())
    return Objective(rd_lambda).per_image(x, generated, eight_bit=True)["rd_loss"].numpy()


def column(trace, name):
    return [row[name] for row in trace]


def weights_of(model):
    return {weight.ref(): weight.numpy() for weight in model.variables}


def assert_equal(latents, others):
    assert latents.keys() == others.keys()
    for name, value in latents.items():
        np.testing.assert_array_equal(value, others[name])


@pytest.mark.parametrize("name", [
    name if name == "map" else pytest.param(name, marks=pytest.mark.slow)
    for name in methods.METHODS])
def test_every_method_is_better_than_none(name, x):
    model = shared("trained")
    found = refiner("trained", name, patience=0)(x)
    trace, = found.traces
    assert column(trace, "step") == [*range(0, FEW_STEPS + 1, 10)]
    before, = losses(model, x, model.infer(x))
    after, = losses(model, x, found.latents)
    assert trace[0]["rd_loss"] == pytest.approx(before, rel=1e-4)
    assert after < 0.97 * before
    # What is minimised falls too, and is about what is measured.
    loss = column(trace, "loss")
    assert math.isnan(loss[0]) and loss[-1] < 0.97 * loss[1]
    assert loss[-1] == pytest.approx(trace[-1]["rd_loss"], rel=0.3)


# --- The best -----------------------------------------------------------------------------------


def test_the_best_that_was_seen_is_returned(unlike):
    # Steps so large that it gets worse again, for one image at once.
    model = shared("factorized")
    found = refinement.Refiner(model, method(
        "danneal", travel=300.0, largest_rate=math.inf), Objective(LAMBDA))(unlike)
    seen = [column(trace, "rd_loss") for trace in found.traces]
    best = [np.argmin(each) for each in seen]
    assert best[0] == 0 < best[1] < len(seen[1]) - 1
    np.testing.assert_allclose(losses(model, unlike, found.latents), np.min(seen, axis=1),
                               rtol=1e-5)
    assert_equal(found.latents, rounded(model, found.latents))


@pytest.mark.parametrize("package", [
    "factorized", "mean_scale", pytest.param("joint_ar", marks=pytest.mark.slow)])
def test_refined_latents_are_never_worse_than_the_encoders(package, unlike, without_graphs):
    model = shared(package)
    found = refinement.Refiner(model, method(
        "map", patience=2, check_interval=1, travel=1e4, largest_rate=math.inf),
        Objective(LAMBDA))(unlike)
    for trace in found.traces:
        first, *others = column(trace, "rd_loss")
        assert all(math.isnan(other) or other > first for other in others)
        assert column(trace, "step") == [0, 1, 2], "patience ends it"
    assert_equal(found.latents, rounded(model, model.infer(unlike)))


def test_patience_counts_checks_without_a_better_one(x, monkeypatch):
    # Losses of the checks by hand: an image that gets no better does not stop another's.
    model = shared("factorized")
    monkeypatch.setattr(factorized.models.FactorizedPrior, "infer",
                        lambda self, x, level: {"y": tf.zeros([len(x), 1, 1, 1])})

    def steps(patience, *columns):
        refiner = refinement.Refiner(
            model, method("map", patience=patience, num_steps=75), Objective(LAMBDA))

        # y says which step it is of; rounded, what its loss is.
        def check(x, latents, passes):
            places = (latents["y"].numpy()[:, 0, 0, 0] + 9) // 10
            losses = tf.constant([column[int(place)] for column, place in zip(columns, places)],
                                 tf.float32)
            rounded = {"y": tf.reshape(losses, [-1, 1, 1, 1])}
            return {"rd_loss": losses}, rounded, rounded

        def step(x, latents, moments, grid, step):
            return np.zeros(len(x)), {"y": latents["y"] + 1}, moments

        refiner._compiled = lambda latents, images: (step, check)
        found = refiner(tf.tile(x, [len(columns), 1, 1, 1]))
        return column(found.traces[0], "step"), found.latents["y"].numpy().ravel().tolist()

    falling = [9, 8, 7, 6, 5, 4, 3, 2, 1]
    uneven = [9, 8, 8, 7, 9, 8, 6, 9, 9]
    assert steps(0, uneven) == ([0, 10, 20, 30, 40, 50, 60, 70, 75], [6])
    assert steps(1, falling) == ([0, 10, 20, 30, 40, 50, 60, 70, 75], [1])
    assert steps(1, uneven) == ([0, 10, 20], [8])
    assert steps(2, uneven) == ([0, 10, 20, 30, 40, 50], [7])
    assert steps(3, uneven) == ([0, 10, 20, 30, 40, 50, 60, 70, 75], [6])
    assert steps(1, uneven, falling)[0] == [0, 10, 20, 30, 40, 50, 60, 70, 75]
    assert steps(1, uneven, falling)[1] == [6, 1]
    nan = math.nan
    assert steps(2, [9, nan, nan, 1]) == ([0, 10, 20], [9])


@pytest.mark.slow
@pytest.mark.parametrize("package", [
    pytest.param(package, marks=pytest.mark.slow) if package == "joint_ar" else package
    for package in PACKAGES])
def test_a_decoder_gets_the_refined_latents(package, x):
    model = shared(package)
    latents = refiner(package, "danneal")(x).latents
    assert np.mean(latents["y"] != rounded(model, model.infer(x))["y"]) > 0.05
    coder = range_coding.RangeEncoder(model.tables)
    model.encode(latents, coder)
    decoder = range_coding.RangeDecoder(model.tables, coder.finish())
    decoded = model.decode(decoder, *x.shape[1:3])
    assert decoder.crc == coder.crc and decoded.keys() == latents.keys()
    for name, value in latents.items():
        np.testing.assert_allclose(decoded[name], value, atol=1e-3)


# --- Batches, sizes, seeds ----------------------------------------------------------------------


@pytest.mark.parametrize("name, level", [("factorized", None), ("levels", 7)])
def test_images_of_a_batch_are_refined_as_if_alone(name, level, unlike):
    together = refiner(name, "danneal")
    found = together(unlike, level=level)
    for i in (0, 1):
        alone = together(unlike[i:i + 1], level=level)
        for key in ("rd_loss", "bpp", "mse", "psnr", "loss"):
            np.testing.assert_allclose(
                column(alone.traces[0], key), column(found.traces[i], key), rtol=1e-3)
        different = np.abs(alone.latents["y"] - found.latents["y"][i]) > 1e-3
        assert np.mean(different) < 0.01


def test_the_step_is_traced_once_for_images_and_once_for_batches(photo):
    several = refinement.Refiner(
        shared("factorized"), method("sga", num_steps=3), Objective(LAMBDA))
    for height, width, count in ((40, 50, 1), (64, 33, 1), (17, 16, 3), (1, 1, 1), (8, 9, 2)):
        batch = tf.tile(small_models.picture(photo, height, width), [count, 1, 1, 1])
        found = several(batch)
        shape = (count, -(-height // 16), -(-width // 16), 12)
        assert found.latents["y"].shape == shape and len(found.traces) == count
    assert {*several._graphs} == {1, None}
    for graphs in several._graphs.values():
        for function in graphs:
            assert function.experimental_get_tracing_count() == 1


def test_the_seed_decides(x, without_graphs):
    model = shared("factorized")

    def refine(name, seed):
        return refinement.Refiner(model, method(name, num_steps=3, seed=seed), Objective(LAMBDA))

    one = refine("sga_yang2020", 3)
    first, again = one(x), one(x)
    for same in (again, refine("sga_yang2020", 3)(x)):
        assert_equal(first.latents, same.latents)
        np.testing.assert_array_equal(  # of the first row, losses are nan
            [*first.traces[0][-1].values()], [*same.traces[0][-1].values()])
    other = refine("sga_yang2020", 4)(x)
    assert first.traces[0][0]["rd_loss"] == other.traces[0][0]["rd_loss"]
    assert first.traces[0][-1]["loss"] != other.traces[0][-1]["loss"]
    assert np.any(first.latents["y"] != other.latents["y"])


def test_noise_differs_from_step_to_step(x):
    # With a rate of zero nothing else does.
    still = refinement.Refiner(shared("factorized"), method(
        "unoise", travel=0.0, num_steps=4, check_interval=1), Objective(LAMBDA))
    trace, = still(x).traces
    assert len(set(column(trace, "rd_loss"))) == 1 and len(set(column(trace, "loss")[1:])) == 4


def test_as_the_inference_of_a_codec(photo):
    image = photo[100:140, 200:250]
    same = refiner("factorized", "danneal")
    latents = same.infer(shared("factorized"), image)
    assert_equal(latents, same(data.to_float(image)[None]).latents)
    assert latents["y"].shape == (1, 3, 4, 12)
    by_ms_ssim = refinement.Refiner(
        shared("factorized"), method("danneal"), Objective(8.0, "ms_ssim"))
    with pytest.raises(UserError, match="at least 161 pixels; the image has 40"):
        by_ms_ssim.infer(shared("factorized"), image)


@pytest.mark.slow
def test_refinement_for_ms_ssim(photo):
    x, found = small_models.picture(photo, 161, 176), {}
    for distortion, rd_lambda in {"mse": 1.0, "ms_ssim": 1e3}.items():
        latents = refinement.Refiner(shared("factorized"), method(
            "map", num_steps=15), Objective(rd_lambda, distortion))(x).latents
        x_hat = shared("factorized").generate(latents, quantizers.Round()).x_hat[:, :161]
        found[distortion] = (float(ms_ssim.ms_ssim(x, x_hat)[0]),
                             -float(tf.reduce_mean(tf.square(x - x_hat))))
    assert found["ms_ssim"][0] > found["mse"][0]
    assert found["ms_ssim"][1] < found["mse"][1]


# --- The grid -----------------------------------------------------------------------------------


def serial_means(model, latents):
    """Of y, in two passes over rounded latents: the second must not change anything."""
    decoded = rounded(model, latents)
    psi = model.hyper_synthesis(decoded["z"])[:, :decoded["y"].shape[1], :decoded["y"].shape[2]]

    def predict(y):
        parameters = model.entropy_parameters(tf.concat([model.context(y), psi], axis=-1))
        return model.y_prior.given(parameters, continuous=False).offset

    return predict(decoded["y"]), predict(latents["y"])


def test_the_grid_of_a_context_model_is_that_of_a_serial_decoder(x):
    model, same = shared("joint_ar"), refiner("joint_ar", "danneal")
    latents = model.infer(x)
    _, check = same._compiled(latents, 1)
    _, decoded, grid = check(x, latents, refinement._ALL_PASSES)
    serial, at_once = serial_means(model, latents)
    np.testing.assert_allclose(grid["y"], serial, atol=1e-4)
    assert np.max(np.abs(serial - at_once)) > 0.01, "then latents that are not rounded would do"
    np.testing.assert_allclose(
        decoded["y"], tf.round(latents["y"] - serial) + serial, atol=1e-4)
    np.testing.assert_array_equal(
        grid["z"], tf.broadcast_to(model.z_prior.offset, latents["z"].shape))


def test_only_the_first_check_and_that_of_the_best_take_all_passes(x, monkeypatch):
    same, passes = refiner("joint_ar", "danneal"), []
    latents = same._model.infer(x)
    step, check = same._compiled(latents, 1)
    monkeypatch.setitem(
        same._graphs, 1, (step, lambda *args: (passes.append(args[2]), check(*args))[1]))
    found = same(x)
    few, everything = refinement._FEW_PASSES, refinement._ALL_PASSES
    assert passes == [everything, *[few] * (len(found.traces[0]) - 1), everything]
    serial = [check(x, latents, number)[1]["y"] for number in (1, few, everything)]
    assert np.any(serial[0] != serial[2]), "then one pass would do"
    assert np.mean(serial[1] != serial[2]) < np.mean(serial[0] != serial[2])


@pytest.mark.parametrize("package", PACKAGES)
def test_steps_are_on_the_grid_of_the_last_check(package, x):
    # One step by hand, on the grid that a check found, and moved from there.
    model, same = shared(package), refiner(package, "danneal")
    latents = {name: value + 0.3 for name, value in model.infer(x).items()}
    step, check = same._compiled(latents, 1)
    _, _, grid = check(x, latents, refinement._ALL_PASSES)
    zeros = {name: tf.zeros_like(value) for name, value in latents.items()}
    found = []
    for move in (0.0, 0.5):
        moved = {name: value + move for name, value in grid.items()}
        quantizer = quantizers.OnGrid(
            quantizers.DeterministicAnnealing(0.2), moved, noise=None)
        with tf.GradientTape() as tape:
            tape.watch(latents)
            generated = model.generate(latents, quantizer)
            expected = Objective(LAMBDA).per_image(x, generated)["rd_loss"]
            bits = expected * 40 * 50
        gradients = tape.gradient(bits, latents)
        loss, new, moments = step(x, latents, [zeros, zeros], moved, tf.constant(0))
        np.testing.assert_allclose(loss, expected, rtol=1e-4)
        rate = same._rate(0)
        for name, value in latents.items():
            np.testing.assert_allclose(
                moments[0][name], 0.1 * gradients[name], rtol=0.01, atol=1e-3 * np.max(
                    np.abs(gradients[name])))
            # Adam's first step has the size of the rate, against the gradient.
            np.testing.assert_array_less(np.abs(new[name] - value), 1.01 * rate)
            np.testing.assert_array_less(0.5 * rate, np.max(np.abs(new[name] - value)))
            assert np.all((new[name] - value) * moments[0][name] <= 0)
        found.append(float(loss[0]))
    assert found[0] != pytest.approx(found[1], rel=1e-3)


# --- What stays as it is ------------------------------------------------------------------------


@pytest.mark.parametrize("package", PACKAGES)
def test_weights_do_not_change(package, x):
    model = shared(package)
    before = weights_of(model)
    refiner(package, "danneal")(x)
    assert len(before) > 10
    for weight, value in before.items():
        np.testing.assert_array_equal(weight.deref(), value)


def test_batch_normalisation_takes_its_averages(unlike):
    model = factorized.models.FactorizedPrior(small_models.ANALYSIS, small_models.SYNTHESIS)
    normalization = tf.keras.layers.BatchNormalization(momentum=0.5)
    model.synthesis = tf.keras.Sequential([normalization, deconv(3, 31, stride=16)])
    model.synthesis.stride = 16
    model.initialize()
    rng = np.random.default_rng(0)
    normalization.moving_mean.assign(rng.normal(0, 1, 12))
    normalization.moving_variance.assign(rng.uniform(0.1, 1, 12))
    before = weights_of(model)
    # Values that are rounded already: each step's loss is that of the check before, of each image.
    still = refinement.Refiner(model, method(
        "ste", travel=0.0, num_steps=2, check_interval=1, patience=0), Objective(LAMBDA))
    for trace in still(unlike).traces:
        np.testing.assert_allclose(
            column(trace, "loss")[1:], column(trace, "rd_loss")[:-1], rtol=0.01)
    assert model.trainable and len(model.trainable_variables) > 10
    for weight, value in before.items():
        np.testing.assert_array_equal(weight.deref(), value)


def test_a_null_in_the_config_means_the_default(one_rate_models, tmp_path):
    shutil.copytree(one_rate_models[0], tmp_path / "model")
    path = tmp_path / "model/config.json"
    record = json.loads(path.read_text())
    record["train"].update(distortion=None, rate_weight=None, lpips_weight=None)
    path.write_text(json.dumps(record))
    assert refinement.objective(tmp_path / "model") == Objective(
        0.01, distortion="mse", rate_weight=1.0, lpips_weight=0.0)
