import numpy as np
import pytest
import tensorflow as tf

from common import transforms
from common.transforms import convolution, layers, mbconv
from tests.helpers.narrow_transforms import narrow


def test_sub_pixel_kernels_start_as_nearest_neighbour():
    layer = layers.subpixel(3, kernel=1, block=2)
    y = layer(np.random.default_rng(0).normal(size=(1, 4, 5, 6)).astype(np.float32)).numpy()
    assert y.shape == (1, 8, 10, 3) and np.std(y) > 0.1
    for row, column in [(0, 1), (1, 0), (1, 1)]:
        np.testing.assert_array_equal(y[:, ::2, ::2], y[:, row::2, column::2])


@pytest.mark.parametrize("build", [
    lambda: narrow("CNNSynthesis"), lambda: mbconv.mbconv(4, 4, activation="gdn"),
    lambda: transforms.build(dict(cls="CNNAnalysis", channels=(6, 6, 6), activation="gdn"))])
def test_each_layer_has_an_activation_of_its_own(build):
    layer = build()
    layer(tf.zeros([1, 8, 8, 4]))
    gdns = [part for part in layer.submodules if isinstance(part, layers.GDN)]
    assert len(gdns) == 2
    assert not {id(w) for w in gdns[0].weights} & {id(w) for w in gdns[1].weights}


def test_kernels_with_gaps_are_refused():
    with pytest.raises(ValueError, match="kernel 3 with stride 4"):
        layers.deconv(3, 3, stride=4)


@pytest.mark.parametrize("kernel, stride", [(3, 1), (5, 2), (9, 4)])
def test_deconv_is_the_transpose_of_conv(kernel, stride):
    # <conv(x), y> = <x, deconv(y)>, so that latents lie on the image where they came from.
    rng = np.random.default_rng(0)
    down = layers.conv(4, kernel, stride=stride, use_bias=False)
    up = layers.deconv(3, kernel, stride=stride)
    x = rng.normal(size=(1, 16, 16, 3)).astype(np.float32)
    y = rng.normal(size=(1, 16 // stride, 16 // stride, 4)).astype(np.float32)
    down(x), up(y)
    [weight] = (weight for weight in up.trainable_weights if weight.shape.rank == 4)
    weight.assign(tf.transpose(down.kernel, [0, 1, 3, 2]))
    assert np.sum(down(x) * y) == pytest.approx(np.sum(x * up(y)), rel=1e-3)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def with_weights(layer, *shape):
    """A layer, built for this input, with weights that all matter."""
    layer(tf.zeros(shape))
    for seed, weight in enumerate(layer.weights):
        weight.assign(np.abs(numbers(*weight.shape, seed=seed)) if "gdn" in weight.name
                      else numbers(*weight.shape, seed=seed))
    return layer


def correlated(x, kernel, bias, origin, stride, mode):
    """By the definition, for x [H, W, C] in NumPy: tap a reads x at i stride + origin + a."""
    rows, columns, _, filters = kernel.shape
    height, width = (-(-side // stride) for side in x.shape[:2])
    y = np.zeros((height, width, filters)) + bias
    around = [(max(0, -first), max(0, side + first + size))
              for first, side, size in zip(origin, x.shape, kernel.shape)]
    padded = np.pad(x, [*around, (0, 0)], mode)
    for i, j in np.ndindex(height, width):
        top, left = (place * stride + first + before for place, first, (before, _) in zip(
            (i, j), origin, around))
        y[i, j] += np.einsum("abc,abcf->f", padded[top:top + rows, left:left + columns], kernel)
    return y


@pytest.mark.parametrize("mode", ["constant", "reflect"])
@pytest.mark.parametrize("kernel, origin, stride", [
    ((3, 3), (-1, -1), 1),
    ((7, 7), (-3, -3), 1),
    ((3, 3), (-1, 0), 2),
    ((5, 5), (-1, -1), 2),
    ((5, 4), (-2, -3), 3),
    ((1, 1), (0, 0), 2),
    ((2, 2), (1, 0), 2),
], ids=str)
def test_shifted_convolutions_are_what_they_say(kernel, origin, stride, mode):
    layer = layers.ShiftedConv(4, kernel, origin, stride=stride,
                               padding={"constant": "zeros"}.get(mode, mode))
    with_weights(layer, 1, 4, 4, 3)
    for height in range(1, 10):
        for width in {1, 2, 5, 10 - height}:
            x = numbers(height, width, 3, seed=width)
            expected = correlated(x, *map(np.asarray, layer.weights), origin, stride, mode)
            np.testing.assert_allclose(layer(x[None])[0], expected, atol=1e-4)


@pytest.mark.parametrize("kernel, stride", [(5, 2), (3, 2), (4, 2), (9, 4), (1, 2), (3, 1), (4, 1)])
def test_alignment_is_that_of_keras(kernel, stride):
    for width in (4, 12):
        x = numbers(2, 8, width, 3)
        ours = with_weights(layers.conv(4, kernel, stride, align="keras"), *x.shape)
        theirs = tf.keras.layers.Conv2D(4, kernel, stride, "same")
        theirs(x)
        theirs.set_weights(ours.get_weights())
        np.testing.assert_allclose(ours(x), theirs(x), atol=1e-4)
        if kernel < stride:
            continue
        up = with_weights(layers.deconv(4, kernel, stride, align="keras"), *x.shape)
        expected = tf.nn.conv2d_transpose(
            x, up.weights[0], [2, 8 * stride, width * stride, 4], stride, "SAME") + up.weights[1]
        np.testing.assert_allclose(up(x), expected, atol=1e-4)


def test_alignments_differ_where_strides_are_even():
    x = numbers(1, 8, 8, 3)
    for make, same in [((5, 2), False), ((3, 2), False), ((3, 1), True), ((5, 1), True)]:
        ours, theirs = (with_weights(layers.conv(4, *make, align=align), *x.shape)
                        for align in ("centre", "keras"))
        assert np.allclose(ours(x), theirs(x), atol=1e-4) == same


@pytest.mark.parametrize("name, count", [("ElicAnalysis", 4), ("TwoLayerSynthesis", 2),
                                         ("TwoLayerResSynthesis", 3)])
def test_alignment_is_that_of_all_strided_layers(name, count):
    transform = transforms.build(dict(cls=name, align="keras"))
    aligned = [part for part in transform.submodules if isinstance(
        part, layers.ShiftedConv | tf.keras.layers.Conv2DTranspose)]
    assert len(aligned) == count
    assert not any(part._stride > 1 for part in transform.submodules
                   if isinstance(part, convolution.SignalConv2D))


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("square", [False, True])
def test_gdn_divides_by_the_weighted_sum_of_magnitudes(inverse, square):
    x = numbers(1, 2, 2, 3)
    gdn = with_weights(layers.GDN(inverse, square), *x.shape)
    beta, gamma = np.asarray(gdn.beta), np.asarray(gdn.gamma)
    norm = np.sqrt(beta + x**2 @ gamma) if square else beta + np.abs(x) @ gamma
    np.testing.assert_allclose(gdn(x), x * norm if inverse else x / norm, rtol=1e-4)
    name = "i" * inverse + "gdn" + "_square" * square
    named = layers.get_activation(name)
    assert isinstance(named, layers.GDN) and (named.inverse, named.square) == (inverse, square)


def test_norms_have_an_epsilon():
    x = 1e-3 * numbers(1, 8, 8, 5)
    for norm, axes, ddof in ((layers.ChannelNorm, -1, 1), (layers.InstanceNorm, (1, 2), 0)):
        for epsilon in (1e-3, 1e-5):
            expected = (x - x.mean(axes, keepdims=True)) / np.sqrt(
                x.var(axes, ddof=ddof, keepdims=True) + epsilon)
            np.testing.assert_allclose(norm(epsilon)(x), expected, rtol=1e-3, atol=1e-6)
