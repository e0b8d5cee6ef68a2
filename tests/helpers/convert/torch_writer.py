"""Writes what torch.save does, without PyTorch: the zip format, and the legacy one before it.

    write(path, {"state_dict": {"g_a.0.weight": np.zeros([8, 3, 5, 5], np.float32)}})

Arrays become tensors: views of one array share a storage, with their strides and offsets; arrays
of ml_dtypes.bfloat16 are of that type. `Parameter(array)` is a parameter, attributes of an
OrderedDict, as `_metadata`, are kept, and all else is pickled as it is.
"""

import io
import os
import pickle
import zipfile
from collections import OrderedDict

import numpy as np

_STORAGES = {"float32": "Float", "float64": "Double", "float16": "Half", "bfloat16": "BFloat16",
             "int64": "Long", "int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte",
             "bool": "Bool"}
LEGACY_START = (0x1950A86A20F9469CFC6C, 1001, {
    "protocol_version": 1001, "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4}})


class Parameter:
    """Has an array written as a parameter."""

    def __init__(self, array: np.ndarray):
        self.array = array


class View:
    """Has a tensor written that views an array so, also where that is not possible.

    Args:
      array: the array.
      offset: of the first element, in elements.
      shape: the shape.
      strides: in elements.
    """

    def __init__(self, array: np.ndarray, offset, shape, strides):
        self.array, self.place = array, (offset, shape, strides)


class Name:
    """Is pickled as the name of a module's function or class, whether there is one or not."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __call__(self):
        """Makes it what pickle takes for the function of a reduction."""


class _Storage:
    """The memory of an array, which others may view."""

    def __init__(self, array: np.ndarray, key: str):
        self.key, self.size = key, array.size
        self.content = array.ravel("K").tobytes()
        self.type = Name("torch", f"{_STORAGES[array.dtype.name]}Storage")


class _Pickler(pickle._Pickler):
    dispatch = pickle._Pickler.dispatch.copy()

    def __init__(self, file, legacy):
        super().__init__(file, protocol=2)
        self._legacy = legacy
        self._owners = {}  # of memory, by id; kept so that no other gets that

    @property
    def storages(self):
        return [storage for _, storage in self._owners.values()]

    def persistent_id(self, obj):
        if isinstance(obj, _Storage):
            view = [None] if self._legacy else []
            return "storage", obj.type, obj.key, "cpu", obj.size, *view
        return None

    def _save_array(self, array):
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        view = array
        if owner.dtype != array.dtype or min(array.strides, default=0) < 0:
            owner = view = array.copy()
        offset = (view.ctypes.data - owner.ctypes.data) // view.itemsize
        strides = tuple(stride // view.itemsize for stride in view.strides)
        self._save_tensor(array, owner, offset, view.shape, strides)

    def _save_view(self, view):
        self._save_tensor(view, view.array, *view.place)

    def _save_tensor(self, obj, owner, offset, shape, strides):
        _, storage = self._owners.setdefault(
            id(owner), (owner, _Storage(owner, str(len(self._owners)))))
        self.save_reduce(_REBUILD_TENSOR, (storage, offset, shape, strides, False, OrderedDict()),
                         obj=obj)

    def _save_parameter(self, parameter):
        self.save_reduce(_REBUILD_PARAMETER, (parameter.array, True, OrderedDict()), obj=parameter)

    def _save_name(self, name):
        self.write(pickle.GLOBAL + f"{name.module}\n{name.name}\n".encode())
        self.memoize(name)

    dispatch |= {np.ndarray: _save_array, View: _save_view, Parameter: _save_parameter,
                 Name: _save_name}


_REBUILD_TENSOR = Name("torch._utils", "_rebuild_tensor_v2")
_REBUILD_PARAMETER = Name("torch._utils", "_rebuild_parameter")


def write(path: str | os.PathLike, obj, legacy: bool = False) -> None:
    """Writes what torch.save(obj, path) would.

    Args:
      path: the file.
      obj: nested dicts, lists and tuples of arrays, numbers, texts, and whatever can be pickled.
      legacy: as before version 1.6, or with _use_new_zipfile_serialization=False since.
    """
    file = io.BytesIO()
    pickler = _Pickler(file, legacy)
    pickler.dump(obj)
    write_pickle(path, file.getvalue(), {
        storage.key: (storage.size, storage.content) for storage in pickler.storages}, legacy)


def write_pickle(path: str | os.PathLike, pickled: bytes,
                 storages: dict[str, tuple[int, bytes]], legacy: bool = False) -> None:
    """Writes a pickle as torch.save would, with storages: number of elements and content by key."""
    if legacy:
        with open(path, "wb") as file:
            for value in LEGACY_START:
                pickle.dump(value, file, 2)
            file.write(pickled)
            pickle.dump(sorted(storages), file, 2)
            for _, (size, content) in sorted(storages.items()):
                file.write(size.to_bytes(8, "little") + content)
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for key, (_, content) in storages.items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", "3\n")
