"""Files of PyTorch: written by tests.helpers.convert.torch_writer, read with NumPy."""

import argparse
import collections
import copyreg
import os
import pickle
import subprocess
import sys
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest

from common.errors import UserError
from convert import torch_files
from convert.files import Array
from tests.helpers.convert import torch_writer
from tests.helpers.convert.torch_writer import Name, Parameter, View, write, write_pickle
from tests.helpers.damage import mutations

DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")


@pytest.fixture(params=[False, True], ids=["zip", "legacy"])
def legacy(request):
    return request.param


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.pth.tar"


def loaded(path, obj, legacy):
    write(path, obj, legacy)
    return torch_files.load(path)


def refused(path, message=""):
    """That a file is refused in one line which names it."""
    with pytest.raises(UserError, match=message) as error:
        torch_files.load(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_checkpoint(path, legacy):
    rng = np.random.default_rng(0)
    weights = collections.OrderedDict((f"g_a.{n}.weight", rng.normal(size=(4, n + 1, 5, 5)))
                                      for n in range(12))
    weights._metadata = collections.OrderedDict({"": {"version": 1}, "g_a": {"version": 1}})
    found = loaded(path, {"epoch": 7, "loss": 0.25, "state_dict": weights, "lr": [1e-4, None, True],
                          "name": "mean-é", "best": np.float64(3)}, legacy)
    state = found.pop("state_dict")
    assert list(state) == list(weights)
    for name, weight in weights.items():
        assert state[name].shape == weight.shape
        np.testing.assert_array_equal(state[name], weight)
    assert found.pop("best") == {}
    assert found == {"epoch": 7, "loss": 0.25, "lr": [1e-4, None, True], "name": "mean-é"}


def test_types(path, legacy):
    values = {dtype: np.array([[0, 1, 2], [3, 100, 7]]).astype(dtype) for dtype in DTYPES}
    found = loaded(path, values, legacy)
    for dtype, value in values.items():
        array = np.asarray(found[dtype])
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, value)


def test_bfloat16_becomes_float32(path, legacy):
    value = np.array([0, 1, -1.5, 3.140625, 1e30, -np.inf], ml_dtypes.bfloat16).reshape(2, 3)
    for view in (value, value.T):
        array = np.asarray(loaded(path, {"a": view}, legacy)["a"])
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, view.astype(np.float32))


def test_views_share_a_storage(path, legacy):
    whole = np.arange(120, dtype=np.float32).reshape(4, 5, 6)
    views = {"whole": whole, "transposed": whole.transpose(2, 0, 1), "part": whole[1:3, ::2, 1:],
             "one": whole[3, 2, 1:2].reshape(()), "column": whole[:, 4, 5], "again": whole}
    found = loaded(path, views, legacy)
    for name, view in views.items():
        np.testing.assert_array_equal(found[name], view)
        assert found[name].shape == view.shape
    assert path.stat().st_size < 2 * whole.nbytes + 3000  # one storage
    if not legacy:
        with zipfile.ZipFile(path) as archive:
            assert [n for n in archive.namelist() if "/data/" in n] == ["archive/data/0"]


def test_empty_tensors_and_parameters(path, legacy):
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = loaded(path, {"_offset": np.zeros(0, np.int32), "empty": np.zeros((2, 0), np.float32),
                          "weight": Parameter(weight), "scalar": np.array(5)}, legacy)
    assert np.asarray(found["_offset"]).dtype == np.int32
    assert np.asarray(found["_offset"]).shape == (0,)
    assert np.asarray(found["empty"]).shape == found["empty"].shape == (2, 0)
    np.testing.assert_array_equal(found["weight"], weight)
    assert np.asarray(found["scalar"]) == 5


def test_what_is_not_known_is_inert(path, legacy):
    class Reduced:
        def __init__(self, *reduction):
            self._reduction = reduction

        def __reduce__(self):
            return self._reduction

    found = loaded(path, {
        "args": argparse.Namespace(latent_channels=220, regime="low"),
        "size": Reduced(Name("torch", "Size"), ((3, 4),)),
        "device": Reduced(Name("torch", "device"), ("cuda", 0)),
        "dtype": Name("torch", "float32"),
        "state": collections.defaultdict(dict, {0: {"step": 3}}),
        "items": Reduced(Name("torch.nn", "ParameterList"), (), None, iter([1, 2])),
        "ids": {("a", 1): 2},
        "model": Reduced(Name("compressai.models", "ScaleHyperprior"), (),
                         {"_modules": {"g_a": np.ones(3, np.float32)}})}, legacy)
    assert found["args"] == {"latent_channels": 220, "regime": "low"}
    assert found["size"] == (3, 4)
    assert found["device"] == {} and found["state"] == {0: {"step": 3}} and found["items"] == {}
    assert type(found["dtype"]).__name__ == "type" and issubclass(found["dtype"],
                                                                  torch_files.Unknown)
    assert found["ids"] == {("a", 1): 2}
    model = found["model"]
    assert (type(model).__module__, type(model).__name__) == ("compressai.models",
                                                              "ScaleHyperprior")
    np.testing.assert_array_equal(model["_modules"]["g_a"], np.ones(3))


def test_only_what_is_asked_for_is_read(path, legacy):
    big, small = np.ones(2**22, np.float32), np.arange(3)
    write(path, {"optimizer": {"exp_avg": big, "exp_avg_sq": big + 1}, "weight": small}, legacy)
    del big
    tracemalloc.start()
    np.testing.assert_array_equal(torch_files.load(path)["weight"], small)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_tensorflow_is_not_imported(path, legacy):
    write(path, {"a": np.arange(3.0)}, legacy)
    script = f"""
import sys, numpy, convert
from convert import torch_files, kernels
assert convert.kind({str(path)!r}) == "torch"
print(numpy.asarray(torch_files.load({str(path)!r})["a"]), "tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          check=False)
    assert done.stdout == "[0. 1. 2.] False\n", done.stderr


def test_other_files(path, tmp_path):
    refused(tmp_path / "none.pth", "no such file")
    refused(tmp_path, "is a folder, not a file")
    for content, message in {
            b"": "not a PyTorch file: it is empty",
            b"\x89HDF\r\n\x1a\n" * 9: "not a PyTorch file: it is an HDF5 file",
            b"version https://git-lfs.github.com/spec/v1\n": "git lfs pull",
            b"<!DOCTYPE html><html>": "it is a web page",
            pickle.dumps([1, 2], 2): "it is a pickle",
            b"hello world, this is no checkpoint": "it begins with b'hello world, thi'"}.items():
        path.write_bytes(content)
        refused(path, message)
    with open(path, "wb") as file:
        np.savez(file, a=np.zeros(3))
    refused(path, "a zip archive without data.pkl")
    write(path, [np.zeros(3)])
    refused(path, "need a dict of tensors, as a state dict; it holds a list")


def rezipped(path, more=(), compression=zipfile.ZIP_STORED):
    """Writes an archive again."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in {**entries, **dict(more)}.items():
            if content is not None:
                archive.writestr(name, content)


def test_torchscript(path):
    for name in ("archive/constants.pkl", "archive/code/__torch__.py"):
        write(path, {"a": np.zeros(3)})
        rezipped(path, more={name: b"x"})
        refused(path, "this is TorchScript")


def test_archives_that_torch_does_not_write(path):
    arrays = {"a": np.zeros(300)}
    write(path, arrays)
    rezipped(path, compression=zipfile.ZIP_DEFLATED)
    refused(path, "is compressed, which torch.save does not do")
    write(path, arrays)
    rezipped(path, more={"archive/byteorder": b"big"})
    refused(path, "only little-endian is read")
    write(path, arrays)
    rezipped(path, more={"archive/data/0": None})
    refused(path, "damaged .archive/data/0 is missing")
    write(path, arrays)
    rezipped(path, more={"archive/data/0": bytes(2399)})
    refused(path, "damaged .archive/data/0 has 2399 bytes, its tensors need 2400")
    write(path, arrays)
    content = bytearray(path.read_bytes())
    for start in range(len(content) - 4):  # the flags of each entry
        if content[start:start + 4] in (b"PK\1\2", b"PK\3\4"):
            content[start + (8 if content[start + 2] == 1 else 6)] |= 1
    path.write_bytes(content)
    refused(path, "is encrypted")


def test_a_changed_bit_of_a_tensor_is_noticed(path):
    write(path, {"a": np.arange(300.0)})
    content = bytearray(path.read_bytes())
    content[content.index(np.arange(300.0).tobytes()) + 1000] ^= 1
    path.write_bytes(content)
    array = torch_files.load(path)["a"]
    with pytest.raises(UserError, match="damaged .Bad CRC-32") as error:
        np.asarray(array)
    assert str(error.value).startswith(str(path))


def test_truncated_files(path, legacy):
    write(path, {"a": np.arange(50), "b": {"c": np.ones((3, 4))}}, legacy)
    whole = path.read_bytes()
    for size in (*range(0, len(whole) - 1, 7), len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(path, "damaged|not a PyTorch file")


def test_damaged_files(path, legacy):
    write(path, {"a": np.arange(50), "args": argparse.Namespace(b=1), "c": {"d": np.ones((3, 4))}},
          legacy)
    outcomes = collections.Counter()
    for content in mutations(path.read_bytes(), 400):
        path.write_bytes(content)
        try:
            arrays = [value for value in torch_files.load(path).values()
                      if isinstance(value, Array)]
            outcomes["read"] += len([np.asarray(array) for array in arrays])
        except UserError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
    assert min(outcomes["read"], outcomes["refused"]) > 10


@pytest.mark.parametrize("place", [
    (0, (7,), (1,)), (1, (6,), (1,)), (0, (2, 3), (4, 1)), (7, (), ()), (2**70, (1,), (1,)),
    (0, (2,), (2**62,)), (0, (2**40,), (0,)), (0, (2**20, 2**20, 2**40), (0, 0, 0)),
    (0, (1,) * 40, (1,) * 40)])
def test_tensors_beyond_their_storage(path, legacy, place):
    write(path, {"a": View(np.arange(6.0), *place), "b": np.ones(2)}, legacy)
    found = torch_files.load(path)
    np.testing.assert_array_equal(found["b"], np.ones(2))
    with pytest.raises(UserError, match="the PyTorch file is damaged") as error:
        np.asarray(found["a"])
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize("place", [(-1, (2,), (1,)), (0, (2,), (-1,)), (0, (-2,), (1,)),
                                   (0, (2, 3), (3,)), (0.5, (2,), (1,)), (0, ("2",), (1,)),
                                   (0, 3, 1), (0, (((3,),),), (1,))])
def test_tensors_of_no_shape(path, legacy, place):
    write(path, {"a": View(np.arange(6.0), *place)}, legacy)
    refused(path, "the PyTorch file is damaged")


def test_storages_larger_than_the_file(path, legacy):
    arrays = {"a": np.arange(6.0)}
    write(path, arrays, legacy)
    content = path.read_bytes()
    size, huge = b"cpu" + b"q%cK\x06", b"cpu" + b"q%cM\xff\xff"
    memo = content[content.index(b"cpu") + 4]
    assert content.count(size % memo) == 1
    if legacy:  # of which the count before its data should be the same
        content = content.replace((6).to_bytes(8, "little"), 0xFFFF.to_bytes(8, "little"))
        path.write_bytes(content.replace(size % memo, huge % memo))
        refused(path, "damaged .it ends within storage 0")
    else:
        with zipfile.ZipFile(path) as archive:
            pickled = archive.read("archive/data.pkl").replace(size % memo, huge % memo)
        write_pickle(path, pickled, {"0": (6, bytes(48))})
        refused(path, "damaged .archive/data/0 has 48 bytes, its tensors need 524280")


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def hostile(command):
    """Pickles that run a command where they are loaded with pickle."""
    run = b"cos\nsystem\n" + text(command) + b"\x85R"
    attributes = b"cargparse\nNamespace\n)R}" + text("a") + run + b"sb"
    build = (b"cargparse\nNamespace\n)R}" + text("__setstate__") + b"cos\nsystem\nsb"
             + text(command) + b"b")
    return {
        "reduce": run, "inst": b"(" + text(command) + b"ios\nsystem\n",
        "obj": b"(cos\nsystem\n" + text(command) + b"o",
        "ext1": b"\x82\xf0" + text(command) + b"\x85R",
        "ext2": b"\x83\xf0\0" + text(command) + b"\x85R",
        "ext4": b"\x84\xf0\0\0\0" + text(command) + b"\x85R",
        "stack_global": text("os") + text("system") + b"\x93" + text(command) + b"\x85R",
        "build": build, "attribute": attributes,
        "nested": b"cbuiltins\nlist\n" + run + b"\x85\x85R",
        "key": b"}" + run + b"Ns",
        "map": b"cbuiltins\nlist\ncbuiltins\nmap\ncos\nsystem\n](" + text(command)
               + b"e\x86R\x85R",
        "eval": b"cbuiltins\neval\n" + text(f"__import__('os').system({command!r})") + b"\x85R",
    }


@pytest.mark.parametrize("name", sorted(hostile("")))
def test_hostile_pickles_run_nothing(path, legacy, tmp_path, monkeypatch, name):
    monkeypatch.setitem(copyreg._extension_cache, 240, os.system)
    monkeypatch.setitem(copyreg._inverted_registry, 240, ("os", "system"))
    marker = tmp_path / "ran"
    attack = hostile(f"touch {marker}")[name]
    pickle.loads(b"\x80\x04" + attack + b".")
    assert marker.exists(), "no attack"
    marker.unlink()
    for pickled in (b"\x80\x02" + attack + b".", b"\x80\x02}" + text("a") + attack + b"s.",
                    b"\x80\x02}" + text("a") + b"]" + attack + b"as."):
        write_pickle(path, pickled, {}, legacy)
        try:
            torch_files.load(path)
        except UserError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
        assert not marker.exists()


def test_nothing_is_imported(path, legacy, tmp_path, monkeypatch):
    (tmp_path / "imported_by_a_pickle.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    found = loaded(path, {"a": Name("imported_by_a_pickle", "b")}, legacy)["a"]
    assert found.__module__ == "imported_by_a_pickle" and not isinstance(found, Name)


def test_known_names_cannot_be_changed(path, legacy):
    for target in ("collections\nOrderedDict", "torch._utils\n_rebuild_tensor_v2", "torch\nSize",
                   "torch\nFloatStorage", "anything\nElse"):
        # Attributes, and those of slots, of the name itself.
        attributes = b"}" + text("__doc__") + text("changed") + b"s"
        for state in (attributes, b"N" + attributes + b"\x86"):
            write_pickle(path, b"\x80\x02}" + text("a") + b"c" + target.encode() + b"\n" + state
                         + b"bs.", {}, legacy)
            assert getattr(torch_files.load(path)["a"], "__doc__", None) != "changed"
    assert torch_files._Unpickler._tensor.__doc__ != "changed"


DEEP = b")" + b"\x85" * 200_000  # a tuple whose hash recurses as often


@pytest.mark.parametrize("pickled", [
    b"}" + DEEP + b"K\1s", b"}(" + DEEP + b"K\1u", b"ca\nb\n)R" + DEEP + b"K\1s",
    b"(" + DEEP + text("key") + b"NtQ",
    b"(" + text("storage") + b"ctorch\nFloatStorage\n" + DEEP + b"NK\1tQ", b"(" * 200_000 + b"s"])
def test_deep_pickles(path, pickled):
    write_pickle(path, b"\x80\x02" + pickled + b".", {})
    refused(path, "damaged|tensors of a type")


def test_deep_keys_of_storages(path):
    with open(path, "wb") as file:
        for value in torch_writer.LEGACY_START:
            pickle.dump(value, file, 2)
        file.write(b"\x80\x02}." + b"\x80\x02]" + DEEP + b"a.")
    refused(path, "a storage has no proper key")


@pytest.mark.parametrize("pickled", [
    b"}r\xff\xff\xff\xff" + text("a") + b"X\xff\xff\xff\x7f", b"}\x8b\xff\xff\xff\x7f"])
def test_huge_values(path, legacy, pickled):
    write_pickle(path, b"\x80\x02" + pickled + b".", {}, legacy)
    tracemalloc.start()
    refused(path, "damaged")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_deep_values(path, legacy):
    write_pickle(path, b"\x80\x02}" + text("a") + b"]" * 200_000 + b"a" * 199_999 + b"s.", {},
                 legacy)
    assert len(torch_files.load(path)["a"]) == 1
