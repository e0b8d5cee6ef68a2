"""MS-SSIM: structural similarity at five scales (Wang, Simoncelli, Bovik 2003)."""

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

# Below this, the fifth scale is smaller than its window of 11 pixels.
MIN_SIDE = 161

# Weights of the five scales, the window, and the constants for samples in [0, 1].
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
_C1, _C2 = 0.01**2, 0.03**2

# Similarities may be negative, and near 0 their powers have gradients without bound.
_LEAST_SIMILARITY = 1e-3


def ms_ssim(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """MS-SSIM of each image with finite gradients: float32 [B].

    That of tf.image.ssim_multiscale is the same for small images. Its means of large ones lose
    digits, it takes some eight times as long, with a window in two dimensions, and its gradient is
    NaN where a contrast term is not positive, as of a model that is not trained yet.

    Args:
      a, b: float32 [B, H, W, C] in [0, 1], with H and W of at least MIN_SIDE.
    """
    result = 1.0
    for scale, weight in enumerate(_SCALES):
        if scale:
            # Beyond an odd side, SAME averages what is there.
            a, b = (tf.nn.avg_pool2d(image, 2, 2, "SAME") for image in (a, b))
        similarity = _similarity(a, b, with_luminance=scale == len(_SCALES) - 1)
        # Below the bound the gradient is that of the similarity's sign, and leads out.
        result *= tfc.lower_bound(similarity, _LEAST_SIMILARITY) ** weight
    return tf.reduce_mean(result, axis=1)


def _similarity(a, b, with_luminance):
    """Mean over the image of contrast * structure [* luminance]: [B, C] of [B, H, W, C]."""
    mean_a, mean_b, square, product = tf.split(
        _blur(tf.concat([a, b, a * a + b * b, a * b], axis=-1)), 4, axis=-1)
    means = mean_a * mean_b
    squared_means = mean_a * mean_a + mean_b * mean_b
    value = (2 * (product - means) + _C2) / (square - squared_means + _C2)
    if with_luminance:
        value *= (2 * means + _C1) / (squared_means + _C1)
    # By one axis after the other: over both, TensorFlow adds up the values of a channel one by one,
    # and the mean of 400,000 values near 1 may be off by 5e-4.
    return tf.reduce_mean(tf.reduce_mean(value, axis=1), axis=1)


def _blur(x):
    """The Gaussian window's mean at every position where it lies within the image."""
    window = tf.constant(_WINDOW / np.sum(_WINDOW), tf.float32)
    for shape in [-1, 1, 1, 1], [1, -1, 1, 1]:
        filters = tf.tile(tf.reshape(window, shape), [1, 1, x.shape[-1], 1])
        x = tf.nn.depthwise_conv2d(x, filters, [1, 1, 1, 1], "VALID")
    return x
