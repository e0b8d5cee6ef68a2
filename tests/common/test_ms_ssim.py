"""MS-SSIM is that of TensorFlow, but with gradients, and exact for large images too."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from common import metrics, ms_ssim
from tests.helpers.degrading import degraded


@pytest.mark.parametrize("height, width, noise", [(224, 300, 0.02), (255, 257, 0.2), (161, 176, 0)])
def test_ms_ssim_is_that_of_tensorflow(photo, height, width, noise):
    x, x_hat = degraded(photo[-height:, -width:], noise)
    both = [tf.concat(pair, axis=0) for pair in ((x, x_hat), (x_hat, x_hat))]
    found = ms_ssim.ms_ssim(*both)
    np.testing.assert_allclose(found, tf.image.ssim_multiscale(*both, 1.0), atol=1e-5)
    assert 0.3 < float(found[0]) < 0.99 and float(found[1]) == pytest.approx(1)


def in_float64(a, b):
    """By the formulas of the paper, of images of one channel whose sides are even at all scales."""
    def blur(x):
        return ndimage.gaussian_filter(x, 1.5, radius=5)[5:-5, 5:-5]

    result = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if scale:
            a, b = (x.reshape(len(x) // 2, 2, -1, 2).mean(axis=(1, 3)) for x in (a, b))
        mean_a, mean_b = blur(a), blur(b)
        covariance = blur(a * b) - mean_a * mean_b
        variances = blur(a * a + b * b) - mean_a**2 - mean_b**2
        value = (2 * covariance + 0.03**2) / (variances + 0.03**2)
        if scale == 4:
            value *= (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
        result *= value.mean() ** weight
    return result


def test_large_images_lose_no_digits(photo):
    rng = np.random.default_rng(0)
    a = np.tile(photo, (3, 3, 1))[:1024, :1536]
    b = np.clip(a + rng.normal(0, 5, a.shape), 0, 255).astype(np.uint8)
    expected = np.mean([in_float64(a[..., c] / 255, b[..., c] / 255) for c in range(3)])
    assert metrics.ms_ssim(a, b) == pytest.approx(expected, abs=3e-6)


def test_gradient_of_ms_ssim(photo):
    def gradient(x, x_hat, function=ms_ssim.ms_ssim):
        with tf.GradientTape() as tape:
            tape.watch(x_hat)
            similarity = function(x, x_hat)
        return tape.gradient(similarity, x_hat).numpy()

    def tensorflows(x, x_hat):
        return tf.image.ssim_multiscale(x, x_hat, 1.0)

    x, x_hat = degraded(photo[:161, :161], 0.1)
    expected = gradient(x, x_hat, tensorflows)
    np.testing.assert_allclose(
        gradient(x, x_hat), expected, atol=1e-3 * np.max(np.abs(expected)))
    # Images whose contrast is the opposite's or noise, as of a model that is not trained.
    assert np.any(np.isnan(gradient(x, 1 - x, tensorflows))), "then tf.image would do"
    for x_hat in (1 - x, tf.zeros_like(x), tf.random.stateless_normal(x.shape, [1, 2])):
        ours = gradient(x, x_hat)
        assert np.all(np.isfinite(ours)) and np.max(np.abs(ours)) > 0
    assert np.all(np.isfinite(gradient(x, x)))
