"""Coding by asymmetric numeral systems (ANS), which makes a stack of bits. The one module that
touches constriction's stack coder.

The range coder (common/range_coding.py) is a queue: what was written first is read first. Bits-back
coding (Townsend et al. 2019) reads symbols from what it has written before, and so needs a stack.
"""

import zlib

import constriction
import numpy as np

from common import escapes
from common.coding_tables import PRECISION, CodingTables
from common.errors import CodingError

# The coder holds a natural number: its state, the highest one or two words of 32 bits, and the
# words below. A symbol is found by the lowest 24 bits of the state. At 2^32 and above the state
# has at least eight more whatever is popped, so that each symbol costs what its table says.
_EMPTY = 2**32


class AnsStack:
    """A stack of bits (asymmetric numeral systems, Duda 2014): last in, first out.

    Every method that pops has one that pushes the same, and restores the stack to the last bit:
    `encode` and `decode`, `sample` and `unsample`. They nest in any order.

    Args:
      tables: of the model.
      start: what lies on the stack at first: any bytes, as random as those that `sample` shall
        yield; or what `finish` returned.

    Attributes:
      crc: sum modulo 2^32 of the CRC-32 of the symbols (little-endian int32) of each `encode` and
        `decode` so far. A damaged stack still yields symbols; after as many calls of `decode` the
        caller compares this with the encoder's, which met the same arrays in the reverse order.
    """

    def __init__(self, tables: CodingTables, start: bytes = b""):
        self._tables = tables
        self._models = {}
        number = _EMPTY + int.from_bytes(start, "little") + _shortest(len(start))
        words = number.to_bytes(-(-number.bit_length() // 32) * 4, "little")
        self._coder = constriction.stream.stack.AnsCoder(
            np.frombuffer(words, "<u4").astype(np.uint32))
        self.crc = 0
        self.taken = 0

    @property
    def bits(self) -> int:
        """The number of bits that can be popped."""
        # Counts those after the leading one, and is below 32 when too much was popped.
        return self._coder.num_valid_bits() - 32

    def encode(self, symbols: np.ndarray, distributions: np.ndarray, bounded: bool = False
               ) -> None:
        """Pushes symbols, those outside of their tables too.

        Args:
          symbols: integers as any float or int array.
          distributions: int array of the same shape: which table entry codes each.
          bounded: all symbols lie in their tables, so that no escapes are coded.

        Raises:
          CodingError: a symbol is not finite, or larger than any model produces, or is not in its
            table though `bounded`.
        """
        symbols = escapes.require_codable(symbols).astype("<i4")
        distributions = np.asarray(distributions, np.int32)
        if bounded:  # as what is drawn
            self.unsample(symbols, distributions)
            self._check(symbols)
            return
        self._check(symbols)
        sections = escapes.sections(self._tables, symbols, distributions)
        for positions, numbers in reversed(list(sections)):
            self._push(positions.ravel(), numbers.ravel(), escape=True)

    def decode(self, distributions: np.ndarray, bounded: bool = False) -> np.ndarray:
        """Pops what the last `encode` pushed: int32 symbols of the shape of `distributions`.

        Raises:
          CodingError: the stack is not one that the encoder left, or holds too few bits; it may
            have lost a part of them.
        """
        distributions = np.asarray(distributions, np.int32)
        if bounded:
            symbols = self._draw(distributions)
            self._check(symbols)
            return symbols
        beyond = escapes.read_escaped(
            self._tables, distributions.size, lambda numbers: self._pop(numbers, escape=True))
        positions = self._pop(distributions.ravel(), escape=True).reshape(distributions.shape)
        minima, sizes = self._tables.minima[distributions], self._tables.sizes[distributions]
        symbols, _ = escapes.unescape(positions, minima, sizes, beyond, 0)
        symbols = symbols.numpy()
        self._check(symbols)
        return symbols

    def sample(self, distributions: np.ndarray) -> np.ndarray:
        """Pops symbols from whatever bits there are, which may be none that `encode` pushed.

        Args:
          distributions: int array: which table entry to draw each from. The escape is never
            drawn; its probability is the last symbol's.

        Returns:
          int32 symbols of the shape of `distributions`.

        Raises:
          CodingError: the stack holds too few bits; it may have lost a part of them.
        """
        before = self.bits
        symbols = self._draw(np.asarray(distributions, np.int32))
        self.taken += before - self.bits
        return symbols

    def unsample(self, symbols: np.ndarray, distributions: np.ndarray) -> None:
        """Pushes what `sample` popped.

        Args:
          symbols: as `sample` returned them.
          distributions: what it was given.

        Raises:
          CodingError: no sample has these symbols; the stack is as it was.
        """
        distributions = np.asarray(distributions, np.int32)
        positions = np.asarray(symbols) - self._tables.minima[distributions]
        if not np.all((positions >= 0) & (positions < self._tables.sizes[distributions])):
            raise CodingError("symbols outside of the tables were never sampled")
        self._push(positions.ravel(), distributions.ravel(), escape=False)

    def finish(self) -> bytes:
        """The bytes on the stack: an `AnsStack` that starts with them is the same one."""
        words = self._coder.get_compressed().astype("<u4")
        number = int.from_bytes(words.tobytes(), "little") - _EMPTY
        length = ((255 * number + 1).bit_length() - 1) // 8
        return (number - _shortest(length)).to_bytes(length, "little")

    def _draw(self, distributions):
        positions = self._pop(distributions.ravel(), escape=False).reshape(distributions.shape)
        return positions + self._tables.minima[distributions]

    def _check(self, symbols):
        self.crc = (self.crc + zlib.crc32(symbols.astype("<i4").tobytes())) % 2**32

    def _push(self, positions, distributions, escape):
        for indices, model in reversed(self._groups(distributions, escape)):
            self._coder.encode_reverse(positions[indices].astype(np.int32), model)

    def _pop(self, distributions, escape):
        positions = np.zeros(distributions.shape, np.int32)
        for indices, model in self._groups(distributions, escape):
            positions[indices] = self._coder.decode(model, indices.size)
            # The library pops from nothing too. It is safe to look afterwards: no pop raises the
            # number, and the push undoes it even there. How many bits a group will take is not
            # known before, and by the worst case the last symbols could never be popped.
            if self.bits < 0:
                self._coder.encode_reverse(positions[indices], model)
                raise CodingError(
                    f"the stack holds {self.bits} bits, and {indices.size} symbols need more")
        return positions

    def _groups(self, distributions, escape):
        """For each distribution that occurs in `distributions` [N], its indices and its model."""
        order = np.argsort(distributions, kind="stable")
        numbers, first = np.unique(distributions[order], return_index=True)
        # The library has no model of one symbol; it takes no bits, and its position is 0.
        return [(indices, self._model(number, escape))
                for number, indices in zip(numbers, np.split(order, first[1:]))
                if escape or self._tables.sizes[number] > 1]

    def _model(self, number, escape):
        """The library's model of one distribution, with or without the escape."""
        if (number, escape) not in self._models:
            edges = self._tables.counts(number)
            counts = np.diff(edges if escape else np.delete(edges, -2))
            # The library codes with 2^24 counts. Of n symbols it gives each one count, and shares
            # out the others in proportion to floats: the share of all before a symbol is
            # floor(sum of their floats * ((2^24 - n) / sum of all floats)). These floats are
            # integers that add up to 2^24 - n. So that factor is 1, every sum is exact, and the
            # counts are 2^8 times ours, on any machine.
            shares = counts * 2**(24 - PRECISION) - 1
            self._models[number, escape] = constriction.stream.model.Categorical(
                shares.astype(np.float64), perfect=False)
        return self._models[number, escape]


def _shortest(length: int) -> int:
    """How many strings of bytes are shorter than `length`: their numbers come first.

    Numbered in order of length, and by value among those of one length, strings of bytes and
    natural numbers correspond one to one: no zeros are lost, and no number lacks its string.
    """
    return int.from_bytes(b"\x01" * length, "little")
