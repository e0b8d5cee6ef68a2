import numpy as np
import pytest
import tensorflow as tf

from common import ema


def small_model():
    model = tf.keras.Sequential([tf.keras.layers.Dense(2), tf.keras.layers.BatchNormalization()])
    model.build([None, 3])
    return model


@pytest.mark.parametrize("step, decay", [(0, 0.1), (8, 0.5), (1000, 0.75)])
def test_the_average_by_hand(step, decay):
    # Of so few steps, (1 + step) / (10 + step) is less than the decay.
    average, codec = small_model(), small_model()
    rng = np.random.default_rng(0)
    for variable in (*average.variables, *codec.variables):
        variable.assign(rng.normal(size=variable.shape))
    before = [variable.numpy() for variable in average.variables]
    ema.follow(average, codec, 0.75, tf.constant(step))
    copied = []
    for mean, old, new in zip(average.variables, before, codec.variables):
        if mean.trainable:
            np.testing.assert_allclose(mean, decay * old + (1 - decay) * new, rtol=1e-5)
        else:
            np.testing.assert_array_equal(mean, new)
            copied.append(mean.name.rpartition("/")[2])
    assert copied == ["moving_mean:0", "moving_variance:0"]
