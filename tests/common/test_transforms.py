import functools
import inspect

import numpy as np
import pytest
import tensorflow as tf

from common import transforms
from common.errors import UserError
from common.transforms import composites
from tests.helpers.narrow_transforms import (
    NARROW,
    in_bfloat16,
    narrow,
    pixels,
    shrinks,
    trained,
)

NAMES = sorted(transforms.REGISTRY)


@pytest.fixture(scope="module", params=sorted(NARROW))
def case(request):
    return request.param


def parameters(transform, input_channels):
    transform(tf.zeros([1, 4, 4, input_channels]))
    return sum(int(tf.size(weight)) for weight in transform.trainable_weights)


def test_every_registered_transform_is_tested():
    assert {case.partition(" ")[0] for case in NARROW} == set(NAMES)


def test_shapes_follow_from_stride_and_channels(case):
    transform = trained(case)
    stride, channels = transform.stride, transform.out_channels
    for height, width in [(1, 1), (67, 33)]:
        x = pixels(case, height, width)
        if shrinks(case):
            expected = (2, -(-height // stride), -(-width // stride), channels)
        else:
            expected = (2, x.shape[1] * stride, x.shape[2] * stride, channels)
        assert transform(x).shape == expected


def test_every_pixel_depends_on_the_latents_and_they_on_every_pixel(case):
    x, transform = pixels(case, 32, 48), trained(case)
    y = transform(x).numpy()
    if shrinks(case):
        if "Nlaic" in case:
            pytest.skip("its strided skips have gaps, and only they reach the last row")
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(transform(x) * np.random.default_rng(0).normal(size=y.shape))
        assert np.all(np.any(tape.gradient(y, x).numpy() != 0, axis=-1))
    elif "Context" in case or "Masked" in case:
        pytest.skip("nothing is before the first position")
    else:
        changed = transform(x + pixels(case, 32, 48, seed=1)).numpy()
        assert np.all(np.any(changed != y, axis=-1))


def random_sum(y):
    """A loss that depends on every number of y, float32 [B, H, W, C]."""
    return tf.reduce_sum(y * tf.random.stateless_normal(tf.shape(y), (0, 1)))


def output_and_gradients(transform, x):
    with tf.GradientTape() as tape:
        y = transform(x)
        loss = random_sum(y)
    return y, tape.gradient(loss, transform.trainable_variables)


@functools.cache
def in_float32(case):
    return output_and_gradients(trained(case), pixels(case, 64, 64))


def test_gradient_reaches_every_trainable_weight(case):
    transform, (_, gradients) = trained(case), in_float32(case)
    weights = transform.trainable_weights
    averages = {weight.name for weight in transform.weights if "moving" in weight.name}
    assert len(weights) + len(averages) == len(transform.weights) and len(weights) >= 1
    for weight, gradient in zip(weights, gradients, strict=True):
        assert gradient is not None and np.any(gradient.numpy() != 0), weight.name


def test_a_step_down_the_gradient_lowers_the_loss(case):
    transform, (y, gradients) = trained(case), in_float32(case)
    weights, kept = transform.trainable_weights, transform.get_weights()
    step = 1e-2 / tf.linalg.global_norm(gradients)
    for weight, gradient in zip(weights, gradients):
        weight.assign_sub(step * gradient)
    after = transform(pixels(case, 64, 64))
    transform.set_weights(kept)
    assert random_sum(after) < random_sum(y)


def test_a_restored_transform_has_the_weights_of_the_saved_one(case):
    saved, restored = trained(case).weights, in_bfloat16(case).weights
    for a, b in zip(saved, restored, strict=True):
        assert a.dtype == b.dtype == tf.float32
        np.testing.assert_array_equal(a, b)


@functools.cache
def bfloat16_graph(case):
    return tf.function(output_and_gradients, autograph=False).get_concrete_function(
        in_bfloat16(case), pixels(case, 64, 64))


def test_bfloat16_is_close_to_float32(case):
    y_rough, gradients_rough = bfloat16_graph(case)(pixels(case, 64, 64))
    y, gradients = in_float32(case)
    assert y_rough.dtype == y.dtype == tf.float32
    assert np.linalg.norm(y_rough - y) < 0.1 * np.linalg.norm(y)
    found, expected = (np.concatenate([np.ravel(g) for g in values])
                       for values in (gradients_rough, gradients))
    assert found.dtype == np.float32
    assert np.linalg.norm(found - expected) < 0.4 * np.linalg.norm(expected)


# Of transforms next to parameters of distributions: which of the outer layers are in float32,
# whatever the precision. Of the others both are.
_FLOAT32 = {"HyperAnalysis": [-1], "HyperSynthesis": [], "MaskedContext": [],
            "EntropyParameters": []}


def test_outer_layers_stay_in_float32(case):
    if case == "GatedContext":
        pytest.skip("has two streams, and its output is cast")
    layers = in_bfloat16(case).layers
    float32 = [layers[i] for i in _FLOAT32.get(case.partition(" ")[0], [0, -1])]
    for layer in (layers[0], layers[-1]):
        assert layer.compute_dtype == ("float32" if layer in float32 else "bfloat16")


def operations(graph):
    """All in a graph and in the functions that it calls."""
    yield from graph.as_graph_def().node
    for function in graph.as_graph_def().library.function:
        yield from function.node_def


def test_no_operation_of_training_falls_back_to_a_reference_loop(case):
    nodes = [*operations(bfloat16_graph(case).graph)]
    assert any(node.op.startswith("Conv2DBackprop") for node in nodes)
    for node in nodes:
        # No oneDNN kernel for gradients in bfloat16; written element by element.
        assert node.attr["padding"].s != b"EXPLICIT", node.name
        assert node.op != "StridedSliceGrad" or node.attr["T"].type in (
            tf.int32.as_datatype_enum, tf.int64.as_datatype_enum), node.name


def test_batch_normalisation_uses_its_averages_when_not_training():
    x = pixels("AdvDNICMod3Analysis", 64, 64)
    transform = narrow("AdvDNICMod3Analysis")
    alone, pair = transform(x[:1]), transform(x)
    np.testing.assert_allclose(pair[:1], alone, atol=1e-5)
    for _ in range(3):
        trained_on = transform(x, training=True)
    assert np.mean(np.abs(trained_on - pair)) > 0.01
    assert np.any(transform(x) != pair), "the averages did not move"


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


def test_the_first_layer_of_a_reflecting_hyper_analysis_has_zeros():
    reflecting, plain = (trained(f"HyperAnalysis{name}") for name in (" reflect", ""))
    assert [getattr(layer, "padding", None) for layer in reflecting.layers] == [
        "same_zeros", "reflect", "reflect"]
    x = pixels("HyperAnalysis", 256, 256)
    found, expected = (transform(x)[:, 2:-2, 2:-2] for transform in (reflecting, plain))
    np.testing.assert_allclose(found, expected, atol=1e-4)


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
    # Cheng et al. 2020 with N = 128, as in CompressAI.
    (dict(cls="Cheng2020HyperAnalysis"), 128, 5 * kernel(3, 128, 128)),
    (dict(cls="Cheng2020HyperSynthesis"), 128,
     kernel(3, 128, 128) + kernel(3, 128, 512) + kernel(3, 128, 192) + kernel(3, 192, 768)
     + kernel(3, 192, 256)),
], ids=lambda value: value["cls"] if isinstance(value, dict) else "")
def test_published_parameter_counts(config, input_channels, expected):
    assert parameters(transforms.build(config), input_channels) == expected


# --- Building by name -------------------------------------------------------------------------


def test_registry_holds_the_transforms_and_nothing_else():
    assert {"BLS2017Analysis", "BLS2017Synthesis", "MBT2018Analysis", "MBT2018Synthesis",
            "HyperAnalysis", "HyperSynthesis"} <= set(NAMES)
    for name, cls in transforms.REGISTRY.items():
        assert inspect.isclass(cls) and cls.__name__ == name
        assert issubclass(cls, tf.keras.Model) and cls is not composites.Transform


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
    (dict(cls="BLS2017Analysis", filters=3), "BLS2017Analysis.*filters.*channels"),
    (dict(cls="BLS2017Analysis", channels=(1, 2)), "BLS2017Analysis.*channels"),
    (dict(cls="MBT2018Synthesis", channels=()), "MBT2018Synthesis.*channels"),
    (dict(cls="HyperAnalysis", channels=(1, 2, 3), activation="relux"), "HyperAnalysis.*relux"),
    (dict(cls="HyperAnalysis", align="right"), "alignment 'right'; known: centre, keras"),
    (dict(cls="HyperSynthesis", align="right"), "alignment 'right'; known: centre, keras"),
    (dict(cls="HyperAnalysis", padding="edge"), "padding 'edge'; known: zeros, reflect"),
    (dict(cls="HiFiCSynthesis", padding="edge"), "padding 'edge'; known: zeros, reflect"),
])
def test_mistakes_in_the_config_are_user_errors(config, message):
    with pytest.raises(UserError, match=message):
        transforms.build(config)
