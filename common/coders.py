"""Coders: what the verbs encode and decode of a codec write to and read from.

    RangeEncoder, RangeDecoder    a stream of bytes (common/range_coding.py)
    BitCounter                    no bytes, only how many there would be (common/range_coding.py)
    AnsStack                      a stack of bits, both of it (common/ans.py)
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
          bounded: none lies outside of its table, so that nothing need be said of those that do.

        Raises:
          CodingError: a symbol is not finite, or larger than any model produces, or is not in its
            table though `bounded`.
        """


class Decoder(Protocol):
    """A coder that returns them: after the same calls, with the same arguments."""

    def decode(self, distributions: np.ndarray, bounded: bool = False) -> np.ndarray:
        """The next symbols, int32 of the shape of `distributions`.

        Raises:
          CodingError: no encoder wrote this.
        """


class Rows(Protocol):
    """Codes each of N symbols with a row of counts, all of which are an escape's and a window's.

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
    """Distributions that are not in the coding tables, but made of those: one for every symbol.

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
          table_bits: that of each of some symbols by distributions in the tables.
        """
