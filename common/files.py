"""Files that are written whole or not at all."""

import contextlib
import json
import lzma
import math
import os
import pathlib
import secrets
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from common.errors import UserError

# What reading a damaged .npz file raises, and what making something of the arrays in it.
NPZ_ERRORS = (OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError,
              EOFError, MemoryError, RuntimeError, SyntaxError, struct.error, zipfile.BadZipFile,
              zlib.error, lzma.LZMAError)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path` and renames it to `path` when the block succeeds.

    The temporary path may become a file or a directory. When the block raises, nothing is left.
    Of a link, what it leads to is replaced; a file keeps the permissions of the one it replaces.
    A stream (see `is_stream`) is written to as it is, and nothing is made beside it.

    Raises:
      UserError: `path` cannot be written.
    """
    path = pathlib.Path(path)
    try:
        with _copying(path) if is_stream(path) else _renaming(path) as temporary:
            yield temporary
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def is_stream(path: str | os.PathLike) -> bool:
    """Whether `path` is a pipe, a device or an open file of this process, as /dev/stdout is."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    regular = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
    return not regular or _descriptor(path) is not None


@contextlib.contextmanager
def _copying(path):
    with tempfile.TemporaryDirectory() as folder:
        temporary = pathlib.Path(folder, path.name)
        yield temporary
        descriptor = _descriptor(path)
        # Opened by its name, a file to which standard output goes would be cut off.
        with open(path if descriptor is None else os.dup(descriptor), "wb") as stream:
            stream.write(temporary.read_bytes())


@contextlib.contextmanager
def _renaming(path):
    if path.is_symlink():
        try:
            path = pathlib.Path(os.path.realpath(path, strict=True))
        except FileNotFoundError:  # what it leads to is new
            path = pathlib.Path(os.path.realpath(path))
    # As short as any name. The suffix stays last, because writers choose the format by it.
    temporary = path.parent / f".{secrets.token_hex(4)}.tmp{path.suffix}"
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():  # cannot be replaced in one step
            old = temporary.with_name(temporary.name + ".old")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            if path.is_file():
                _take_permissions(path, temporary)
            os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        elif temporary.exists():
            temporary.unlink()


def _take_permissions(old, new):
    status = old.stat()
    with contextlib.suppress(OSError):  # only root may give files away
        os.chown(new, status.st_uid, status.st_gid)
    os.chmod(new, stat.S_IMODE(status.st_mode))


def _descriptor(path) -> int | None:
    """The number of the open file that an existing path names: 1 of /dev/stdout."""
    own, path = os.path.realpath("/dev/fd"), os.path.abspath(path)
    while True:
        folder, name = os.path.split(path)
        if name.isdecimal() and os.path.realpath(folder) == own:
            return int(name)
        if not os.path.islink(path):
            return None
        path = os.path.join(folder, os.readlink(path))


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes `value` as indented JSON with a final newline; NaN and infinity become null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
