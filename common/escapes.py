"""Escapes: how values that lie outside of their tables are coded.

In the tables an escape stands for them. Their distances from the table's ends come before all
symbols, in digits: a serial decoder has them all before its first step.
"""

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from common.coding_tables import CodingTables
from common.errors import CodingError
from common.priors import MAX_SYMBOL

# An escaped value's digit: three bits of it, lowest first, and in the fourth whether more follow.
_MAX_DIGITS = 8

# Numbers in digits are below this.
LIMIT = 8**_MAX_DIGITS


def require_codable(latents: np.ndarray | tf.Tensor) -> np.ndarray:
    """Returns `latents` as an array. Raises CodingError for what no model produces."""
    latents = np.asarray(latents)
    # NaN fails both comparisons. The library does not return from NaN or values above 2^31.
    if not -MAX_SYMBOL <= np.min(latents, initial=0) <= np.max(latents, initial=0) <= MAX_SYMBOL:
        raise CodingError("latents are not finite or exceed 2^20: the model is damaged, or was "
                          "never trained on images like this one")
    return latents


# Positions in the tables, and the distributions that code them: int arrays of one shape.
Section = tuple[np.ndarray, np.ndarray]


def sections(tables: CodingTables, symbols: np.ndarray, distributions: np.ndarray
             ) -> Iterator[Section]:
    """The sections in which symbols are coded, in the order in which a decoder reads them.

    First come the values that lie outside of their tables, then a symbol for every element, which
    for those is the escape.

    Args:
      tables: what codes them.
      symbols: int array, of what `require_codable` lets through.
      distributions: int array of the same shape: which table entry codes each.
    """
    positions, beyond = locate(symbols, tables.minima[distributions], tables.sizes[distributions])
    yield from escaped(tables, beyond)
    yield positions, distributions


def locate(symbols: np.ndarray, minima: np.ndarray, sizes: np.ndarray
           ) -> tuple[np.ndarray, np.ndarray]:
    """Looks symbols up in their tables.

    Args:
      symbols, minima, sizes: int arrays of one shape; the latter of the tables that code each.

    Returns:
      Positions in the tables, that of the escape being the size; and of the symbols that lie
      outside, in their order, how far: int [number of these].
    """
    position = symbols - minima
    below, above = position < 0, position >= sizes
    # Even above the table and odd below.
    beyond = np.where(below, -2 * position - 1, 2 * (position - sizes))[below | above]
    return np.where(below | above, sizes, position), beyond


def escaped(tables: CodingTables, beyond: np.ndarray) -> Iterator[Section]:
    """All sections but the last, for what `locate` says of the symbols outside of their tables."""
    yield from in_digits(tables, np.array([beyond.size]))
    yield from in_digits(tables, beyond)


def in_digits(tables: CodingTables, values: np.ndarray) -> Iterator[Section]:
    """Sections of natural numbers below LIMIT, int [N]."""
    while values.size:
        rest = values >> 3
        yield (values & 7) | np.where(rest > 0, 8, 0), np.full(values.shape, tables.digits)
        values = rest[rest > 0]


# Reads a section: from its distributions int32 [N] to positions in the tables [N].
Read = Callable[[np.ndarray], np.ndarray]


def read_escaped(tables: CodingTables, count: int, read: Read) -> np.ndarray:
    """Reads all sections but the last: the values that lie outside of their tables.

    Args:
      tables: what codes them.
      count: how many values there may be.
      read: reads a section.

    Returns:
      int32 [number of values + 1], for `unescape`.

    Raises:
      CodingError: no encoder wrote these.
    """
    outside, = read_digits(tables, 1, read)
    if outside > count:
        raise CodingError(f"{outside} values outside of the tables among {count}")
    # Beyond the last value a damaged stream reads zeros.
    return np.append(read_digits(tables, outside, read), np.int32(0))


def read_digits(tables: CodingTables, count: int, read: Read) -> np.ndarray:
    """The inverse of `in_digits`: int32 [count]. Raises CodingError for too long a number."""
    values = np.zeros(count, np.int32)
    more = np.arange(count)
    for shift in range(0, 3 * _MAX_DIGITS, 3):
        if not more.size:
            return values
        digits = read(np.full(more.shape, tables.digits, np.int32))
        values[more] |= (digits & 7) << shift
        more = more[digits >= 8]
    if more.size:
        raise CodingError("an escaped value is too large")
    return values


def unescape(positions: tf.Tensor, minima: tf.Tensor, sizes: tf.Tensor, beyond: tf.Tensor,
             used: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Turns positions in the tables into symbols, in a graph or out of it.

    Args:
      positions: int32, of any part of the last section.
      minima, sizes: int32 of the same shape; of the tables that coded them.
      beyond: int32, as `read_escaped` returns it.
      used: how many of those belong to earlier parts.

    Returns:
      Symbols, int32 of the shape of `positions`; and how many of `beyond` are used now.
    """
    outside = positions == sizes
    flat = tf.cast(tf.reshape(outside, [-1]), tf.int32)
    which = tf.minimum(used + tf.cumsum(flat, exclusive=True), tf.size(beyond) - 1)
    beyond = tf.reshape(tf.gather(beyond, which), tf.shape(positions))
    values = tf.where(beyond % 2 == 1, -(beyond + 1) // 2, sizes + beyond // 2)
    symbols = tf.where(outside, values, positions) + minima
    return symbols, used + tf.reduce_sum(flat)
