"""Checkpoints of TensorFlow: objects, SavedModels and names, read without what wrote them."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_compression as tfc

import convert
from common.errors import UserError
from convert import kernels, tensorflow_files
from tests.helpers.convert import torch_writer

REAL = {"conv/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
        "conv/bias": np.arange(4, dtype=np.float32), "conv/bias/Adam": np.ones(4, np.float32),
        "global_step": np.int64(7)}


class Codec(tf.keras.Model):
    """Twelve layers, so that layer 10 comes after layer 9, and one of tensorflow-compression."""

    def __init__(self):
        super().__init__()
        self.analysis = tf.keras.Sequential(
            [tf.keras.layers.Lambda(lambda x: x * 2)]
            + [tf.keras.layers.Dense(2, bias_initializer="random_normal") for _ in range(12)]
            + [tfc.SignalConv2D(3, (3, 3), corr=True, padding="same_zeros", use_bias=True)])
        self.branches = [tf.Variable(float(n)) for n in range(11)]

    def call(self, x):
        return self.analysis(x)


@pytest.fixture(scope="module")
def codec():
    codec = Codec()
    codec(tf.ones((1, 4, 4, 2)))
    codec.optimizer = tf.keras.optimizers.legacy.Adam()  # has slots for each variable
    codec.optimizer.apply_gradients((variable, variable) for variable in codec.variables)
    return codec


@pytest.fixture(scope="module")
def written(codec, tmp_path_factory):
    """Folders of all kinds by name; tests copy what they damage."""
    root = tmp_path_factory.mktemp("written")
    checkpoint = tf.train.Checkpoint(model=codec, optimizer=codec.optimizer)
    manager = tf.train.CheckpointManager(checkpoint, root / "objects", 5, checkpoint_name="ckpt")
    for step in (9, 10):
        manager.save(step)
    codec.save(root / "saved", save_traces=False)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [tf.compat.v1.get_variable(name, initializer=value)
                     for name, value in REAL.items()]
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(variables)
        for step in (100, 200):
            saver.save(session, str(root / "names" / "model.ckpt"), step)
    return root


FORMS = [("objects", "objects"), ("objects/ckpt-10", "objects"), ("objects/ckpt-9", "objects"),
         ("objects/ckpt-10.index", "objects"), ("objects/ckpt-10.data-00000-of-00001", "objects"),
         ("saved", "saved"), ("names", "names"), ("names/model.ckpt-200", "names"),
         ("names/model.ckpt-200.index", "names"), ("names/model.ckpt-200.meta", "names")]
KINDS = {"objects": "tensorflow objects", "saved": "SavedModel", "names": "tensorflow names"}


def root(written, form, kind):
    found = tensorflow_files.objects(written / form)
    return found if kind == "saved" else found.find("model")


@pytest.mark.parametrize("form, kind", FORMS)
def test_arrays(written, codec, form, kind):
    assert convert.kind(written / form) == KINDS[kind]
    if kind == "names":
        arrays = tensorflow_files.names(written / form)
        assert list(arrays) == sorted(REAL)
        for name, value in REAL.items():
            assert arrays[name].shape == np.shape(value)
            np.testing.assert_array_equal(arrays[name], value)
        return
    analysis = root(written, form, kind).find("analysis")
    assert len(analysis.layers) == 13
    for layer, found in zip(codec.analysis.layers[1:-1], analysis.layers):
        assert found.children["kernel"].array.shape == (2, 2)
        np.testing.assert_array_equal(found.find("kernel").array, layer.kernel)
        np.testing.assert_array_equal(found.children["bias"].array, layer.bias)
    assert [layer.name.rpartition("-")[2] for layer in analysis.layers] == [
        str(n) for n in range(13)]
    last, layer = analysis.layers[-1], codec.analysis.layers[-1]
    parameter = last.find("_kernel_parameter")
    assert parameter.array is None
    np.testing.assert_allclose(
        kernels.rdft(parameter.find("real").array, parameter.find("imag").array), layer.kernel,
        rtol=1e-5, atol=1e-6)


def test_lists_are_sorted_as_numbers(written):
    branches = root(written, "objects", "objects").find("branches")
    assert list(branches.children) == [str(n) for n in range(11)]
    assert [round(float(np.asarray(child.array))) for child in branches.children.values()] == [
        *range(11)]


def test_a_checkpoint_is_that_of_its_step(written, codec, tmp_path):
    step = tf.Variable(1)
    checkpoint = tf.train.Checkpoint(step=step)
    for value in (1, 2, 3):
        step.assign(value)
        checkpoint.write(str(tmp_path / f"ckpt-{value}"))
    found = tensorflow_files.objects(tmp_path / "ckpt-2").find("step").array
    assert np.asarray(found) == 2
    refused(tmp_path, "need one of the checkpoints there: ckpt-1, ckpt-2, ckpt-3")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/home/other/run/ckpt-3"\n'
                                         'all_model_checkpoint_paths: "ckpt-1"\n')
    assert np.asarray(tensorflow_files.objects(tmp_path).find("step").array) == 3
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "../ckpt-4"\n')
    refused(tmp_path, "its file `checkpoint` names ckpt-4, and there are ckpt-1, ckpt-2, ckpt-3")
    (tmp_path / "checkpoint").write_text("")
    refused(tmp_path, "its file `checkpoint` names none")


def test_what_is_not_there_is_named(written):
    found = root(written, "objects", "objects")
    with pytest.raises(UserError, match=r"objects: /model has no _analysis, but analysis, bran"):
        found.find("_analysis", "layer_with_weights-0")
    with pytest.raises(UserError, match="layer_with_weights-3/kernel has no real, but nothing"):
        found.find("analysis", "layer_with_weights-3", "kernel", "real")
    assert "no.thing" not in found.children


def refused(path, message="", read=tensorflow_files.objects):
    with pytest.raises(UserError, match=message) as error:
        read(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_what_is_no_checkpoint(tmp_path):
    for read in (tensorflow_files.objects, tensorflow_files.names, convert.kind):
        refused(tmp_path / "none", "no such file", read)
        refused(tmp_path, "there is no checkpoint of TensorFlow in the folder", read)
    (tmp_path / "saved_model.pb").write_bytes(b"")
    refused(tmp_path, "the SavedModel has no variables/variables.index")
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    refused(tmp_path / "x.h5", "not a checkpoint of TensorFlow: it is an HDF5 file", convert.kind)


@pytest.mark.parametrize("legacy", [False, True])
def test_files_of_pytorch(tmp_path, legacy):
    path = tmp_path / "x.pth.tar"
    torch_writer.write(path, {"a": np.zeros(3)}, legacy)
    assert convert.kind(path) == "torch"
    for read in (tensorflow_files.objects, tensorflow_files.names):
        refused(path, "not a checkpoint of TensorFlow: it is .* PyTorch", read)


def test_the_other_kind(written):
    refused(written / "names", "need a checkpoint of objects .* has arrays by name only")
    for form in ("objects", "saved"):
        refused(written / form, "need a checkpoint of arrays by name .* this has objects",
                tensorflow_files.names)


def copied(written, tmp_path, form="objects"):
    shutil.copytree(written / form, tmp_path / form)
    return tmp_path / form


def read_all(path):
    model = tensorflow_files.objects(path).find("model")
    for found in [*model.find("branches").children.values(),
                  *(layer.find("bias") for layer in model.find("analysis").layers[:-1])]:
        np.asarray(found.array)


def test_truncated_files(written, tmp_path):
    path = copied(written, tmp_path)
    data, index = (path / f"ckpt-10.{suffix}" for suffix in ("data-00000-of-00001", "index"))
    whole = data.stat().st_size
    read_all(path)
    for size in (whole // 2, 50, 0):
        os.truncate(data, size)
        refused(path, "the checkpoint is damaged or incomplete", read_all)
    data.unlink()
    refused(path, "damaged or incomplete", read_all)
    index_content = index.read_bytes()
    for size in (0, 50, len(index_content) // 2, len(index_content) - 1):
        index.write_bytes(index_content[:size])
        refused(path, "damaged or incomplete")


def test_a_missing_index(written, tmp_path):
    path = copied(written, tmp_path)
    (path / "ckpt-10.index").unlink()
    refused(path / "ckpt-10", "ckpt-10.index is missing")
    refused(path, "names ckpt-10, and there are ckpt-9")


def test_a_changed_byte_is_noticed(written, tmp_path):
    path = copied(written, tmp_path, "names")
    data = path / "model.ckpt-200.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[content.index(REAL["conv/kernel"].tobytes()) + 5] ^= 1
    data.write_bytes(content)
    arrays = tensorflow_files.names(path)
    np.testing.assert_array_equal(arrays["conv/bias"], REAL["conv/bias"])
    refused(path, "damaged or incomplete", lambda _: np.asarray(arrays["conv/kernel"]))


def test_objects_that_point_nowhere(written, monkeypatch):
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    def damaged(change):
        graph = TrackableObjectGraph.FromString(
            tf.train.load_checkpoint(str(written / "objects")).get_tensor(tensorflow_files._GRAPH))
        change(graph)
        return graph

    class Proto:
        FromString = staticmethod(lambda content: graph)

    monkeypatch.setattr(tensorflow_files, "TrackableObjectGraph", Proto)
    for change in (lambda g: setattr(g.nodes[0].children[0], "node_id", 10**6),
                   lambda g: setattr(g.nodes[0].children[0], "node_id", -1),
                   lambda g: setattr(next(n for n in g.nodes if n.attributes).attributes[0],
                                     "checkpoint_key", "nowhere"),
                   lambda g: g.Clear()):
        graph = damaged(change)
        refused(written / "objects", "its objects are not there")
