import math

import numpy as np
import pytest
import tensorflow as tf

import configs
from common import images, lpips, metrics
from common.errors import UserError


@pytest.fixture(scope="module")
def arrays():
    """Random weights under which features keep their size from layer to layer."""
    rng = np.random.default_rng(0)

    def draw(name, shape):
        if name.endswith("bias"):
            return rng.normal(0, 0.1, shape)
        if name.startswith("NetLin"):
            return rng.uniform(0, 1, shape)
        return rng.normal(0, math.sqrt(2 / math.prod(shape[:-1])), shape)

    return {name: draw(name, shape).astype(np.float32) for name, shape in lpips.SHAPES.items()}


@pytest.fixture(scope="module")
def network(arrays):
    return lpips.Lpips(arrays)


@pytest.fixture(scope="module")
def pair(photo):
    """Two batches of crops, float32 [2, 35, 41, 3]; no stride divides their sides."""
    crops = np.float32([photo[y:y + 35, 200:241] for y in (100, 150, 200, 250)]) / 255
    return tf.constant(crops[:2]), tf.constant(crops[2:])


def by_hand(arrays, a, b):
    """LPIPS of two images [H, W, 3] in float64, out of sums over windows."""

    def windows(x, size, stride):
        view = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(0, 1))
        return view[::stride, ::stride]  # [H, W, C, size, size]

    def taps(image):
        x = (image * 2.0 - 1 - [-0.030, -0.088, -0.188]) / [0.458, 0.448, 0.450]
        for i, (stride, padding) in enumerate([(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)]):
            if i in (1, 2):
                x = windows(x, 3, 2).max((-1, -2))
            kernel = arrays[f"AlexNet_0/Conv_{i}/kernel"]
            x = np.pad(x, [(padding, padding), (padding, padding), (0, 0)])
            x = np.einsum("hwcyx,yxco->hwo", windows(x, kernel.shape[0], stride), kernel,
                          optimize=True)
            x = np.maximum(x + arrays[f"AlexNet_0/Conv_{i}/bias"], 0)
            yield x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-10)

    return sum(np.mean((of_a - of_b) ** 2 @ arrays[f"NetLinLayer_{i}/Conv_0/kernel"][0, 0])
               for i, (of_a, of_b) in enumerate(zip(taps(a), taps(b))))


def gradients(function, a, b):
    with tf.GradientTape() as tape:
        tape.watch([a, b])
        value = function(a, b)
    return tape.gradient(value, [a, b])


def test_it_is_the_network_of_the_paper(arrays, network, pair):
    expected = [by_hand(arrays, a, b) for a, b in zip(*map(np.asarray, pair))]
    assert min(expected) > 0.1  # the crops differ
    np.testing.assert_allclose(network(*pair), expected, rtol=1e-5)


def test_it_is_symmetric_and_images_of_a_batch_do_not_meet(network, pair):
    a, b = pair
    values = network(a, b)
    assert values.shape == (2,) and values.dtype == tf.float32
    np.testing.assert_array_equal(values, network(b, a))
    np.testing.assert_allclose(values, [network(a[i:i + 1], b[i:i + 1])[0] for i in (0, 1)],
                               rtol=1e-5)


def test_equal_images_have_no_distance_and_no_gradient(network, pair):
    a = pair[0]
    np.testing.assert_array_equal(network(a, a), [0, 0])
    for gradient in gradients(network, a, a):
        np.testing.assert_array_equal(gradient, tf.zeros_like(a))


def with_bias(arrays, bias):
    return {name: np.full_like(array, bias) if name.endswith("bias") else array.copy()
            for name, array in arrays.items()}


@pytest.mark.parametrize("scale,bias", [(1, 0), (1, -10), (1e-25, 0)])
def test_gradients_are_finite_where_all_features_vanish(scale, bias, arrays, pair):
    """Up to rounding, entirely, or to positive numbers whose squares are 0."""
    arrays = with_bias(arrays, bias)
    arrays["AlexNet_0/Conv_0/kernel"] *= scale
    mean = tf.ones_like(pair[0]) * [0.485, 0.456, 0.406]  # the colour that the network takes for 0
    for gradient in gradients(lpips.Lpips(arrays), mean, pair[1]):
        assert np.all(np.isfinite(gradient))


def test_only_directions_of_features_count(arrays, pair):
    arrays = with_bias(arrays, 0)
    expected = lpips.Lpips(arrays)(*pair)
    arrays["AlexNet_0/Conv_0/kernel"] *= 1e-6
    np.testing.assert_allclose(lpips.Lpips(arrays)(*pair), expected, rtol=1e-3)


def test_graphs_of_unknown_sizes_and_xla_agree_with_eager(network, pair):
    any_size = tf.function(network, input_signature=[tf.TensorSpec([None, None, None, 3])] * 2)
    for size in (31, 35):
        a, b = (image[:, :size] for image in pair)
        np.testing.assert_allclose(any_size(a, b), network(a, b), rtol=1e-5)
    pair = [image[:1, :31, :31] for image in pair]
    compiled = tf.function(lambda a, b: gradients(network, a, b), jit_compile=True)
    for ours, expected in zip(compiled(*pair), gradients(network, *pair)):
        np.testing.assert_allclose(ours, expected, atol=1e-4 * np.max(np.abs(expected)))


def test_checkpoints_do_not_see_the_weights(network, tmp_path):
    model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
    model.judge = network
    model.build([None, 1])
    assert len(model.trainable_variables) == len(model.variables) == 2
    tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    names = [name for name, _ in tf.train.list_variables(str(tmp_path / "checkpoint"))]
    assert len(names) == 3 and not any("judge" in name for name in names)  # and the object graph


def test_images_need_31_pixels(network, photo):
    flipped = photo[:, ::-1]
    assert 0 < metrics.lpips(photo[:31, :31], flipped[:31, :31], network) < math.inf
    for height, width in [(30, 31), (31, 30)]:
        a, b = photo[:height, :width], flipped[:height, :width]
        assert math.isnan(metrics.lpips(a, b, network))
        with pytest.raises(ValueError, match="at least 31 pixels, found 30"):
            network(*(tf.cast(image[None], tf.float32) for image in (a, b)))


def test_the_metric_is_that_of_images_in_0_to_1(network, pair):
    a, b = (np.asarray(images.to_uint8(batch[0])) for batch in pair)
    assert metrics.lpips(a, b, network) == pytest.approx(float(network(*pair)[0]), rel=1e-5)


def test_weights_are_read_from_a_file(arrays, network, pair, tmp_path, monkeypatch):
    path = tmp_path / "weights.npz"
    np.savez(path, **arrays)
    monkeypatch.setattr(configs, "LPIPS_WEIGHTS", path)
    for loaded in (lpips.Lpips.load(), lpips.Lpips.load(str(path))):
        np.testing.assert_array_equal(loaded(*pair), network(*pair))


def test_the_shared_network_may_be_loaded_while_a_graph_is_traced(
        arrays, network, pair, tmp_path, monkeypatch):
    monkeypatch.setattr(configs, "LPIPS_WEIGHTS", tmp_path / "weights.npz")
    np.savez(configs.LPIPS_WEIGHTS, **arrays)
    lpips.network.cache_clear()
    try:
        for _ in range(2):  # graphs that share the constants
            traced = tf.function(lambda a, b: lpips.network()(a, b))
            np.testing.assert_allclose(traced(*pair), network(*pair), rtol=1e-5)
    finally:
        lpips.network.cache_clear()


def test_a_missing_file_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(UserError, match=r"none\.npz: no such file; `make lpips`"):
        lpips.Lpips.load(tmp_path / "none.npz")


def test_a_damaged_file_is_one_line(arrays, tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, **arrays)
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (b"", b"text", whole[:middle],
                    whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"^.*weights\.npz: cannot be read as LPIPS.*$"):
            lpips.Lpips.load(path)
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match="cannot be read as LPIPS"):
        lpips.Lpips.load(path)


def test_missing_and_misshapen_weights_are_named(arrays, tmp_path):
    name = "NetLinLayer_3/Conv_0/kernel"
    with pytest.raises(UserError, match=f"lack {name}"):
        lpips.Lpips({key: array for key, array in arrays.items() if key != name})
    path = tmp_path / "weights.npz"
    np.savez(path, **arrays | {name: arrays[name][..., 0]})
    with pytest.raises(UserError, match=rf"weights.npz.*{name}.*\[1, 1, 256\].*\[1, 1, 256, 1\]"):
        lpips.Lpips.load(path)


def test_values_of_the_authors_weights():
    """Against an independent evaluation of the same weights in PyTorch."""
    kodak = sorted(configs.DATA_DIR.glob(configs.DATASETS["kodak"]))
    if len(kodak) != 24 or not configs.LPIPS_WEIGHTS.exists():
        pytest.skip("needs Kodak and `make lpips`")
    network = lpips.Lpips.load()
    image = {number: images.read(kodak[number - 1]) for number in (1, 2, 5, 8, 23)}
    for a, b, expected in [(image[1], image[2], 0.85689),
                           (image[23], image[23][:, ::-1], 0.73945),
                           (image[5][:256, :256], image[8][:256, :256], 0.76945)]:
        assert metrics.lpips(a, b, network) == pytest.approx(expected, abs=1e-5)
