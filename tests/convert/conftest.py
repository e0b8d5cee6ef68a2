"""Fixtures that tests of imported models share."""

import numpy as np
import pytest
import tensorflow as tf


@pytest.fixture(scope="module")
def image():
    x = np.random.default_rng(1).random((64, 128, 3), np.float32)
    return tf.nn.avg_pool2d(x[None], 5, 1, "SAME").numpy()[0]
