"""Images that are worse than others, for tests of distortions."""

import numpy as np
import tensorflow as tf


def degraded(image, noise):
    """A float image [1, H, W, 3], and one that is blurred and has noise of this deviation."""
    x = tf.constant(image[None] / 255.0, tf.float32)
    errors = np.random.default_rng(0).normal(0, noise, x.shape)
    return x, tf.nn.avg_pool2d(x, 3, 1, "SAME") + tf.constant(errors, tf.float32)
