import numpy as np
import pytest
import tensorflow as tf

from common import padding
from common.transforms import attention


@pytest.mark.parametrize("height, width", [(5, 7), (16, 9)])
def test_windowed_attention_is_that_of_each_window(height, width):
    # Against the formula, window by window: softmax(theta phi') g, keys pooled in pairs.
    layer, n, rng = attention.non_local(6, window=4), 4, np.random.default_rng(0)
    x = rng.normal(size=(1, height, width, 6)).astype(np.float32)
    y = layer(x).numpy()
    inner = layer.layers[0].layers
    theta, phi, g = (w.kernel.numpy()[0, 0] for w in (
        inner[0]._theta, inner[0]._phi, inner[0]._g))
    padded = padding.pad_to_multiple(tf.constant(x), n).numpy()
    for top in range(0, height, n):
        for left in range(0, width, n):
            window = padded[0, top:top + n, left:left + n].reshape(-1, 6)
            keys, values = ((window @ w).reshape(-1, 2, 3).max(axis=1) for w in (phi, g))
            logits = window @ theta @ keys.T
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            attended = weights / weights.sum(axis=1, keepdims=True) @ values
            expected = window + attended @ inner[1].kernel.numpy()[0, 0] + inner[1].bias.numpy()
            expected = expected.reshape(n, n, 6)
            found = y[0, top:top + n, left:left + n]
            np.testing.assert_allclose(
                found, expected[:found.shape[0], :found.shape[1]], atol=1e-4)


def test_grouped_convolution_is_one_for_each_group():
    layer, rng = attention.GroupedConv(groups=2, size=3), np.random.default_rng(0)
    x = rng.normal(size=(1, 5, 6, 6)).astype(np.float32)
    y = layer(x).numpy()
    kernel = layer._depthwise.depthwise_kernel.numpy()  # [3, 3, 6, 3]
    for group in range(2):
        part = slice(3 * group, 3 * group + 3)
        expected = tf.nn.conv2d(x[..., part], kernel[:, :, part], 1, "SAME")
        np.testing.assert_allclose(y[..., part], expected, atol=1e-5)
