"""Shared parts of the readers: arrays that are read when asked for, and other kinds of files."""

import dataclasses
import os
from collections.abc import Callable

import numpy as np

from common.errors import UserError

# What files begin with that are taken for checkpoints.
_KINDS = {
    b"\x89HDF": "an HDF5 file, as of Keras",
    b"PK": "a zip archive, as of PyTorch",
    b"\x80\x02\x8a\nl\xfc\x9cF": "a PyTorch file",
    b"\x80": "a pickle",
    b"\x1f\x8b": "a gzip archive",
    b"version https://git-lfs": "a pointer of Git LFS, for which `git lfs pull` gets the file",
    b"<": "a web page",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Array:
    """An array in a file. It is read whenever it becomes a NumPy array: `np.asarray(array)`.

    Attributes:
      shape: its shape.
      read: reads it. Raises UserError if it is damaged.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray] = dataclasses.field(repr=False)

    def __array__(self, dtype=None) -> np.ndarray:
        return np.asarray(self.read(), dtype)


def beginning(path: str | os.PathLike) -> bytes:
    """The first bytes of a file.

    Raises:
      UserError: there is no such file, or it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(32)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def described(head: bytes) -> str:
    """A clause that says what begins with these bytes, for messages."""
    if not head:
        return "it is empty"
    for start, kind in _KINDS.items():
        if head.startswith(start):
            return f"it is {kind}"
    return f"it begins with {head[:16]!r}"
