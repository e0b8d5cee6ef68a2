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


def of_library(inverse, square):
    exponents = dict(alpha_parameter=2, epsilon_parameter=0.5) if square else {}
    return tfc.GDN(inverse, **exponents)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("square", [False, True])
def test_weights_are_those_of_the_library(inverse, square, x):
    ours, theirs, plain = GDN(inverse, square), of_library(inverse, square), GDN(inverse)
    for layer in (ours, theirs, plain):
        layer(x)
    for a, b, c in zip(ours.weights, theirs.weights, plain.weights, strict=True):
        assert a.name.partition("/")[2] == b.name.partition("/")[2] == c.name.partition("/")[2]
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("run", ["eager", "graph", "xla"])
def test_outputs_and_gradients_are_those_of_the_library(inverse, square, run, x):
    ours, theirs = built(GDN(inverse, square)), built(of_library(inverse, square))
    function = {"eager": output_and_gradients, "graph": tf.function(output_and_gradients),
                "xla": tf.function(output_and_gradients, jit_compile=True)}[run]
    for a, b in zip(function(ours, x), output_and_gradients(theirs, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("square", [False, True])
def test_bfloat16(inverse, square, x):
    wide = built(GDN(inverse, square))
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        narrow = built(GDN(inverse, square))
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    # Weights of 1e-3 are far below what bfloat16 resolves beside the pedestal of their parameter.
    for layer in (wide, narrow):
        layer.weights[1].assign(tf.fill(layer.weights[1].shape, 1e-3))
    found = output_and_gradients(narrow, tf.cast(x, tf.bfloat16))
    assert found[0].dtype == found[1].dtype == tf.bfloat16
    assert {gradient.dtype for gradient in found[2:]} == {tf.float32}
    for a, b in zip(found, output_and_gradients(wide, x)):
        # Squares are rounded too, and magnitudes are not.
        assert np.linalg.norm(tf.cast(a, tf.float32) - b) < (
            0.03 if square else 0.02) * np.linalg.norm(b)


@pytest.mark.parametrize("inverse", [False, True])
def test_gradients_of_squares_are_finite_in_bfloat16(inverse):
    # With beta at its least, and numbers whose squares are very small and very large.
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        layer = built(GDN(inverse, square=True))
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    layer.weights[0].assign(tf.zeros(layer.weights[0].shape))
    x = tf.constant([0, 1e-30, -1e-6, 1, -1e3, 1e6], tf.bfloat16)[None, None, None]
    for scale in (1, 0):
        for value in output_and_gradients(layer, scale * x):
            assert np.all(np.isfinite(tf.cast(value, tf.float32)))


@pytest.mark.parametrize("square", [False, True])
def test_forward_mode(square, x):
    # Receptive fields of syntheses are measured by it.
    layer = built(GDN(square=square))
    direction = tf.random.stateless_normal(x.shape, (0, 1))
    with tf.autodiff.ForwardAccumulator(x, direction) as accumulator:
        y = layer(x)
    step = 1e-3
    numeric = (layer(x + step * direction) - layer(x - step * direction)) / (2 * step)
    away = np.min(np.abs(x), axis=-1) > 0.02  # no sign changes within the step
    np.testing.assert_allclose(accumulator.jvp(y)[away], numeric[away], atol=2e-3)
