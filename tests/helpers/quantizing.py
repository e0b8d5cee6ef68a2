"""Latents to quantize, gradients of that, and how far samples are from a distribution."""

import numpy as np
import tensorflow as tf

SEED = tf.constant([3, 4])
OFFSET = 0.25


def latents():
    """Latents [2, 8, 8, 4] of many integer cells, none of them on the edge of one."""
    rng = np.random.default_rng(0)
    cells, inside = rng.integers(-9, 10, (2, 8, 8, 4)), rng.uniform(-0.45, 0.45, (2, 8, 8, 4))
    return tf.constant(cells + inside + OFFSET, tf.float32)


def gradients(quantizer, value):
    """d(sum of the rate's value)/d value and d(sum of the decoder's value)/d value."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(value)
        rate, decoded = (tf.reduce_sum(v) for v in quantizer(value, OFFSET, "y"))
    return tape.gradient(rate, value), tape.gradient(decoded, value)


def ks_distance(probabilities):
    """Kolmogorov-Smirnov distance from the uniform distribution on the unit interval."""
    ordered = np.sort(np.ravel(probabilities))
    return np.max(np.abs(ordered - np.arange(ordered.size) / ordered.size))
