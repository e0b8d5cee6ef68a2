import math

import numpy as np
import pytest
import tensorflow as tf

from common import metrics, ms_ssim
from common.errors import UserError
from common.model import Generated
from common.objectives import Objective
from tests.helpers.degrading import degraded

X = tf.zeros([2, 2, 4, 3])
BITS = {"y": tf.constant([8.0, 24.0]), "z": tf.constant([4.0, 0.0])}


def showing(x_hat, bits):
    """Of which only the image and the rate matter here."""
    return Generated(x_hat, {}, bits, {})


def test_loss_of_a_case_done_by_hand():
    x_hat = tf.stack([X[0] + 0.1, X[1] + 0.2])
    measured = Objective(0.01)(X, showing(x_hat, BITS))
    mse = (0.1**2 + 0.2**2) / 2 * 255**2
    expected = {"bpp_y": 16 / 8, "bpp_z": 2 / 8, "bpp": 18 / 8, "mse": mse,
                "rd_loss": 18 / 8 + 0.01 * mse, "psnr": -10 * math.log10(0.1 * 0.2)}
    assert {k: float(v) for k, v in measured.items()} == pytest.approx(expected, rel=1e-5)


def test_losses_of_each_image_of_a_case_done_by_hand():
    x_hat = tf.stack([X[0] + 0.1, X[1] + 0.2])
    measured = Objective(0.01).per_image(X, showing(x_hat, BITS))
    mse = np.square([25.5, 51.0])
    expected = {"bpp_y": [1, 3], "bpp_z": [0.5, 0], "bpp": [1.5, 3], "mse": mse,
                "rd_loss": [1.5, 3] + 0.01 * mse, "psnr": 10 * np.log10(255**2 / mse)}
    assert measured.keys() == expected.keys()
    for name, value in measured.items():
        assert value.shape == (2,) and value.dtype == tf.float32
        np.testing.assert_allclose(value, expected[name], rtol=1e-5)


def test_weights_of_rate_and_lpips(lpips_network):
    rng = np.random.default_rng(0)
    x, x_hat = (tf.constant(rng.uniform(0, 1, [2, 40, 48, 3]), tf.float32) for _ in range(2))
    measured = Objective(0.01, rate_weight=3.0, lpips_weight=7.0).per_image(
        x, showing(x_hat, BITS))
    distance = lpips_network(x, x_hat).numpy()
    mse = np.mean(np.square(x - x_hat), axis=(1, 2, 3)) * 255**2
    np.testing.assert_allclose(measured["lpips"], distance, rtol=1e-5)
    bpp = np.array([12, 24]) / (40 * 48)
    np.testing.assert_allclose(
        measured["rd_loss"], 3 * bpp + 0.01 * mse + 7 * distance, rtol=1e-5)


def test_weights_of_one_call_are_in_place_of_the_objectives():
    x_hat, rd_lambda = X + 0.1, tf.constant([0.1, 0.2])
    measured = Objective(0.01, rate_weight=3.0).per_image(
        X, showing(x_hat, BITS), rd_lambda, rate_weight=2.0, weight=tf.constant([1.0, 5.0]))
    np.testing.assert_allclose(
        measured["rd_loss"], [2 * 1.5 + 0.1 * 25.5**2, 5 * (2 * 3 + 0.2 * 25.5**2)], rtol=1e-5)


def test_image_is_cropped_and_pixels_are_those_of_the_original():
    x_hat = tf.pad(X, [[0, 0], [0, 14], [0, 12], [0, 0]], constant_values=1.0)
    measured = Objective(1.0)(X, showing(x_hat, BITS))
    assert float(measured["mse"]) == 0
    assert float(measured["bpp"]) == pytest.approx(18 / 8)
    assert math.isfinite(float(measured["psnr"]))


def test_eight_bit_rounds_and_clips():
    def mse(x, x_hat, eight_bit):
        generated = showing(tf.fill([1, 1, 1, 3], x_hat), {"y": tf.zeros(1)})
        x = tf.fill([1, 1, 1, 3], x)
        return float(Objective(1.0)(x, generated, eight_bit=eight_bit)["mse"])

    assert mse(100 / 255, 100.4 / 255, True) == 0
    assert mse(100 / 255, 100.4 / 255, False) == pytest.approx(0.16, rel=1e-3)
    assert mse(100 / 255, 100.6 / 255, True) == pytest.approx(1, rel=1e-5)
    assert mse(1.0, 1.5, True) == mse(0.0, -0.5, True) == 0


def test_gradient_reaches_image_and_rates():
    x_hat, bits = tf.fill([2, 2, 4, 3], 0.5), tf.constant([8.0, 24.0])
    with tf.GradientTape() as tape:
        tape.watch([x_hat, bits])
        loss = Objective(0.01)(X, showing(x_hat, {"y": bits}))["rd_loss"]
    by_image, by_bits = tape.gradient(loss, [x_hat, bits])
    np.testing.assert_allclose(by_bits, [1 / 16, 1 / 16])  # mean over 2 examples of 8 pixels
    np.testing.assert_allclose(by_image, np.full(x_hat.shape, 0.01 * 255**2 * 2 * 0.5 / 48),
                               rtol=1e-5)


def test_rates_of_low_precision_are_averaged_and_summed_in_float32():
    bits = {"y": tf.constant([2048, 1], tf.float16), "z": tf.constant([1024, 1024], tf.float16)}
    x_hat = tf.zeros([2, 1, 1, 3], tf.float16)
    measured = Objective(1.0)(tf.zeros([2, 1, 1, 3]), showing(x_hat, bits))
    assert measured["bpp"].dtype == measured["rd_loss"].dtype == tf.float32
    assert float(measured["bpp_y"]) == 1024.5  # float16 has 1024 and 1025
    assert float(measured["bpp"]) == 2048.5


@pytest.mark.parametrize("eight_bit", [False, True])
@pytest.mark.parametrize("distortion", metrics.DISTORTIONS)
def test_losses_of_each_image_are_those_of_it_alone(photo, distortion, eight_bit):
    pairs = [degraded(photo[:161, :170], 0.05), degraded(photo[-161:, -170:], 0.2)]
    x, x_hat = (tf.concat(images, axis=0) for images in zip(*pairs))
    x_hat = tf.pad(x_hat, [[0, 0], [0, 15], [0, 6], [0, 0]])
    objective, options = Objective(0.1, distortion), dict(eight_bit=eight_bit)
    generated = showing(x_hat, {"y": tf.constant([9000.0, 700.0])})
    each = objective.per_image(x, generated, **options)
    mean = objective(x, generated, **options)
    assert each.keys() == mean.keys()
    for i in (0, 1):
        alone = objective(x[i:i + 1], showing(
            x_hat[i:i + 1], {"y": generated.bits["y"][i:i + 1]}), **options)
        for name, value in alone.items():
            assert float(each[name][i]) == pytest.approx(float(value), rel=1e-5)
    for name, value in each.items():
        assert abs(float(value[0] - value[1])) > 1e-3 * abs(float(value[0]))
        assert float(mean[name]) == pytest.approx(float(np.mean(value)), rel=1e-5)


def test_losses_of_each_image_do_not_touch_the_others():
    x_hat, bits = tf.fill([2, 2, 4, 3], 0.5), tf.constant([8.0, 24.0])
    with tf.GradientTape() as tape:
        tape.watch([x_hat, bits])
        loss = Objective(0.01).per_image(X, showing(x_hat, {"y": bits}))["rd_loss"][1]
    by_image, by_bits = tape.gradient(loss, [x_hat, bits])
    np.testing.assert_allclose(by_bits, [0, 1 / 8])
    assert np.all(by_image[0] == 0) and np.all(by_image[1] != 0)


def test_distortion_by_name(photo):
    x, x_hat = degraded(photo[:176, :176], 0.1)
    generated = showing(x_hat, {"y": tf.constant([176.0**2])})
    by_mse = Objective(8.0)(x, generated)
    measured = Objective(8.0, "ms_ssim")(x, generated)
    similarity = float(ms_ssim.ms_ssim(x, x_hat)[0])
    assert float(measured["ms_ssim"]) == pytest.approx(similarity, rel=1e-6)
    assert float(measured["rd_loss"]) == pytest.approx(1 + 8 * (1 - similarity), rel=1e-6)
    assert set(by_mse) == set(measured) - {"ms_ssim"}
    assert float(measured["mse"]) == float(by_mse["mse"])
    with pytest.raises(UserError, match="'msssim'.*ms_ssim"):
        Objective(8.0, "msssim")(x, generated)
