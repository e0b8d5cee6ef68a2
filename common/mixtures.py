"""Mixtures of the stored tables, a different one for every symbol. Touches constriction's queue.

A mixture has a weight, a table and a place on the integers for each of its K components. Its
cumulative counts are the weighted sums of theirs, shifted to their places: sums, products and
quotients of integers, the same on every machine. They are worked out for some symbols at a time.
tensorflow-compression's coder takes all its tables when it is made, constriction's a row for each
symbol; so these symbols get a stream of their own.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import constriction
import numpy as np

from common.coding_tables import PRECISION, CodingTables

# Components' weights are integers up to 2^WEIGHT_BITS, which fit in 16 bits.
WEIGHT_BITS = 14

# Rows have 2^24 counts, all that the library's coder has.
_ROW_BITS = 24

# The lengths of rows are powers of two. What lies farther out is escaped.
_SHORTEST, _LONGEST = 8, 2**12

# Of the rows that are worked out at a time.
_CELLS = 2**19


class Mixtures(NamedTuple):
    """The mixtures of symbols [...], one for each: `coders.Derived` distributions.

    Attributes:
      weights: int [K, ...], from 0 to 2^14; no symbol's may be all 0.
      distributions: int [K, ...]; which table each component is.
      shifts: int [K, ...]; what is added to a component's symbols.
    """

    weights: np.ndarray
    distributions: np.ndarray
    shifts: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the symbols."""
        return self.weights.shape[1:]

    def rows(self, tables: CodingTables) -> "MixtureRows":
        """Their integer counts."""
        return MixtureRows(tables, self)

    def bits(self, symbols: np.ndarray,
             table_bits: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> float:
        """Information content of all symbols; arguments as of `coders.Derived.bits`."""
        probability = np.zeros(symbols.shape)
        for weight, distribution, shift in zip(*self):
            probability += weight * 2.0**-table_bits(symbols - shift, distribution)
        return float(np.sum(np.log2(np.sum(self.weights, axis=0)) - np.log2(probability)))


class MixtureRows:
    """Codes N symbols, each with its own row of counts: one for every integer of a window and,
    last, one for all others, the escape.

    The window holds the tables of all components. If it would be too long, it lies around the
    heaviest one.

    Args:
      tables: of the model.
      mixtures: of the symbols, of any shape with N elements.

    Attributes:
      minima: int32 [N]; the first integer of each window.
      sizes: int32 [N]; how many integers it has.
    """

    def __init__(self, tables: CodingTables, mixtures: Mixtures):
        weights, distributions, shifts = (array.reshape(len(array), -1) for array in mixtures)
        self._tables = tables
        self._components = list(zip(weights, distributions, shifts))
        first = shifts + tables.minima[distributions]
        low, high = first.min(axis=0), (first + tables.sizes[distributions]).max(axis=0)
        lengths = _SHORTEST * 2**np.arange(_LONGEST.bit_length() - _SHORTEST.bit_length() + 1)
        self.sizes = lengths[np.searchsorted(lengths[:-1], high - low)].astype(np.int32)
        heaviest = np.take_along_axis(shifts, weights.argmax(axis=0)[None], axis=0)[0]
        self.minima = np.clip(heaviest - self.sizes // 2, low, np.maximum(low, high - self.sizes)
                              ).astype(np.int32)

    def encode(self, positions: np.ndarray) -> np.ndarray:
        """Positions int [N] in the rows, that of the escape being the size -> uint32 words."""
        coder = constriction.stream.queue.RangeEncoder()
        for indices, *model in self._models():
            coder.encode(positions[indices].astype(np.int32), *model)
        return coder.get_compressed()

    def decode(self, words: np.ndarray) -> np.ndarray:
        """The inverse of `encode`. Raises ValueError for some words that no encoder wrote."""
        coder = constriction.stream.queue.RangeDecoder(words)
        positions = np.empty(self.sizes.shape, np.int32)
        # Beyond the end the library reads on; the encoder may leave out two words.
        bits = 32.0 * len(words) + 64
        for indices, family, shares in self._models():
            try:
                positions[indices] = coder.decode(family, shares)
            except AssertionError as error:
                raise ValueError(str(error)) from None
            counts = shares[np.arange(indices.size), positions[indices]] + 1
            bits -= np.sum(_ROW_BITS - np.log2(counts))
            if bits < 0:
                raise ValueError("the words end before their symbols do")
        return positions

    def _models(self) -> Iterator[tuple]:
        """Indices of some symbols, all with rows of one length; the library's model of them."""
        family = constriction.stream.model.Categorical(perfect=False)
        order = np.argsort(self.sizes, kind="stable")
        sizes, first = np.unique(self.sizes[order], return_index=True)
        for size, group in zip(sizes, np.split(order, first[1:])):
            rows = _CELLS // size
            for start in range(0, group.size, rows):
                indices = group[start:start + rows]
                yield indices, family, self._shares(indices, size)

    def _shares(self, indices, size):
        """Counts of rows less one, float64 [len(indices), size + 1].

        The library gives each symbol one count, and shares out the others as these say: to the
        last of them, because their sum is the number of the others (see `AnsStack._model`).
        """
        edges = self.minima[indices, None] + np.arange(size + 1, dtype=np.int32)
        cumulative, total = np.zeros(edges.shape, np.int64), np.zeros([len(indices), 1], np.int64)
        for component in self._components:
            weight, distribution, shift = (array[indices, None] for array in component)
            position = np.clip(edges - (shift + self._tables.minima[distribution]),
                               0, self._tables.sizes[distribution])
            weight = weight.astype(np.int64)
            cumulative += weight * self._tables.cumulative(distribution, position)
            total += weight
        others = 2**_ROW_BITS - (size + 1)
        # Every table has the same number of counts. Products stay below K * 2^54.
        total *= 2**PRECISION
        shared = (cumulative - cumulative[:, :1]) * others // total
        return np.diff(shared, axis=1, append=others).astype(np.float64)
