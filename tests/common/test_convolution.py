import numpy as np
import pytest
import tensorflow as tf
import tensorflow_compression as tfc

from common.transforms import convolution

# Kernel and stride; of those that up-sample, the kernel is at least as large as the stride.
SIZES = [(1, 1), (3, 1), (5, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 2), (5, 3), (6, 4), (9, 4),
         (13, 8)]


def both(kernel, stride, corr, filters, seed=0):
    """A layer of ours and one of the library's with the same weights."""
    tf.keras.utils.set_random_seed(seed)
    options = dict(corr=corr, use_bias=True,
                   **{"strides_down" if corr else "strides_up": stride})
    ours = convolution.SignalConv2D(filters, kernel, **options)
    theirs = tfc.SignalConv2D(filters, kernel, padding="same_zeros",
                              kernel_parameter="variable", **options)
    for layer in (ours, theirs):
        layer.build([None, None, None, 5])
    for weight, value in zip(ours.weights, theirs.weights):
        value.assign_add(tf.random.normal(value.shape))
        weight.assign(value)
    return ours, theirs


def output_and_gradients(layer, x, precision=tf.float32):
    x = tf.cast(x, precision)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        loss = tf.reduce_sum(tf.sin(tf.cast(y, tf.float32)))
    return y, *tape.gradient(loss, [x, *layer.trainable_variables])


@pytest.mark.parametrize("corr", [True, False], ids=["down", "up"])
@pytest.mark.parametrize("filters", [3, 20])  # with and without polyphase
@pytest.mark.parametrize("kernel, stride", SIZES)
def test_outputs_and_gradients_are_those_of_the_library(kernel, stride, filters, corr):
    if kernel == 2 and not corr and stride == 1:
        pytest.skip("the library's explicit padding puts it elsewhere; nothing has such a layer")
    ours, theirs = both((kernel, kernel), stride, corr, filters)
    for shape in [(2, 5, 8, 5), (1, 1, 1, 5), (1, 1, 11, 5)]:
        x = tf.random.stateless_normal(shape, (1, 2))
        for a, b in zip(output_and_gradients(ours, x), output_and_gradients(theirs, x)):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_strided_kernels_of_one_weight_keep_to_their_memory():
    # oneDNN's gradient of them does not: this crashed in one of two runs.
    layer = convolution.SignalConv2D(6, 1, corr=True, strides_down=2, use_bias=True)
    plain = tf.keras.layers.Conv2D(6, 1)
    for seed in range(60):
        x = tf.random.stateless_normal([2, 63, 64, 3], (0, seed))
        found = output_and_gradients(layer, x)
        if seed == 0:
            plain(x)
            plain.set_weights(layer.get_weights())
    expected = output_and_gradients(plain, x[:, ::2, ::2])
    for a, b in zip((found[0], found[1][:, ::2, ::2], *found[2:]), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("filters", [3, 20])
def test_kernels_that_are_not_square(filters):
    for corr in (True, False):
        ours, theirs = both((3, 6), 2, corr, filters)
        x = tf.random.stateless_normal([1, 6, 9, 5], (1, 2))
        np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("corr, filters", [(True, 20), (False, 3), (False, 20)])
def test_sizes_may_be_known_later(corr, filters):
    ours, _ = both((5, 5), 2, corr, filters)
    graph = tf.function(ours.call, [tf.TensorSpec([None, None, None, 5])])
    for shape in [(2, 8, 8, 5), (1, 5, 7, 5)]:
        x = tf.random.stateless_normal(shape, (1, 2))
        np.testing.assert_allclose(graph(x), ours(x), rtol=1e-5, atol=1e-5)
    known = tf.function(ours.call, [tf.TensorSpec([2, 8, 6, 5])])
    shape = (2, 4, 3, filters) if corr else (2, 16, 12, filters)
    assert known.get_concrete_function().output_shapes == shape


@pytest.mark.parametrize("corr, filters", [(True, 20), (False, 3), (False, 20)])
def test_bfloat16_has_the_outputs_and_gradients_of_float32(corr, filters):
    _, wide = both((5, 5), 2, corr, filters)
    tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        narrow, _ = both((5, 5), 2, corr, filters)
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    x = tf.random.stateless_normal([2, 8, 8, 5], (1, 2))
    expected = output_and_gradients(wide, x)
    found = output_and_gradients(narrow, x, tf.bfloat16)
    assert found[0].dtype == tf.bfloat16 and found[2].dtype == tf.float32
    for a, b in zip(found, expected):
        error = np.linalg.norm(tf.cast(a, tf.float32) - b) / np.linalg.norm(b)
        assert error < 0.05


@pytest.mark.parametrize("options", [
    dict(corr=True, strides_up=2), dict(corr=False, strides_down=2),
    dict(corr=True, strides_down=(1, 2)), dict(corr=False, strides_up=(2, 3)),
    dict(corr=False, strides_up=2, strides_down=2)])
def test_other_strides_are_refused(options):
    with pytest.raises(ValueError, match="strides"):
        convolution.SignalConv2D(4, 5, **options)
