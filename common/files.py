"""Files that are written whole or not at all."""

import contextlib
import json
import math
import os
import pathlib
import shutil
import zipfile
import zlib
from collections.abc import Iterator

from common.cli import UserError

# What reading a damaged .npz file raises.
NPZ_ERRORS = (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path` and renames it to `path` when the block succeeds.

    The temporary path may become a file or a directory. When the block raises, nothing is left.

    Raises:
      UserError: `path` cannot be written.
    """
    path = pathlib.Path(path)
    # The suffix stays last, because writers choose the format by it.
    temporary = path.parent / f".{path.stem}.{os.getpid()}.tmp{path.suffix}"
    try:
        yield temporary
        if temporary.is_dir() and path.is_dir():  # cannot be replaced in one step
            old = temporary.with_name(temporary.name + ".old")
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        elif temporary.exists():
            temporary.unlink()


def write_json(path: str | os.PathLike, value) -> None:
    """Writes `value` as indented JSON with a final newline; NaN and infinity become null."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def _finite(value):
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
