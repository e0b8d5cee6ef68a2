import functools
import inspect

import numpy as np
import pytest
import tensorflow as tf

from common import padding, precision, transforms, weights
from common.errors import UserError
from common.transforms import attention, composites, convolution, layers, mbconv
from tests.helpers.narrow_transforms import NARROW, narrow, pixels, shrinks, trained

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
    for height, width in [(1, 1), (1, 65), (67, 33), (32, 48)]:
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


def test_gradient_reaches_every_trainable_weight(case):
    x, transform = pixels(case, 64, 64), trained(case)
    with tf.GradientTape() as tape:
        y = transform(x)
        loss = tf.reduce_sum(y * np.random.default_rng(0).normal(size=y.shape))
    weights = transform.trainable_weights
    averages = {weight.name for weight in transform.weights if "moving" in weight.name}
    assert len(weights) + len(averages) == len(transform.weights) and len(weights) >= 1
    for weight, gradient in zip(weights, tape.gradient(loss, weights)):
        assert gradient is not None and np.any(gradient.numpy() != 0), weight.name


def test_a_restored_transform_is_the_saved_one(case, tmp_path):
    x = pixels(case, 33, 40)
    saved, restored = trained(case), narrow(case, seed=1)
    restored(x)
    assert np.any(saved(x) != restored(x))
    path = tf.train.Checkpoint(transform=saved).write(str(tmp_path / "weights"))
    tf.train.Checkpoint(transform=restored).read(path).assert_consumed()
    np.testing.assert_array_equal(saved(x), restored(x))


def test_a_training_step_lowers_the_loss(case):
    x, transform = pixels(case, 64, 64), trained(case)
    target = np.random.default_rng(2).normal(size=transform(x).shape)

    def loss():
        return tf.reduce_mean(tf.square(transform(x, training=True) - target))

    weights, kept = transform.trainable_weights, transform.get_weights()
    with tf.GradientTape() as tape:
        before = loss()
    gradients = tape.gradient(before, weights)
    step = 1e-2 / tf.linalg.global_norm(gradients)
    for weight, gradient in zip(weights, gradients):
        weight.assign_sub(step * gradient)
    after = loss()
    transform.set_weights(kept)
    assert after < before


def in_bfloat16(case):
    """The weights of `trained(case)` in a transform for bfloat16."""
    with precision.policy("bfloat16"):
        rough = narrow(case)
        rough(pixels(case, 64, 64))
    for weight, value in zip(rough.weights, trained(case).weights, strict=True):
        assert weight.dtype == tf.float32 and weight.shape == value.shape
        weight.assign(value)
    return rough


def output_and_gradients(transform, x):
    with tf.GradientTape() as tape:
        y = transform(x)
        loss = tf.reduce_sum(y * tf.random.stateless_normal(tf.shape(y), (0, 1)))
    return y, tape.gradient(loss, transform.trainable_variables)


def test_bfloat16_is_close_to_float32(case):
    x, rough = pixels(case, 64, 64), in_bfloat16(case)
    y_rough, gradients_rough = output_and_gradients(rough, x)
    y, gradients = output_and_gradients(trained(case), x)
    assert y_rough.dtype == y.dtype == tf.float32
    assert np.linalg.norm(y_rough - y) < 0.1 * np.linalg.norm(y)
    found, expected = (np.concatenate([np.ravel(g) for g in values])
                       for values in (gradients_rough, gradients))
    assert found.dtype == np.float32
    assert np.linalg.norm(found - expected) < 0.25 * np.linalg.norm(expected)


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
    transform, x = in_bfloat16(case), pixels(case, 64, 64)
    graph = tf.function(output_and_gradients, autograph=False).get_concrete_function(
        transform, x).graph
    nodes = [*operations(graph)]
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


@pytest.mark.parametrize("height, width", [(5, 7), (16, 9)])
def test_windowed_attention_is_that_of_each_window(height, width):
    # Against the formula, window by window: softmax(theta phi') g, keys pooled in pairs.
    layer, n, rng = attention.non_local(6, window=4), 4, np.random.default_rng(0)
    x = rng.normal(size=(1, height, width, 6)).astype(np.float32)
    y = layer(x).numpy()
    inner = layer.layers[0].layers
    theta, phi, g = (w.kernel.numpy()[0, 0] for w in (
        inner[0]._theta, inner[0]._phi, inner[0]._g))
    padded = padding.pad_to_multiple(tf.constant(x), n).numpy()
    for top in range(0, height, n):
        for left in range(0, width, n):
            window = padded[0, top:top + n, left:left + n].reshape(-1, 6)
            keys, values = ((window @ w).reshape(-1, 2, 3).max(axis=1) for w in (phi, g))
            logits = window @ theta @ keys.T
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            attended = weights / weights.sum(axis=1, keepdims=True) @ values
            expected = window + attended @ inner[1].kernel.numpy()[0, 0] + inner[1].bias.numpy()
            expected = expected.reshape(n, n, 6)
            found = y[0, top:top + n, left:left + n]
            np.testing.assert_allclose(
                found, expected[:found.shape[0], :found.shape[1]], atol=1e-4)


def test_grouped_convolution_is_one_for_each_group():
    layer, rng = attention.GroupedConv(groups=2, size=3), np.random.default_rng(0)
    x = rng.normal(size=(1, 5, 6, 6)).astype(np.float32)
    y = layer(x).numpy()
    kernel = layer._depthwise.depthwise_kernel.numpy()  # [3, 3, 6, 3]
    for group in range(2):
        part = slice(3 * group, 3 * group + 3)
        expected = tf.nn.conv2d(x[..., part], kernel[:, :, part], 1, "SAME")
        np.testing.assert_allclose(y[..., part], expected, atol=1e-5)


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


def reflected(x, *ends):
    return tf.pad(x, [(0, 0), *ends, (0, 0)], "REFLECT")


def test_hific_reflects_as_its_port_to_pytorch_does():
    # Channel norms are left as they are; layers are written out, with tf.pad.
    analysis = trained("HiFiCAnalysis reflect")
    x = pixels("HiFiCAnalysis reflect", 32, 40)
    first, norm, relu, *halving, last = analysis.layers
    y = relu(norm(tf.nn.conv2d(reflected(x, (3, 3), (3, 3)), first.kernel, 1, "VALID")
                  + first.bias))
    for conv, norm, relu in zip(halving[::3], halving[1::3], halving[2::3]):
        y = relu(norm(tf.nn.conv2d(reflected(y, (1, 0), (0, 1)), conv.kernel, 2, "VALID")
                      + conv.bias))
    y = tf.nn.conv2d(reflected(y, (1, 1), (1, 1)), last.kernel, 1, "VALID") + last.bias
    np.testing.assert_allclose(analysis(x), y, atol=1e-4)

    synthesis = trained("HiFiCSynthesis reflect")
    x = pixels("HiFiCSynthesis reflect", 32, 40)
    first, conv, norm, residual, *doubling, last = synthesis.layers

    def narrow(x, conv):
        return tf.nn.conv2d(reflected(x, (1, 1), (1, 1)), conv.kernel, 1, "VALID") + conv.bias

    y = head = norm(narrow(first(x), conv))
    for block in residual.layers:
        one, norm_one, relu, two, norm_two = block.layers
        y += norm_two(narrow(relu(norm_one(narrow(y, one))), two))
    y += head
    for layer in doubling:
        y = layer(y)
    y = tf.nn.conv2d(reflected(y, (3, 3), (3, 3)), last.kernel, 1, "VALID") + last.bias
    np.testing.assert_allclose(synthesis(x), tf.tanh(y), atol=1e-4)


def test_the_first_layer_of_a_reflecting_hyper_analysis_has_zeros():
    reflecting, plain = (trained(f"HyperAnalysis{name}") for name in (" reflect", ""))
    assert [getattr(layer, "padding", None) for layer in reflecting.layers] == [
        "same_zeros", "reflect", "reflect"]
    x = pixels("HyperAnalysis", 256, 256)
    found, expected = (transform(x)[:, 2:-2, 2:-2] for transform in (reflecting, plain))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_norms_have_an_epsilon():
    x = 1e-3 * numbers(1, 8, 8, 5)
    for norm, axes, ddof in ((layers.ChannelNorm, -1, 1), (layers.InstanceNorm, (1, 2), 0)):
        for epsilon in (1e-3, 1e-5):
            expected = (x - x.mean(axes, keepdims=True)) / np.sqrt(
                x.var(axes, ddof=ddof, keepdims=True) + epsilon)
            np.testing.assert_allclose(norm(epsilon)(x), expected, rtol=1e-3, atol=1e-6)


def leaky(x):
    return tf.nn.leaky_relu(x, 0.01)


def test_blocks_of_cheng2020_are_the_formulas_of_the_paper():
    analysis, synthesis = (trained(f"Cheng2020{end} attention")
                           for end in ("Analysis", "Synthesis"))
    down, block, _, attention, *_ = analysis.layers
    x = pixels("Cheng2020Analysis", 32, 32)
    (one, two), (skip,) = (branch.layers for branch in down.branches)
    y = two.activation(plain(two, leaky(plain(one, x, 2)))) + plain(skip, x, 2)
    np.testing.assert_allclose(down(x), y, atol=1e-3)
    assert (two.activation.inverse, two.activation.square) == (False, True)
    one, two = block.layers
    np.testing.assert_allclose(block(y), y + leaky(plain(two, leaky(plain(one, y)))), atol=1e-3)

    [gated] = attention.layers

    def unit(x, layer):  # the ReLU is after the sum
        first, second, third = layer.layers[0].layers
        return tf.nn.relu(x + plain(third, tf.nn.relu(plain(second, tf.nn.relu(plain(first, x))))))

    trunk, (*mask, last) = gated.trunk.layers, gated.mask.layers
    assert len(trunk) == len(mask) == 3
    expected = y + functools.reduce(unit, trunk, y) * tf.sigmoid(
        plain(last, functools.reduce(unit, mask, y)))
    np.testing.assert_allclose(attention(y), expected, atol=1e-3)

    up = synthesis.layers[2]
    x = pixels("Cheng2020Synthesis", 32, 32)
    (one, two), (skip,) = (branch.layers for branch in up.branches)
    wide, thin = (tf.nn.depth_to_space(plain(part.layers[0], x), 2) for part in (one, skip))
    np.testing.assert_allclose(
        up(x), two.activation(plain(two, leaky(wide))) + thin, atol=1e-3)
    assert (two.activation.inverse, two.activation.square) == (True, True)


def plain(conv, x, stride=1):
    """A convolution without its activation, with zeros on both sides."""
    size = conv.kernel.shape[0] // 2
    x = tf.pad(x, [(0, 0), (size, size), (size, size), (0, 0)])
    return tf.nn.conv2d(x, conv.kernel, stride, "VALID") + conv.bias


def test_attention_may_be_left_out_of_cheng2020():
    for end, missing in (("Analysis", [3, 8]), ("Synthesis", [0, 5])):
        attentive = narrow(f"Cheng2020{end} attention").layers
        plain = transforms.build(dict(cls=f"Cheng2020{end}", channels=6)).layers
        assert [type(layer) for layer in plain] == [
            type(layer) for i, layer in enumerate(attentive) if i not in missing]
        assert all(isinstance(attentive[i].layers[0], composites.Gated) for i in missing)
        assert not any(isinstance(part, composites.Gated) for layer in plain
                       for part in layer.submodules)


def test_weights_of_cheng2020_are_in_the_order_of_computation():
    # In which CompressAI's are too: convolutions, GDN, then the way around.
    names = [*weights.named({"g": trained("Cheng2020Analysis attention")})]
    assert [name for name in names if name.startswith(("g/0/", "g/3/"))][:8] == [
        "g/0/0/0/kernel", "g/0/0/0/bias", "g/0/0/1/activation/reparam_beta",
        "g/0/0/1/activation/reparam_gamma", "g/0/0/1/kernel", "g/0/0/1/bias", "g/0/1/0/kernel",
        "g/0/1/0/bias"]


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
    (dict(cls="HyperAnalysis", align="right"), "alignment 'right'; use 'centre' or 'keras'"),
    (dict(cls="HyperSynthesis", align="right"), "alignment 'right'; use 'centre' or 'keras'"),
    (dict(cls="HyperAnalysis", padding="edge"), "padding 'edge'; use 'zeros' or 'reflect'"),
    (dict(cls="HiFiCSynthesis", padding="edge"), "padding 'edge'; use 'zeros' or 'reflect'"),
])
def test_mistakes_in_the_config_are_user_errors(config, message):
    with pytest.raises(UserError, match=message):
        transforms.build(config)
