"""Range coding. The one module that touches tensorflow-compression's coders."""

import contextlib
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

from common import escapes
from common.coders import Derived
from common.coding_tables import CodingTables, numbered
from common.errors import CodingError
from common.priors import Prior

# How many symbols are coded at a time: those of large images should not be copied all at once.
_PIECE = 2**21
# How many are decoded first: a stream may hold fewer than its header claims.
_FIRST_PIECE = 2**12


def _pieces(array: np.ndarray, first: int | None = None) -> Iterator[slice]:
    """Slices of `array.flat`; the first has `first` elements, each of the next twice as many."""
    start, length = 0, min(first or _PIECE, _PIECE)
    while start < array.size:
        yield slice(start, start + length)
        start, length = start + length, min(2 * length, _PIECE)


class RangeEncoder:
    """Codes integers into one stream. Calls append to it; `finish` returns the bytes.

    Attributes:
      crc: CRC-32 of all symbols so far (little-endian int32), for the container.
    """

    def __init__(self, tables: CodingTables):
        self._tables = tables
        self._handle = tfc.create_range_encoder([], tables.cdfs)
        self.crc = 0

    def encode(self, symbols: np.ndarray, distributions: np.ndarray, bounded: bool = False
               ) -> None:
        """Appends symbols.

        Args:
          symbols: integers as any float or int array.
          distributions: int array of the same shape: which table entry codes each.
          bounded: all symbols lie in their tables, so that no escapes are coded.

        Raises:
          CodingError: a symbol is not finite, or larger than any model produces, or is not in its
            table though `bounded`.
        """
        symbols = self._checked(symbols)
        distributions = np.asarray(distributions)
        pieces = list(_pieces(symbols))

        def located(piece):
            numbers = distributions.flat[piece]
            return escapes.locate(
                symbols.flat[piece], self._tables.minima[numbers], self._tables.sizes[numbers])

        beyond = np.concatenate([np.zeros(0, np.int32), *(located(piece)[1] for piece in pieces)])
        if bounded and beyond.size:
            raise CodingError("a symbol lies outside of its table, where all should be inside")
        if not bounded:
            for positions, numbers in escapes.escaped(self._tables, beyond):
                self._write(positions, numbers)
        for piece in pieces:
            self._write(located(piece)[0], distributions.flat[piece])

    def encode_rows(self, symbols: np.ndarray, derived: Derived) -> None:
        """Appends symbols, as `coders.StreamEncoder.encode_rows`."""
        symbols = self._checked(symbols).ravel()
        rows = derived.rows(self._tables)
        positions, beyond = escapes.locate(symbols, rows.minima, rows.sizes)
        for section in escapes.escaped(self._tables, beyond):
            self._write(*section)
        words = rows.encode(positions)
        if words.size >= escapes.LIMIT:
            raise CodingError("the image is too large: its symbols take 64 MiB or more")
        for section in escapes.in_digits(self._tables, np.array([words.size])):
            self._write(*section)
        octets = words.astype("<u4").view(np.uint8)
        digits = np.stack([octets & 15, octets >> 4], axis=-1)
        self._write(digits, np.full(digits.shape, self._tables.digits))

    def _checked(self, symbols):
        symbols = np.ascontiguousarray(escapes.require_codable(symbols), "<i4")
        self.crc = zlib.crc32(symbols.data, self.crc)
        return symbols

    def _write(self, positions, distributions):
        self._handle = tfc.entropy_encode_index(
            self._handle, distributions.astype(np.int32), positions.astype(np.int32))

    def finish(self) -> bytes:
        return tfc.entropy_encode_finalize(self._handle).numpy()


class RangeDecoder:
    """Reads what `RangeEncoder` wrote: the same calls in the same order with the same arguments.

    Attributes:
      crc: CRC-32 of all symbols so far. A damaged stream still yields symbols; the caller
        compares this with the encoder's.
    """

    def __init__(self, tables: CodingTables, stream: bytes):
        self._tables = tables
        self._handle = tfc.create_range_decoder(stream, tables.cdfs)
        self._length = len(stream)
        # The encoder may leave out the last 16 bits, which are zeros.
        self._bits = tf.constant(8.0 * len(stream) + 32, tf.float64)
        self.crc = 0

    def decode(self, distributions: np.ndarray, bounded: bool = False) -> np.ndarray:
        """The next symbols, int32 of the shape of `distributions`.

        Of a stream that no encoder wrote, a symbol that is `bounded` may be the first one above its
        table.

        Raises:
          CodingError: the stream is not one that the encoder wrote.
        """
        distributions = np.asarray(distributions)

        def loop(state):
            symbols = np.empty(distributions.shape, np.int32)
            for piece in _pieces(symbols, _FIRST_PIECE):
                numbers = tf.constant(distributions.flat[piece], tf.int32)
                state, symbols.flat[piece] = next_symbols(self._tables, state, numbers)
            return state, symbols

        if not bounded:
            return self.decode_serially(distributions.size, loop)
        symbols = self._read(distributions.astype(np.int32)) + self._tables.minima[distributions]
        self.crc = zlib.crc32(symbols.astype("<i4", copy=False).data, self.crc)
        return symbols

    def decode_serially(self, count: int, loop: Callable[[tuple], tuple]) -> np.ndarray:
        """The next symbols, when which tables code them depends on those before.

        Args:
          count: how many symbols there are.
          loop: calls `next_symbols` any number of times, in a graph if it likes. Takes its first
            state and returns its last one and all symbols, int32 with `count` elements.

        Returns:
          The symbols that `loop` returned.

        Raises:
          CodingError: the stream is not one that the encoder wrote.
        """
        beyond = tf.constant(self._read_escaped(count))
        with tf.device("CPU:0"), _noticing_the_end():
            (self._handle, self._bits, _, _), symbols = loop(
                (self._handle, self._bits, beyond, tf.constant(0)))
        symbols = np.asarray(symbols)
        self.crc = zlib.crc32(symbols.astype("<i4", copy=False).data, self.crc)
        return symbols

    def decode_rows(self, derived: Derived) -> np.ndarray:
        """The next symbols, int32, each with a distribution of its own.

        Raises:
          CodingError: the stream is not one that the encoder wrote.
        """
        rows = derived.rows(self._tables)
        beyond = self._read_escaped(rows.sizes.size)
        count, = escapes.read_digits(self._tables, 1, self._read)
        if 4 * count > self._length:
            raise CodingError(f"{4 * count} bytes of symbols in a stream of {self._length}")
        digits = self._read(np.full([4 * count, 2], self._tables.digits, np.int32))
        octets = (digits[:, 0] | digits[:, 1] << 4).astype(np.uint8)
        try:
            positions = rows.decode(octets.view("<u4").astype(np.uint32))
        except ValueError as error:
            raise CodingError(str(error)) from None
        symbols, _ = escapes.unescape(positions, rows.minima, rows.sizes, beyond, 0)
        symbols = symbols.numpy().reshape(derived.shape)
        self.crc = zlib.crc32(symbols.astype("<i4", copy=False).data, self.crc)
        return symbols

    def _read_escaped(self, count):
        # A digit takes more than three bits.
        return escapes.read_escaped(self._tables, min(count, int(self._bits) // 3), self._read)

    def _read(self, distributions: np.ndarray) -> np.ndarray:
        with tf.device("CPU:0"), _noticing_the_end():
            self._handle, self._bits, positions = _next_positions(
                self._tables, self._handle, self._bits, distributions)
        return positions.numpy()


_ENDED = "the stream ends before its symbols do"


@contextlib.contextmanager
def _noticing_the_end():
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if _ENDED not in str(error):
            raise
        raise CodingError(_ENDED) from None


def _next_positions(tables, handle, bits, distributions):
    """The next positions in the tables; the handle, and how many bits at most are left, after them.

    The library reads zeros beyond the end of a stream, for as long as it is asked. They are symbols
    too, as dear as any: it fails at the first call whose symbols need more bits than there are.
    """
    handle, positions = tfc.entropy_decode_index(
        handle, distributions, tf.shape(distributions), tf.int32)
    bits -= tf.reduce_sum(tables.least_bits(distributions, positions))
    with tf.control_dependencies([tf.debugging.Assert(bits >= 0, [_ENDED])]):
        return handle, tf.identity(bits), positions


def next_symbols(tables: CodingTables, state: tuple, distributions: tf.Tensor) -> tuple:
    """Decodes the next symbols of a stream, in a graph or out of it.

    Args:
      tables: of the stream.
      state: the decoder's handle, how many bits are left to it, the escaped values, and how many
        of them were used; as `RangeDecoder.decode_serially` hands it out.
      distributions: int32; which table entry codes each symbol.

    Returns:
      The next state; and symbols, int32 of the shape of `distributions`.
    """
    handle, bits, beyond, used = state
    handle, bits, positions = _next_positions(tables, handle, bits, distributions)
    minima, sizes = (tf.gather(x, distributions) for x in (tables.minima, tables.sizes))
    symbols, used = escapes.unescape(positions, minima, sizes, beyond, used)
    return (handle, bits, beyond, used), symbols


class BitCounter:
    """A coder that writes nothing, and counts what an ideal one would.

    Args:
      priors: those that the model's tables were made of, in the same order.

    Attributes:
      bits: information content of all symbols so far, by the priors' continuous densities.
    """

    def __init__(self, priors: Sequence[Prior]):
        self._priors = priors
        self.bits = 0.0

    def encode(self, symbols: np.ndarray, distributions: np.ndarray, bounded: bool = False
               ) -> None:
        """Counts symbols; arguments as those of `RangeEncoder.encode`."""
        del bounded
        symbols, distributions = np.asarray(symbols), np.asarray(distributions)
        for piece in _pieces(symbols):
            self.bits += float(np.sum(
                self._bits(symbols.flat[piece], distributions.flat[piece]), dtype=np.float64))

    def encode_rows(self, symbols: np.ndarray, derived: Derived) -> None:
        """Counts symbols; arguments as those of `RangeEncoder.encode_rows`."""
        self.bits += derived.bits(np.asarray(symbols), self._bits)

    def _bits(self, symbols, distributions):
        bits = np.empty(symbols.shape, np.float32)
        for prior, numbers in numbered(self._priors):
            mine = (distributions >= numbers.start) & (distributions < numbers.stop)
            if np.any(mine):
                bits[mine] = prior.symbol_bits(symbols[mine], distributions[mine] - numbers.start)
        return bits
