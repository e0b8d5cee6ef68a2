"""Files that torch.save wrote, read with NumPy alone: no name in one is imported, nothing is run.

    zip, from torch 1.6 on   <name>/data.pkl, a pickle whose tensors name their storages, and
                             <name>/data/<key>, the elements of each storage
    legacy, before           pickles of a magic number, the version, the machine, the object and
                             a list of keys; then for each storage the number of its elements,
                             int64, and the elements

Tensors and parameters are read as `files.Array`, a torch.Size as a tuple, an OrderedDict as a dict
(without the `_metadata` of a state dict), and whatever else has a class as an `Unknown`.
"""

import contextlib
import dataclasses
import functools
import io
import math
import mmap
import os
import pathlib
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from common.errors import UserError
from convert.files import Array, beginning, described

_LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
_ZIP = b"PK\x03\x04"
_BFLOAT16 = np.dtype([("bits", "<u2")])
_STORAGES = {
    f"{name}Storage": np.dtype(dtype)  # type: ignore[call-overload]
    for name, dtype in {"Float": "<f4", "Double": "<f8", "Half": "<f2", "BFloat16": _BFLOAT16,
                        "Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1", "Byte": "u1",
                        "Bool": "?", "Untyped": "u1"}.items()}
# What pickles of torch.save, which are of protocol 2, consist of.
_OPCODES = {
    "PROTO", "STOP", "MARK", "POP", "POP_MARK", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
    "BINUNICODE", "BINSTRING", "SHORT_BINSTRING", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2",
    "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "GLOBAL",
    "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"}


class Unknown(dict):
    """An object of any class: its items or attributes, but not what it was constructed from.

    It is of a class that has the name and the module of the one in the file.
    """

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def append(self, item: Any) -> None:
        """Drops an item of a list."""

    extend = append


def is_torch(path: str | os.PathLike) -> bool:
    """Whether PyTorch wrote a file, be it TorchScript. Raises UserError if it is damaged."""
    head = beginning(path)
    if head.startswith(_ZIP):
        with _damage(path), _open(path) as archive:
            return _root(archive) is not None
    return head.startswith(_LEGACY)


def load(path: str | os.PathLike) -> dict:
    """The object that torch.save wrote: nested dicts, lists, numbers, texts, and `files.Array`.

    Only the pickle is read here. A tensor is read when it becomes a NumPy array: bfloat16 as
    float32, other types as they are.

    Raises:
      UserError: the file is missing, damaged, encrypted or none of PyTorch, or has TorchScript or
        something else than a dict.
    """
    path, head = pathlib.Path(path), beginning(path)
    if not head.startswith((_ZIP, _LEGACY)):
        raise UserError(f"{path}: not a PyTorch file: {described(head)}")
    with _damage(path):
        value = (_load_zip if head.startswith(_ZIP) else _load_legacy)(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: need a dict of tensors, as a state dict; it holds a "
                        f"{type(value).__name__}")
    return value


@contextlib.contextmanager
def _damage(path):
    """Makes one line of whatever reading a damaged file raises."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path}: the PyTorch file is damaged ({reason})") from None


def _open(path):
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise UserError(f"{path}: truncated or damaged (it begins as the zip archives of PyTorch "
                        "do, but lacks what ends them)") from None


def _root(archive):
    """The folder that torch.save made in an archive; None if another program wrote that."""
    return next((folder for folder, slash, name in (entry.partition("/")
                                                    for entry in archive.namelist())
                 if slash and name == "data.pkl"), None)


def _load_zip(path):
    archive = _open(path)
    root, names = _root(archive), archive.namelist()
    if root is None:
        raise UserError(f"{path}: not a PyTorch file: it is a zip archive without data.pkl")
    if f"{root}/constants.pkl" in names or any(n.startswith(f"{root}/code/") for n in names):
        raise UserError(f"{path}: need what torch.save wrote of a state dict; this is TorchScript, "
                        "of torch.jit.save")
    if f"{root}/byteorder" in names:
        _require_little_endian(path, _entry(archive, f"{root}/byteorder")() == b"little")

    def find(key, size, itemsize):
        return _entry(archive, f"{root}/data/{key}", size * itemsize)

    pickled = io.BytesIO(_entry(archive, f"{root}/data.pkl")())
    return _Unpickler(pickled, path, find).load()


def _entry(archive, name, size=None) -> Callable[[], bytes]:
    """A function that reads an entry of an archive, which should have `size` bytes."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise ValueError(f"{name} is missing") from None
    if info.flag_bits & 1:
        raise UserError(f"{archive.filename}: is encrypted, which PyTorch files are not")
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed, which torch.save does not do")
    if size not in (None, info.file_size):
        raise ValueError(f"{name} has {info.file_size} bytes, its tensors need {size}")
    return functools.partial(archive.read, info)


def _load_legacy(path):
    sizes, starts = {}, {}  # of storages by key; the starts are known after the pickle of tensors

    def find(key, size, itemsize):
        sizes.setdefault(key, (size, itemsize))
        return lambda: _read(path, starts[key], size * itemsize)

    with (open(path, "rb") as opened,
          # Of which too large a read allocates no more than there is.
          mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as file):
        _, _, machine, value, keys = (_Unpickler(file, path, find).load() for _ in range(5))
        _require_little_endian(path, machine["little_endian"])
        for key in map(_text, keys):
            size, itemsize = sizes.pop(key)
            if int.from_bytes(file.read(8), "little") != size:
                raise ValueError(f"storage {key} has another size than its tensors need")
            starts[key] = file.tell()
            if starts[key] + size * itemsize > len(file):
                raise ValueError(f"it ends within storage {key}")
            file.seek(size * itemsize, os.SEEK_CUR)
    if sizes:
        raise ValueError(f"storage {next(iter(sizes))} is missing")
    return value


def _read(path, start, count):
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(count)


def _require_little_endian(path, little):
    if not little:
        raise UserError(f"{path}: written on a big-endian machine; only little-endian is read")


@dataclasses.dataclass(frozen=True, eq=False)
class _Storage:
    dtype: np.dtype
    size: int
    read: Callable[[], bytes]


class _Unpickler(pickle._Unpickler):
    """Unpickles what is known and makes the rest `Unknown`.

    It is the one in Python, since that in C allocates whatever a file declares.

    Args:
      file: where a pickle begins.
      path: of the file, for messages.
      find: (key of a storage, number of elements, bytes of one) -> function that reads the storage.
    """

    def __init__(self, file, path, find):
        super().__init__(file, encoding="utf-8")
        self._path, self._find = path, find

    def find_class(self, module, name):
        """The stand-in for a name in the file."""
        known = {("torch._utils", "_rebuild_tensor_v2"): self._tensor,
                 ("torch._utils", "_rebuild_parameter"): _first,
                 ("torch._utils", "_rebuild_parameter_with_state"): _first,
                 ("torch", "Size"): _first,
                 ("collections", "OrderedDict"): _dict}
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        return known.get((module, name)) or type(name, (Unknown,), {"__module__": module})

    def persistent_load(self, pid):
        """The storage, or the class of a module, that the file calls so."""
        kind, stored, *rest = pid
        if kind == "module":  # and its source
            return stored
        key, _, size, *view = rest
        if not isinstance(stored, np.dtype):
            raise UserError(f"{self._path}: has tensors of a type that is not read "
                            f"({getattr(stored, '__name__', 'unknown')})")
        if not _is_count(size) or any(part is not None for part in view):
            raise ValueError("a storage has no proper size")
        return _Storage(stored, size, self._find(_text(key), size, stored.itemsize))

    def _tensor(self, storage, offset, shape, strides, *_):
        if (not isinstance(shape, tuple) or not isinstance(strides, tuple)
                or len(shape) != len(strides)
                or not all(map(_is_count, (offset, *shape, *strides)))):
            raise ValueError("a tensor has no proper shape")
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor has no storage")
        return Array(shape, functools.partial(_elements, self._path, storage, offset, shape,
                                              strides))

    def load_build(self):
        """Gives an object its attributes."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Unknown) and isinstance(state, dict):
            target.update(state)

    def load_setitem(self):
        """Puts an item into a dict."""
        value, key = self.stack.pop(), self.stack.pop()
        _put(self.stack[-1], [(key, value)])

    def load_setitems(self):
        """Puts items into a dict."""
        items = self.pop_mark()
        _put(self.stack[-1], zip(items[::2], items[1::2]))

    def _refuse(self):
        raise ValueError("its pickle is not of protocol 2, which torch.save has unless told "
                         "otherwise")

    dispatch = dict.fromkeys(range(256), _refuse)
    dispatch.update((ord(code.code), pickle._Unpickler.dispatch[ord(code.code)])
                    for code in pickletools.opcodes if code.name in _OPCODES)
    dispatch |= {pickle.BUILD[0]: load_build, pickle.SETITEM[0]: load_setitem,
                 pickle.SETITEMS[0]: load_setitems}


def _is_count(value):
    return type(value) is int and value >= 0


def _text(key):
    if not isinstance(key, str):
        raise ValueError("a storage has no proper key")
    return key


def _first(value, *_):
    return value


def _dict(*_):
    return {}


def _put(target, items):
    """Puts items into a dict, but for keys whose hash would need a deep recursion."""
    if not isinstance(target, dict):
        raise TypeError("items are put into something that is not a dict")
    for key, value in items:
        if isinstance(key, tuple) and any(isinstance(part, tuple) for part in key):
            raise ValueError("a key is a nested tuple")
        target[key] = value


def _elements(path, storage, offset, shape, strides):
    """The array of a tensor. Raises UserError if it is damaged, or needs more than its storage."""
    with _damage(path):
        if math.prod(shape) > storage.size:  # with strides of 0
            raise ValueError(f"a tensor {list(shape)} is larger than its storage of {storage.size}")
        size = storage.dtype.itemsize
        array = np.ndarray(shape, storage.dtype, storage.read(), offset * size,
                           [stride * size for stride in strides])
        if storage.dtype == _BFLOAT16:
            array = (array["bits"].astype("<u4") << 16).view("<f4")
        return array
