"""The level at which a file was coded, read from its stream without TensorFlow's range decoder."""

import os

import numpy as np

from common import export
from common.coding_tables import PRECISION
from common.container import Container
from common.errors import UserError


def read_level(path: str | os.PathLike, file: Container) -> int | None:
    """The level at which a file was coded; None for a model of one rate.

    Args:
      path: folder of the exported model that wrote it.
      file: its container.

    Raises:
      UserError: the file is damaged, or the model.
    """
    levels = export.read_levels(path)
    if not levels:
        return None
    level, count = _first_symbol(export.read_tables(path), file.stream), levels["count"]
    if not 0 <= level < count:
        raise UserError(f"the file cannot be decoded (level {level} of a model with {count})")
    return level


def _first_symbol(tables, stream):
    """The first symbol of a stream, the level.

    Nothing has been decoded yet, so the range is 2^32. The first four bytes are a number in it; the
    symbol is the one whose interval contains this number.
    """
    number = tables.level
    value = int.from_bytes(stream[:4].ljust(4, b"\0"), "big")
    place = ((value + 1 << PRECISION) - 1) >> 32
    position = np.searchsorted(tables.counts(number), place, "right") - 1
    return int(position) + int(tables.minima[number])
