"""Tiles: the same result as on the whole image, or a refusal that names the layer."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_compression as tfc

from benchmarks import complexity
from common import (
    coding,
    data,
    images,
    integer_builder,
    methods,
    metrics,
    precision,
    refinement,
    tiles,
    transforms,
)
from common.errors import NotLocal, UserError
from common.objectives import Objective
from common.transforms import attention, composites, contract, layers
from common.transforms.composites import Padded, Residual, Stack, Transform
from common.transforms.layers import conv, deconv
from mshyper import chain
from tests.helpers.narrow_transforms import NARROW, narrow, pixels, shrinks, trained
from tests.helpers.small_models import CLASSES, CONFIGS, shared

K = tf.keras.layers
GLOBAL = K.GlobalAveragePooling2D, layers.InstanceNorm


def is_local(transform):
    return not any(isinstance(part, GLOBAL) for part in transform.submodules)


LOCAL = [case for case in sorted(NARROW) if is_local(narrow(case))]


def assert_close(found, expected):
    assert found.shape == expected.shape and found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.max(np.abs(expected)), rtol=0)


# --- Transforms -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", LOCAL)
def test_tiles_of_a_transform_are_the_whole(case):
    transform = trained(case)
    x = pixels(case, 67, 139)
    if shrinks(case):
        found = tiles.run(transform, x, down=transform.stride, side=48)
    else:
        found = tiles.run(transform, x, up=transform.stride, side=5 * transform.stride)
    assert_close(found, transform(x))


def test_tiles_are_float32_whatever_layers_compute_in():
    with precision.policy("bfloat16"):
        transform = transforms.build(dict(cls="HyperSynthesis", channels=(8, 8, 8)))
    z = np.random.default_rng(0).normal(size=(1, 9, 17, 4)).astype(np.float32)
    expected = transform(z).numpy()
    found = tiles.run(transform, z, up=4, side=20)
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=0.02 * np.max(np.abs(expected)))


@pytest.mark.parametrize("case", LOCAL)
def test_nothing_beyond_the_reach_changes_an_output(case):
    transform = trained(case)
    reach, rng = contract.reach(transform), np.random.default_rng(1)
    width = int(reach.before + reach.after) + 8 * reach.grid + 8
    x = pixels(case, 64, width if shrinks(case) else 8 * width)
    y = transform(x).numpy()
    middle = y.shape[2] // 2
    for start, stop in [(middle, middle + 1), (middle - 1, middle + 2)]:
        _, (first, last) = reach.box(((0, y.shape[1]), (start, stop)))
        assert 0 < first < last < x.shape[2]
        noise = rng.normal(size=x.shape)
        noise[:, :, first:last] = 0
        moved = transform(tf.cast(x + noise, tf.float32)).numpy()
        assert np.max(np.abs(moved[:, :, start:stop] - y[:, :, start:stop])) < 1e-5 * np.max(y)
        assert np.any(moved != y)


@pytest.mark.parametrize("case", sorted(set(NARROW) - set(LOCAL)))
def test_transforms_that_see_the_whole_image_are_refused_by_name(case):
    transform = narrow(case)
    with pytest.raises(NotLocal) as refusal:
        contract.reach(transform)
    assert any(f"layer {part.name}" in str(refusal.value) for part in transform.submodules)


def test_reaches_are_the_receptive_fields_that_were_measured():
    # By derivatives, see benchmarks/complexity.py.
    saved = json.loads(complexity.OUTPUT.read_text())["configs"]
    counts = {"analysis": 0, "synthesis": 0}
    for result in saved.values():
        for name in counts:
            field = result["receptive_field"][name]
            if field["whole_image"]:
                continue
            reach = contract.reach(transforms.build(result["model"][name]))
            extent = (reach.before + reach.after) * max(reach.rate, 1) + 1
            assert extent == field["height"] == field["width"]
            counts[name] += 1
    assert min(counts.values()) > 10


# --- Layers -----------------------------------------------------------------------------------


def functional():
    x = tf.keras.Input([None, None, 4])
    wide = K.Conv2D(4, 5, padding="same", activation="relu")(x)
    return tf.keras.Model(x, K.Multiply()([K.Add()([wide, x]), K.Activation("sigmoid")(wide)]))


# Layers that keep the size, of any size and 4 channels.
LAYERS = {
    "window attention": lambda: attention.non_local(4, window=4),
    "before and after windows": lambda: Stack(
        [conv(4, 5), Stack([conv(4, 3), attention.non_local(4, 6), conv(4, 3)]), conv(4, 5)]),
    "windows of two sizes": lambda: Stack([attention.non_local(4, 4), attention.non_local(4, 6)]),
    "strides within padding": lambda: Padded(4, [Residual(
        [conv(4, 3, stride=4), attention.non_local(4, 2), deconv(4, 5, stride=4)])]),
    "nested residuals": lambda: Residual(
        [Residual([conv(4, 3), Residual([conv(4, 4), layers.ChannelNorm()])]), conv(4, 3)]),
    "branches": lambda: composites.Branches([conv(1, 7)], [conv(1, 3), conv(2, 3)], []),
    "gate": lambda: composites.Gated([conv(4, 3)], [conv(4, 5, activation="sigmoid")]),
    "gdn": lambda: Stack([conv(4, 3, activation="gdn"), conv(4, 3, activation="igdn")]),
    "blur": lambda: Stack([attention.Blur(), conv(4, 3)]),
    "sub-pixels": lambda: Stack([layers.subpixel(4, 3), conv(4, 5, stride=2)]),
    "even sub-pixels": lambda: Stack([layers.subpixel(4, 3, 4), conv(4, 4, stride=4)]),
    "dual path": lambda: attention.DualPath(4, 4),
    "shifted": lambda: layers.ShiftedConv(4, (2, 3), (1, -4)),
    "above only": lambda: layers.ShiftedConv(4, (2, 1), (-3, -1)),
    "shifted, strided": lambda: Stack([
        deconv(4, 5, stride=2, align="keras"), layers.ShiftedConv(4, (5, 2), (-1, -2), stride=2)]),
    "reflected": lambda: Stack([
        conv(4, 7, padding="reflect"), deconv(4, 3, stride=2),
        layers.ShiftedConv(4, (3, 3), (-1, 0), stride=2, padding="reflect"),
        conv(4, 3, padding="reflect")]),
    "reflected from one side": lambda: Residual([
        layers.ShiftedConv(4, (5, 4), (-4, 2), padding="reflect"), conv(4, 3)]),
    "keras dilated": lambda: K.Conv2D(4, (3, 5), padding="same", dilation_rate=2),
    "keras even": lambda: Stack([K.Conv2D(4, 4, padding="same"), K.LeakyReLU()]),
    "keras depthwise": lambda: K.DepthwiseConv2D(6, padding="same"),
    "keras up": lambda: Stack([K.Conv2DTranspose(4, 5, 3, "same"), conv(4, 3, stride=3)]),
    "keras normalised": lambda: Stack([conv(4, 3), K.BatchNormalization(), K.ReLU()]),
    "functional": functional,
}


@pytest.mark.parametrize("name", LAYERS)
def test_tiles_of_a_layer_are_the_whole(name):
    tf.keras.utils.set_random_seed(0)
    layer = LAYERS[name]()
    x = tf.random.stateless_normal([2, 37, 26, 4], (0, 0))
    expected = layer(x)
    for side in (12, 17):
        assert_close(tiles.run(layer, x, side=side), expected)


@pytest.mark.parametrize("layer, name", [
    (lambda: layers.InstanceNorm(), "InstanceNorm"),
    (lambda: Stack([conv(4, 3), K.GlobalAveragePooling2D(keepdims=True)]), "GlobalAverage"),
    (lambda: Residual([composites.Gated([], [layers.InstanceNorm()])]), "InstanceNorm"),
    (lambda: K.LayerNormalization(axis=(1, 2)), "LayerNormalization"),
    (lambda: conv(4, 3, activation=layers.InstanceNorm()), "InstanceNorm"),
    (lambda: K.Conv2D(4, 3, 2, "same"), "conv2d.*padding"),
    (lambda: K.DepthwiseConv2D(3, 2, "same"), "depthwise_conv2d.*padding"),
    (lambda: K.Conv2D(4, 3), "conv2d.*padding"),
    (lambda: K.Conv2DTranspose(4, 3, 2), "transpose.*padding"),
    (lambda: tfc.SignalConv2D(4, 3, corr=True, padding="same_reflect"), "SignalConv2D"),
])
def test_layers_without_tiles_are_refused_by_name(layer, name):
    with pytest.raises(NotLocal, match=name):
        contract.reach(layer())


def test_inner_layers_do_not_carry_the_margin_of_all():
    # Nine blocks of reach 2 before the image is made: the margin shrinks from block to block.
    sizes = []

    class Size(layers.ConcatElu):
        def call(self, x):
            sizes.append(x.shape[1])
            return x

    stack = Transform([Residual([Residual([conv(4, 5), Size()]) for _ in range(9)])], 4)
    tiles.run(stack, np.zeros([1, 120, 20, 4], np.float32), side=20)
    assert len(sizes) == 54  # six tiles
    assert sizes[9:18] == [52, 48, 44, 40, 36, 32, 28, 24, 20]


def test_parts_begin_and_end_on_the_grid():
    grids = []

    class Spy(attention.WindowAttention):
        def call(self, x):
            grids.append(x.shape[1:3])
            return super().call(x)

    layer = Stack([conv(4, 3), Padded(6, [Spy(4, window=6)])])
    assert contract.reach(layer).grid == 6
    tiles.run(layer, np.zeros([1, 40, 13, 4], np.float32), side=13)
    assert len(grids) > 3 and all(size % 6 == 0 for shape in grids for size in shape)


@pytest.mark.parametrize("size, unit, most", [(100, 1, 30), (100, 8, 30), (7, 16, 4), (64, 8, 64)])
def test_parts_cover_the_side_once(size, unit, most):
    parts = tiles._cut(size, unit, most)
    assert [start for start, _ in parts] == [0, *(stop for _, stop in parts[:-1])]
    assert parts[-1][1] == size and all(start % unit == 0 for start, _ in parts)
    lengths = [stop - start for start, stop in parts]
    assert 0 < min(lengths) <= max(lengths) <= max(most, unit)
    assert max(lengths) - min(lengths) < 2 * unit


def test_tiles_of_a_strip_are_as_many_pixels_as_others():
    tf.keras.utils.set_random_seed(0)
    sizes = []

    class Size(layers.ConcatElu):
        def call(self, x):
            sizes.append(x.shape[1] * x.shape[2])
            return x

    layer = Stack([Size(), conv(4, 3)])
    for shape in ((2, 3000), (3000, 2), (9, 700), (40, 150)):
        x = tf.random.stateless_normal([1, *shape, 4], (0, 0))
        expected = layer(x)
        sizes.clear()
        assert_close(tiles.run(layer, x, side=20), expected)
        assert len(sizes) < 1.6 * shape[0] * shape[1] / 20**2 + 2
        assert max(sizes) <= 22**2


# --- Integer networks --------------------------------------------------------------------------


def network(layer, channels=CONFIGS["mean_scale"]["hyper_analysis"]["channels"][-1]):
    builder = integer_builder.Builder()
    z = builder.input(0, channels, bits=0, bound=2**8)
    values = contract.integers(layer, builder, z)
    return builder.network(values, builder.slice(values, 0, 2))


@pytest.mark.parametrize("case", [
    "HyperSynthesis", "HyperSynthesis keras", "SeparateHyperSyntheses", "JPEGLikeHyperSynthesis",
    "HyperSynthesisSmall", "Cheng2020HyperSynthesis"])
def test_tiles_of_an_integer_network_are_the_same_integers(case):
    transform = trained(case)
    z = np.random.default_rng(0).integers(-9, 9, pixels(case, 136, 200).shape)
    net = network(transform, z.shape[-1])
    found = tiles.run(net, z, up=transform.stride, side=5 * transform.stride)
    for ours, whole in zip(found, net(z), strict=True):
        assert ours.dtype == whole.dtype and np.std(whole) > 0
        np.testing.assert_array_equal(ours, whole)


def test_a_network_with_a_mean_over_all_is_refused():
    layer = Stack([K.GlobalAveragePooling2D(keepdims=True)])
    with pytest.raises(NotLocal, match="mean over all"):
        tiles.run(network(layer), np.zeros([1, 8, 8, 10]), side=4)


# --- Models -----------------------------------------------------------------------------------


WITH_OR_WITHOUT_Z = ["mean_scale", "factorized"]  # other models infer and generate as these


@pytest.fixture(params=CONFIGS)
def model(request, monkeypatch):
    found = shared(request.param)
    monkeypatch.setattr(found, "fingerprint", "0" * 64)
    return found


@pytest.fixture
def small_tiles(monkeypatch):
    """Within the block, an image of 64 x 64 pixels is large."""
    def use(small=True):
        monkeypatch.setattr(tiles, "SIDE", 64 if small else 1024)
        monkeypatch.setattr(tiles, "LATENT_SIDE", 8 if small else 128)

    use()
    return use


@pytest.fixture
def picture(photo):
    return photo[100:255, 200:401]


def test_files_are_the_same_in_tiles_and_whole(model, picture, small_tiles):
    in_tiles = coding.compress(model, picture)
    decoded_in_tiles = coding.decompress(model, in_tiles)
    small_tiles(False)
    whole = coding.compress(model, picture)
    decoded = coding.decompress(model, in_tiles)
    # The file of the tiles is an ordinary one: both decoders show the same.
    assert decoded.shape == picture.shape and np.std(decoded) > 1
    assert np.max(np.abs(decoded.astype(int) - decoded_in_tiles)) <= 1
    ours, theirs = (coding.decode(model, ntc).latents for ntc in (in_tiles, whole))
    for name, latent in theirs.items():
        assert np.mean(np.abs(ours[name] - latent) > 0.5) <= 1e-4


@pytest.mark.parametrize("model", WITH_OR_WITHOUT_Z, indirect=True)
def test_pixels_may_be_bytes_or_floats(model, picture):
    floats = model.infer(data.to_float(picture)[None])
    for name, latent in model.infer(picture[None]).items():
        np.testing.assert_array_equal(latent, floats[name])


@pytest.mark.parametrize("model", WITH_OR_WITHOUT_Z, indirect=True)
def test_images_in_tiles_are_read_and_written_as_bytes(model, picture, small_tiles, monkeypatch):
    seen = []
    to_float = data.to_float
    monkeypatch.setattr(data, "to_float", lambda x: seen.append(x.shape) or to_float(x))
    latents = model.infer(picture[None])
    assert len(seen) > 4 and all(np.prod(shape) < np.prod(picture.shape) for shape in seen)
    x_hat = model.to_image(latents["y"], finish=images.to_uint8)
    assert x_hat.dtype == tf.uint8 and x_hat.shape == (1, 160, 208, 3)


def test_graphs_and_training_have_no_tiles(picture, small_tiles):
    model, x = shared("mean_scale"), data.to_float(picture[:80, :96])[None]
    with tf.GradientTape() as tape:
        latents = model.infer(x, training=True)
        loss = sum(tf.reduce_sum(latent) for latent in latents.values())
    assert all(gradient is not None for gradient in tape.gradient(
        loss, model.analysis.trainable_weights))
    in_graph = tf.function(model.infer)(x)
    for name, latent in latents.items():
        np.testing.assert_allclose(in_graph[name], latent, atol=1e-3)


def test_estimates_of_images_in_tiles_are_those_of_the_coded_symbols(
        model, picture, small_tiles, monkeypatch):
    small_tiles(False)
    ntc = coding.compress(model, picture)
    decoded = coding.decode(model, ntc)
    reconstruction = coding.reconstruct(model, decoded)
    whole = coding.measure_file(model, picture, ntc, decoded, reconstruction)
    small_tiles()
    monkeypatch.setattr(type(model), "generate", None)
    row = coding.measure_file(model, picture, ntc, decoded, reconstruction)
    assert row["estimated_bpp"] == row["integer_bpp"] == whole["integer_bpp"]
    assert row["estimated_bpp"] == pytest.approx(whole["estimated_bpp"], rel=1e-3)
    assert row["psnr"] == metrics.psnr(picture, reconstruction)


@pytest.mark.parametrize("part", ["synthesis", "hyper_analysis"])
def test_models_that_are_not_local_take_what_fits_into_one_tile(part, picture, small_tiles):
    other = {"synthesis": dict(cls="AdvDNICMod1Synthesis", channels=(8, 8, 8, 3)),
             "hyper_analysis": dict(cls="AdvDNICNlaicHyperAnalysis", channels=8)}[part]
    channels = dict(hyper_analysis=8).get(part, 10)
    model = CLASSES["mean_scale"](**CONFIGS["mean_scale"] | {part: other})
    model.initialize()
    model.prepare_coding()
    model.fingerprint = "0" * 64
    assert model.z_prior.channels == channels
    decoded = coding.decompress(model, coding.compress(model, picture[:64, :64]))
    assert decoded.shape == (64, 64, 3)
    small_tiles(False)
    ntc = coding.compress(model, picture)
    small_tiles()
    message = "201 x 155 is too large.*(GlobalAveragePooling2D|depthwise_conv2d)"
    with pytest.raises(UserError, match=message):
        coding.compress(model, picture)
    with pytest.raises(UserError, match=message):
        coding.decompress(model, ntc)


# --- What takes images whole ------------------------------------------------------------------


def test_refinement_refuses_what_it_does_not_cut(picture, monkeypatch):
    monkeypatch.setattr(images, "MAX_WHOLE_PIXELS", 155 * 201 - 1)
    model = CLASSES["factorized"](**CONFIGS["factorized"])
    refiner = refinement.Refiner(model, methods.method("sga"), Objective(0.01))
    with pytest.raises(UserError, match="refinement takes images of up to.*the image has 0.0"):
        refiner.infer(model, picture)


def test_chains_refuse_what_they_do_not_cut(picture, monkeypatch):
    monkeypatch.setattr(images, "MAX_WHOLE_PIXELS", 160 * 208 - 1)
    model = shared("mean_scale")
    monkeypatch.setattr(model, "replay_steps", 0, raising=False)
    with pytest.raises(UserError, match="chains take up to 0.0.* each"):
        chain.compress(model, [picture])
