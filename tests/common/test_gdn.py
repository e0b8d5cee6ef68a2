import numpy as np
import pytest
import tensorflow as tf
import tensorflow_compression as tfc

from common.transforms.gdn import GDN


def built(layer, channels=6):
    layer.build([None, None, None, channels])
    rng = np.random.default_rng(0)
    for weight in layer.weights:
        weight.assign_add(np.abs(rng.normal(0, 0.2, weight.shape)))
    return layer


def output_and_gradients(layer, x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        loss = tf.reduce_sum(tf.sin(tf.cast(y, tf.float32)))
    return y, *tape.gradient(loss, [x, *layer.trainable_variables])


@pytest.fixture
def x():
    x = np.random.default_rng(1).normal(size=(2, 5, 7, 6)).astype(np.float32)
    x[0, 0, :3] = 0  # where |x| has no derivative
    return tf.constant(x)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("run", ["eager", "graph", "xla"])
def test_outputs_and_gradients_are_those_of_the_library(inverse, run, x):
    ours, theirs = built(GDN(inverse)), built(tfc.GDN(inverse))
    function = {"eager": output_and_gradients, "graph": tf.function(output_and_gradients),
                "xla": tf.function(output_and_gradients, jit_compile=True)}[run]
    for a, b in zip(function(ours, x), output_and_gradients(theirs, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("inverse", [False, True])
def test_bfloat16(inverse, x):
    wide = built(GDN(inverse))
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        narrow = built(GDN(inverse))
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    # Weights of 1e-3 are far below what bfloat16 resolves beside the pedestal of their parameter.
    for layer in (wide, narrow):
        layer.weights[1].assign(tf.fill(layer.weights[1].shape, 1e-3))
    found = output_and_gradients(narrow, tf.cast(x, tf.bfloat16))
    assert found[0].dtype == found[1].dtype == tf.bfloat16
    assert {gradient.dtype for gradient in found[2:]} == {tf.float32}
    for a, b in zip(found, output_and_gradients(wide, x)):
        assert np.linalg.norm(tf.cast(a, tf.float32) - b) < 0.02 * np.linalg.norm(b)


def test_forward_mode(x):
    # Receptive fields of syntheses are measured by it.
    layer = built(GDN())
    direction = tf.random.stateless_normal(x.shape, (0, 1))
    with tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
        y = layer(x)
    step = 1e-3
    numeric = (layer(x + step * direction) - layer(x - step * direction)) / (2 * step)
    away = np.min(np.abs(x), axis=-1) > 0.02  # no sign changes within the step
    np.testing.assert_allclose(accumulator.jvp(y)[away], numeric[away], atol=2e-3)
