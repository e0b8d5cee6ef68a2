"""Coders: what `Codec.encode` writes to, and `Codec.decode` reads from.

    RangeEncoder, RangeDecoder    a stream of bytes (common/range_coding.py)
    BitCounter                    no bytes, only how many there would be (common/range_coding.py)
    AnsStack                      a stack of bits, encoder and decoder in one (common/ans.py)
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from common.coding_tables import CodingTables


class Encoder(Protocol):
    """A coder that takes symbols."""

    def encode(self, symbols: np.ndarray, distributions: np.ndarray, bounded: bool = False
               ) -> None:
        """Writes symbols.

        Args:
          symbols: integers as any float or int array.
          distributions: int array of the same shape: which of the coding tables codes each.
          bounded: all symbols lie in their tables, so that no escapes are coded.

        Raises:
          CodingError: a symbol is not finite, or larger than any model produces, or is not in its
            table though `bounded`.
        """


class Decoder(Protocol):
    """A coder that returns the symbols of an encoder, by the same calls in the same order."""

    def decode(self, distributions: np.ndarray, bounded: bool = False) -> np.ndarray:
        """The next symbols, int32 of the shape of `distributions`.

        Raises:
          CodingError: no encoder wrote this.
        """


class Rows(Protocol):
    """Codes N symbols, each with its own row of counts: one for every integer of a window and,
    last, one for the escape.

    Attributes:
      minima: int32 [N]; the first integer of each window.
      sizes: int32 [N]; how many integers it has.
    """

    minima: np.ndarray
    sizes: np.ndarray

    def encode(self, positions: np.ndarray) -> np.ndarray:
        """Positions int [N] in the rows, that of the escape being the size -> uint32 words."""

    def decode(self, words: np.ndarray) -> np.ndarray:
        """The inverse of `encode`. Raises ValueError for some words that no encoder wrote."""


class Derived(Protocol):
    """Distributions made from those in the coding tables, a different one for every symbol.

    Attributes:
      shape: that of the symbols.
    """

    shape: tuple[int, ...]

    def rows(self, tables: CodingTables) -> Rows:
        """Their integer counts."""

    def bits(self, symbols: np.ndarray,
             table_bits: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
        """Information content of all symbols.

        Args:
          symbols: integers of the shape `shape`.
          table_bits: (symbols, distributions in the tables) -> information content of each symbol.
        """


class StreamEncoder(Encoder, Protocol):
    """An encoder that takes symbols with distributions of their own too; `AnsStack` is not one."""

    def encode_rows(self, symbols: np.ndarray, derived: Derived) -> None:
        """Writes symbols, each with a distribution of its own.

        Args:
          symbols: integers as any float or int array.
          derived: their distributions.

        Raises:
          CodingError: as `encode`, or there are too many symbols.
        """


class StreamDecoder(Decoder, Protocol):
    """The decoder of what a `StreamEncoder` took; `AnsStack` is not one."""

    def decode_rows(self, derived: Derived) -> np.ndarray:
        """The next symbols, int32, each with a distribution of its own.

        Raises:
          CodingError: no encoder wrote this.
        """

    def decode_serially(self, count: int, loop: Callable[[tuple], tuple]) -> np.ndarray:
        """The next symbols, when which tables code them depends on those before.

        Args:
          count: how many symbols there are.
          loop: decodes them by `range_coding.next_symbols`. Takes its first state and returns its
            last one and all symbols, int32 with `count` elements.

        Returns:
          The symbols that `loop` returned.

        Raises:
          CodingError: no encoder wrote this.
        """
