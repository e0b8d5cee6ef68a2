"""Figures of latents: their numbers belong together, and panels show what they say."""

import math

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from common import coding, data, filters, inspection, priors, quantizers
from common.errors import UserError
from mshyper import bits_back
from tests.helpers import small_models
from tests.helpers.figures import NAMES, model_named


@pytest.fixture(params=NAMES)
def model(request, monkeypatch):
    return model_named(request.param, monkeypatch)


@pytest.fixture
def picture(photo):
    return photo[100:171, 200:305]


def panels(figure):
    """By its title, what each panel shows."""
    return {axes.get_title(): axes.images[0].get_array() for axes in figure.axes
            if axes.get_title()}


def titled(figure, start):
    """What the one panel shows whose title begins with `start`."""
    array, = (array for title, array in panels(figure).items() if title.startswith(start))
    return array


def test_bits_of_elements_are_those_of_the_estimate_and_the_file(model, picture):
    found = inspection.inspect(model, picture)
    generated = model.generate(model.infer(data.to_float(picture)[None]), quantizers.Round())
    assert found.bits.keys() == found.strides.keys() == generated.bits.keys()
    for name, bits in found.bits.items():
        assert bits.sum() == pytest.approx(float(generated.bits[name]), rel=1e-3)
        for positions, side in zip(bits.shape, picture.shape[:2]):
            assert 0 <= positions * found.strides[name] - side < found.strides[name]
    total = sum(bits.sum() for bits in found.bits.values())
    # A container, and with mixtures a second stream.
    assert total <= 8 * found.num_bytes <= 1.01 * total + 8 * 28
    ntc = coding.compress(model, picture)
    assert found.num_bytes == len(ntc)
    np.testing.assert_array_equal(found.decoded, coding.decompress(model, ntc))


@pytest.mark.parametrize("name, density, unit", [
    ("mean_scale", stats.norm, 1.0), ("scale_only", stats.norm, 1.0),
    ("joint_ar", stats.norm, 1.0), ("logistic", stats.logistic, math.pi / math.sqrt(3))])
def test_bits_follow_from_the_prediction(name, density, unit, picture, monkeypatch):
    found = inspection.inspect(model_named(name, monkeypatch), picture)
    mean, deviation = found.prediction
    residual = np.float64(found.y - mean)
    mass = np.diff(density.cdf([(residual + side) * unit / deviation for side in (-0.5, 0.5)]),
                   axis=0)[0]
    expected = np.minimum(-np.log2(np.maximum(mass, 1e-30)), priors.MAX_BITS)
    np.testing.assert_allclose(found.bits["y"], expected, rtol=5e-3, atol=5e-3)


def test_the_prediction_of_a_mixture_has_its_moments(monkeypatch):
    model = model_named("mixture", monkeypatch)
    rng, shape = np.random.default_rng(0), [4, 5]  # components, channels
    logits, mean = (tf.constant(rng.normal(0, 3, shape), tf.float32) for _ in range(2))
    log_scale = tf.constant(rng.uniform(0, 1, shape), tf.float32)
    p_y = model.y_prior.given(
        tf.reshape(tf.stack([logits, mean, log_scale]), [-1]), continuous=True)
    # Not farther out: no symbol costs more than 20 bits.
    symbols = np.arange(-20.0, 21.0, dtype=np.float32)
    values = np.tile(symbols[:, None], [1, 5])
    mass = 2.0**-p_y.bits(tf.constant(values)).numpy()
    expected = np.sum(mass * values, axis=0)
    # The integers' distribution has the variance of the uniform part too.
    variance = np.sum(mass * values**2, axis=0) - expected**2 - 1 / 12
    predicted = p_y.prediction
    np.testing.assert_allclose(predicted.mean, expected, atol=0.02)
    np.testing.assert_allclose(predicted.deviation, np.sqrt(variance), rtol=0.02)


def test_panels(mean_scale, picture, tmp_path, undrawn):
    found = inspection.inspect(mean_scale, picture)
    inspection.draw(tmp_path / "figure.png", found, "a photograph")
    figure, = undrawn
    assert len(panels(figure)) == 9
    np.testing.assert_array_equal(titled(figure, "input"), picture)
    np.testing.assert_array_equal(titled(figure, "reconstruction"), found.decoded)
    channel = np.argmax(found.bits["y"].sum(axis=(0, 1)))
    bits = found.bits["y"][..., channel].sum()
    np.testing.assert_array_equal(
        titled(figure, f"y, channel {channel} of 12: {bits:.0f} bits"), found.y[..., channel])
    mean, deviation = (titled(figure, f"its predicted {part}") for part in (
        "mean", "standard deviation"))
    np.testing.assert_allclose(
        titled(figure, "(y - mean)") * deviation + mean, found.y[..., channel], atol=1e-4)
    for name, stride in (("y", 16), ("z", 64)):
        assert titled(figure, f"bits of {name}").sum() * stride**2 == pytest.approx(
            found.bits[name].sum(), rel=1e-5)
    title = figure.get_suptitle()
    assert title.startswith("a photograph\n") and "MS-SSIM" not in title  # too small for that
    assert f"{8 * found.num_bytes / (71 * 105):.4f} bpp ({found.num_bytes} bytes)" in title


def test_the_error_is_amplified_as_its_title_says(mean_scale, picture, tmp_path, undrawn):
    found = inspection.inspect(mean_scale, picture)
    rng = np.random.default_rng(0)
    decoded = np.clip(picture + rng.integers(-5, 6, picture.shape), 0, 255).astype(np.uint8)
    for image, gain in ((decoded, 25), (picture, 127)):
        inspection.draw(tmp_path / "x.png", found._replace(decoded=image), "")
        error = titled(undrawn[-1], f"error x {gain},").astype(int)
        np.testing.assert_array_equal((error - 128) / gain, image.astype(int) - picture)


def test_without_a_prediction_its_panels_are_left_out(picture, tmp_path, figures, monkeypatch):
    model = model_named("factorized", monkeypatch)
    inspection.draw(tmp_path / "figure.svg", inspection.inspect(model, picture), "")
    assert [title.split(",")[0] for title in panels(figures[0])] == [
        "input", "reconstruction", "error x 1", "y", "bits of y per pixel"]
    assert (tmp_path / "figure.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (170, 3)])
def test_pictures_of_any_size(mean_scale, shape, photo, tmp_path):
    found = inspection.inspect(mean_scale, photo[:shape[0], :shape[1]])
    inspection.draw(tmp_path / "figure.png", found, "small")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_too_many_pixels_are_refused(mean_scale, picture):
    with pytest.raises(UserError, match="exceeds the limit of 0.007.*max_pixels allows"):
        inspection.inspect(mean_scale, picture, max_pixels=7000)


def test_a_bits_back_model_has_no_file_of_one_image(picture):
    model = bits_back.BitsBackHyperprior(
        small_models.ANALYSIS, small_models.SYNTHESIS,
        dict(cls="HyperAnalysis", channels=(8, 8, 16)),
        dict(cls="HyperSynthesis", channels=(8, 8, 24)))
    model.initialize()
    model.prepare_coding()
    model.fingerprint = "0" * 64
    with pytest.raises(UserError, match="code with `chain`"):
        inspection.inspect(model, picture)
    assert filters.measure_channels(model, picture).rates.shape == (12,)
