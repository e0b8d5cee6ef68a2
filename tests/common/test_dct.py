import numpy as np
import pytest
import tensorflow as tf

from common import tiles
from common.errors import ConversionError
from common.integer_builder import Builder
from common.transforms import contract, dct
from common.transforms.residual import ResidualAnalysis, ResidualSynthesis

CHANNELS = 12


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_basis_is_orthonormal():
    rows = dct.basis(16, 768).reshape(768, -1)
    np.testing.assert_allclose(rows @ rows.T, np.eye(768), atol=1e-12)


def test_first_is_the_mean_and_luminance_comes_before_colour():
    first, *others = dct.basis(8, 6)
    np.testing.assert_allclose(first, 1 / np.sqrt(3 * 64))
    grey = [np.ptp(image, axis=-1).max() < 1e-12 for image in others]
    assert grey[:3] == [True, True, True] and not all(grey)


@pytest.mark.parametrize("channels", [0, 193])
def test_number_of_channels(channels):
    with pytest.raises(ValueError, match=f"{channels} channels; blocks of 8 x 8 have 192"):
        dct.DCT(channels, block=8)


def test_inverse(rng):
    image = rng.uniform(-0.5, 0.5, [2, 16, 24, 3]).astype(np.float32)
    y = dct.DCT(192, block=8)(image)
    assert y.shape == (2, 2, 3, 192)
    np.testing.assert_allclose(dct.InverseDCT(block=8)(y), image, atol=1e-5)


def test_fewer_channels_are_the_projection_to_them(rng):
    image = rng.uniform(-0.5, 0.5, [1, 8, 8, 3]).astype(np.float32)
    rows = dct.basis(8, 5).reshape(5, -1)
    expected = (rows.T @ rows @ image.ravel()).reshape(image.shape)
    projected = dct.InverseDCT(block=8)(dct.DCT(5, block=8)(image))
    np.testing.assert_allclose(projected, expected, atol=1e-5)


def transforms():
    channels = (4, 6, 6, CHANNELS)
    return (ResidualAnalysis(channels, dct=True),
            ResidualSynthesis((6, 6, 4, 3), dct=True))


def test_fresh_transforms_are_the_cosine_transform(rng):
    analysis, synthesis = transforms()
    image = rng.uniform(-0.5, 0.5, [1, 32, 48, 3]).astype(np.float32)
    y = analysis(image)
    np.testing.assert_allclose(y, dct.DCT(CHANNELS)(image), atol=1e-5)
    np.testing.assert_allclose(synthesis(y), dct.InverseDCT()(y), atol=1e-5)


def test_it_has_no_weights_and_the_last_layer_learns_at_once(rng):
    image = rng.uniform(-0.5, 0.5, [1, 32, 48, 3]).astype(np.float32)
    without = ResidualAnalysis((4, 6, 6, CHANNELS)), ResidualSynthesis((6, 6, 4, 3))
    for transform, plain, x in zip(transforms(), without, (image, dct.DCT(CHANNELS)(image))):
        plain(x)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(transform(x)**2)
        assert [w.shape for w in transform.weights] == [w.shape for w in plain.weights]
        for gradient in tape.gradient(loss, transform.layers[-1].trainable_weights):
            assert np.abs(gradient).max() > 0


def test_it_has_no_integer_form():
    analysis, _ = transforms()
    analysis(tf.zeros([1, 16, 16, 3]))
    builder = Builder()
    x = builder.input(0, 3, 8, 2**8)
    with pytest.raises(ConversionError, match="DCT.* has no integer form"):
        contract.integers(analysis, builder, x)


def test_tiles(rng):
    analysis, synthesis = transforms()
    for transform in (analysis, synthesis):
        for weight in transform.weights:  # for the last layer starts with zeros
            weight.assign(weight + rng.normal(0, 0.01, weight.shape))
    image = rng.uniform(-0.5, 0.5, [1, 160, 208, 3]).astype(np.float32)
    y = tiles.run(analysis, image, down=16, training=False)
    tiled = tiles.run(analysis, image, down=16, side=64, training=False)
    np.testing.assert_allclose(tiled, y, atol=1e-4)
    whole = tiles.run(synthesis, y, up=16, training=False)
    np.testing.assert_allclose(
        tiles.run(synthesis, y, up=16, side=64, training=False), whole, atol=1e-4)
