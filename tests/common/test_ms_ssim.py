"""MS-SSIM with gradients is that of TensorFlow."""

import numpy as np
import pytest
import tensorflow as tf

from common import ms_ssim
from tests.helpers.degrading import degraded


@pytest.mark.parametrize("height, width, noise", [(224, 300, 0.02), (255, 257, 0.2), (161, 176, 0)])
def test_ms_ssim_is_that_of_tensorflow(photo, height, width, noise):
    x, x_hat = degraded(photo[-height:, -width:], noise)
    both = [tf.concat(pair, axis=0) for pair in ((x, x_hat), (x_hat, x_hat))]
    found = ms_ssim.ms_ssim(*both)
    np.testing.assert_allclose(found, tf.image.ssim_multiscale(*both, 1.0), atol=1e-5)
    assert 0.3 < float(found[0]) < 0.99 and float(found[1]) == pytest.approx(1)


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
