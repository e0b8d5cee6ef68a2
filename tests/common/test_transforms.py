import inspect

import numpy as np
import pytest
import tensorflow as tf

from common import transforms
from common.cli import UserError
from common.transforms import layers

NAMES = sorted(transforms.REGISTRY)


@pytest.fixture(scope="module", params=NAMES)
def transform(request):
    """Every transform with the widths of its paper, and whether it makes its input smaller."""
    arguments = dict(latents=3) if request.param == "GatedContext" else {}
    return transforms.build({"cls": request.param, **arguments}), "Analysis" in request.param


def parameters(transform, input_channels):
    transform(tf.zeros([1, 4, 4, input_channels]))
    return sum(int(tf.size(weight)) for weight in transform.trainable_weights)


@pytest.mark.parametrize("height, width", [(1, 1), (1, 65), (67, 33), (32, 48)])
def test_shapes_follow_from_stride_and_channels(transform, height, width):
    transform, shrinks = transform
    stride, channels = transform.stride, transform.out_channels
    if shrinks:
        expected = (1, -(-height // stride), -(-width // stride), channels)
    else:
        height, width = -(-height // 8), -(-width // 8)
        expected = (1, height * stride, width * stride, channels)
    assert transform(tf.zeros([1, height, width, 3])).shape == expected


def test_gradient_reaches_every_trainable_weight(transform):
    transform, shrinks = transform
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(1, 32, 32, 3) if shrinks else (1, 2, 2, 3)), tf.float32)
    with tf.GradientTape() as tape:
        y = transform(x)
        loss = tf.reduce_sum(y * rng.normal(size=y.shape))
    weights = transform.trainable_weights
    assert len(weights) == len(transform.weights) >= 2
    for weight, gradient in zip(weights, tape.gradient(loss, weights)):
        assert gradient is not None and np.any(gradient.numpy() != 0), weight.name


def test_transform_is_local_and_shifts_with_its_input():
    # What is far from a changed pixel stays as it is; a shift by the stride is a shift by one.
    analysis = transforms.build(dict(cls="MBT2018Analysis", channels=(4, 4, 5)))
    x = np.random.default_rng(0).normal(size=(1, 128, 128, 3)).astype(np.float32)
    moved = np.roll(x, (8, 16), axis=(1, 2))
    y, y_moved = analysis(x).numpy(), analysis(moved).numpy()
    np.testing.assert_allclose(
        np.roll(y, (1, 2), axis=(1, 2))[:, 5:-5, 5:-5], y_moved[:, 5:-5, 5:-5], atol=1e-4)
    changed = x.copy()
    changed[0, 64, 64] += 1
    rows, columns = np.nonzero(np.abs(analysis(changed).numpy() - y)[0].max(axis=-1) > 1e-6)
    assert {*rows, *columns} <= {6, 7, 8, 9, 10} and 8 in rows and 8 in columns


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


def test_gdn_divides_by_the_weighted_sum_of_magnitudes():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 2, 2, 3)).astype(np.float32)
    for inverse in (False, True):
        gdn = layers.gdn(inverse)
        y = gdn(x).numpy()
        norm = gdn.beta + np.abs(x) @ np.asarray(gdn.gamma)
        np.testing.assert_allclose(y, x * norm if inverse else x / norm, rtol=1e-4)


@pytest.mark.parametrize("name, count", [("BLS2017", 2), ("MBT2018", 3)])
def test_analysis_normalises_and_synthesis_undoes_it(name, count):
    for end, inverse in (("Analysis", False), ("Synthesis", True)):
        *inner, last = transforms.build(dict(cls=name + end)).layers
        assert [layer.activation.inverse for layer in inner] == [inverse] * count
        assert last.activation is tf.keras.activations.linear


# --- Published parameter counts ---------------------------------------------------------------


def kernel(size, inputs, outputs, bias=True):
    return size * size * inputs * outputs + bias * outputs


GDN_192, GDN_256 = 192 * 192 + 192, 256 * 256 + 256


@pytest.mark.parametrize("config, input_channels, expected", [
    # Ballé et al. 2017; the analysis ends without a bias.
    (dict(cls="BLS2017Analysis"), 3,
     kernel(9, 3, 256) + 2 * GDN_256 + kernel(5, 256, 256) + kernel(5, 256, 256, bias=False)),
    (dict(cls="BLS2017Synthesis"), 256,
     2 * kernel(5, 256, 256) + 2 * GDN_256 + kernel(9, 256, 3)),
    # Minnen et al. 2018, N = M = 192.
    (dict(cls="MBT2018Analysis"), 3, 2_779_968 + 3 * 37_056),
    (dict(cls="MBT2018Synthesis"), 192, 3 * kernel(5, 192, 192) + 3 * GDN_192 + kernel(5, 192, 3)),
    (dict(cls="HyperAnalysis"), 192, 331_968 + 2 * 921_792),
    (dict(cls="HyperSynthesis"), 192, 921_792 + 1_382_688 + 995_712),
    # Yang & Mandt 2023, tables of the hyper transforms.
    (dict(cls="HyperAnalysis", channels=(320, 320, 320)), 320, 6_042_560),
    (dict(cls="HyperSynthesis", channels=(320, 480, 640)), 320, 9_166_240),
], ids=lambda value: value["cls"] if isinstance(value, dict) else "")
def test_published_parameter_counts(config, input_channels, expected):
    assert parameters(transforms.build(config), input_channels) == expected


# --- Building by name -------------------------------------------------------------------------


def test_registry_holds_the_transforms_and_nothing_else():
    assert {"BLS2017Analysis", "BLS2017Synthesis", "MBT2018Analysis", "MBT2018Synthesis",
            "HyperAnalysis", "HyperSynthesis"} <= set(NAMES)
    for name, cls in transforms.REGISTRY.items():
        assert inspect.isclass(cls) and cls.__name__ == name
        assert issubclass(cls, tf.keras.Model) and cls is not layers.Transform


def test_build_passes_the_arguments_on():
    analysis = transforms.build(dict(cls="HyperAnalysis", channels=[4, 5, 6], activation="elu"))
    assert isinstance(analysis, transforms.REGISTRY["HyperAnalysis"])
    assert analysis.out_channels == 6
    analysis(tf.zeros([1, 4, 4, 7]))
    kernels = [w.shape for w in analysis.trainable_weights if w.shape.rank == 4]
    assert kernels == [(3, 3, 7, 4), (5, 5, 4, 5), (5, 5, 5, 6)]
    assert analysis.layers[0].activation is tf.keras.activations.elu


@pytest.mark.parametrize("config, message", [
    (dict(cls="MBT2018Analysys"), "did you mean 'MBT2018Analysis'"),
    (dict(cls="mbt2018"), "MBT2018"),
    (dict(cls="Transform"), "unknown transform 'Transform'"),
    (dict(cls="xyz"), "BLS2017Analysis.*MBT2018Synthesis"),
    (dict(channels=(1, 2, 3)), "unknown transform 'None'"),
    (dict(cls="BLS2017Analysis", filters=3), "BLS2017Analysis.*channels.*filters"),
    (dict(cls="BLS2017Analysis", channels=(1, 2)), "BLS2017Analysis.*channels"),
    (dict(cls="MBT2018Synthesis", channels=()), "MBT2018Synthesis.*channels"),
    (dict(cls="HyperAnalysis", channels=(1, 2, 3), activation="relux"), "HyperAnalysis.*relux"),
])
def test_mistakes_in_the_config_are_user_errors(config, message):
    with pytest.raises(UserError, match=message):
        transforms.build(config)
