"""Entropy models and range coding. The one module that touches tensorflow-compression's coders.

A prior offers two views of one distribution: `bits`, differentiable, for training and estimates;
and `pmfs`, the integers' probabilities, from which the tables of the range coder are built once,
at export. Tables are stored with the model and never recomputed, because two machines may not
agree on the last bit of a float (Ballé et al. 2019).
"""

import contextlib
import dataclasses
import functools
import math
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

from common import exact, mixtures

# 16 bits of probability and tails of 2^-16 cost under 0.0002 bit a symbol at scales below 8, and
# under 0.01 at the largest; the library's defaults (12 bits, 2^-8) cost over 1 % at low rates.
PRECISION = 16
TAIL_MASS = 2.0**-16

# The scale table of the reference implementations: spaced evenly in the logarithm.
NUM_SCALES = 64
MIN_SCALE = 0.11
MAX_SCALE = 256.0

# What a symbol just outside its table costs: 16 bits to escape, and one digit of 4 bits. Those
# farther out cost 4 more for every three bits of their distance, which the estimate leaves out.
MAX_BITS = 20.0

# Far beyond what any model produces.
MAX_SYMBOL = 2**20

# Parts into which a search for quantiles divides its bracket in each of its steps.
_SECTIONS = 32

# Longest table; what lies outside is escaped. Every symbol takes at least one of 2^16 counts.
_MAX_TABLE = 2**13


class CodingError(Exception):
    """A stream that cannot be coded or decoded; the message says why."""


# --- Priors -----------------------------------------------------------------------------------


class DeepFactorized(tf.keras.layers.Layer):
    """Fully factorised prior with a learned density per channel (Ballé et al. 2018, appendix 6.1).

    The density is convolved with U(-1/2, 1/2), so that its value at a quantised point is the
    probability of that point.

    Args:
      channels: number of channels of the latent.
      use_offset: shift the integer grid of each channel so that its centre lies on the median.
        "stored": leave it where the weights have it, among which `offset` is saved and loaded.
      num_filters: widths of the hidden layers of the network that is the cumulative.
      last_factor: end that network in a nonlinearity too, as HiFiC's port to PyTorch does.

    Raises:
      TypeError: these make no density.
    """

    def __init__(self, channels: int, use_offset: bool | str = True,
                 num_filters: Sequence[int] = (3, 3), last_factor: bool = False):
        super().__init__()
        if use_offset not in (True, False, "stored"):
            raise TypeError(f"use_offset is {use_offset!r}; need True, False or 'stored'")
        if not (isinstance(num_filters, Sequence)
                and all(isinstance(width, int) and width > 0 for width in num_filters)):
            raise TypeError(f"num_filters is {num_filters!r}; need a list of the hidden layers' "
                            "widths")
        self.channels = channels
        self._recentred = bool(use_offset) and use_offset != "stored"
        self._noisy = tfc.UniformNoiseAdapter(
            (_LastFactor if last_factor else tfc.DeepFactorized)(
                batch_shape=(channels,), num_filters=num_filters))
        self.offset = tf.Variable(tf.zeros(channels), trainable=False, name="offset")

    def bits(self, value: tf.Tensor) -> tf.Tensor:
        """Information content of every element of `value` [..., channels], in bits."""
        return _bits(self._noisy.log_prob(value))

    def update_offset(self) -> None:
        """Moves `offset` [channels] to the fractional part of the medians, in (-1/2, 1/2]."""
        if self._recentred:
            median = self._quantiles(0.5)
            self.offset.assign(median - tf.round(median))

    @property
    def distributions(self) -> int:
        """How many distributions it has in the tables: one a channel."""
        return self.channels

    def numbers(self, height: int, width: int) -> np.ndarray:
        """Which of these code each element of a latent: int [1, height, width, channels]."""
        return np.broadcast_to(np.arange(self.channels), (1, height, width, self.channels))

    def symbol_bits(self, symbols: np.ndarray, channels: np.ndarray) -> np.ndarray:
        """Information content of symbols [N] of the given channels [N], in bits."""
        order = np.argsort(channels, kind="stable")
        counts = np.bincount(channels, minlength=self.channels)
        columns = channels[order]
        rows = np.arange(len(order)) - (np.cumsum(counts) - counts)[columns]
        values = np.zeros([np.max(counts), self.channels], np.float32)
        values[rows, columns] = symbols[order]
        bits = np.empty(symbols.shape, np.float32)
        bits[order] = self.bits(values + self.offset).numpy()[rows, columns]
        return bits

    def pmfs(self) -> tuple[list[np.ndarray], np.ndarray]:
        """One pmf a channel over `minimum + i + offset`, and the minima int32 [channels]."""
        lower = np.floor(self._quantiles(TAIL_MASS / 2) - self.offset).astype(np.int32)
        upper = np.ceil(self._quantiles(1 - TAIL_MASS / 2) - self.offset).astype(np.int32)
        centre = np.round(self._quantiles(0.5) - self.offset).astype(np.int32)
        lower = np.maximum(lower, centre - _MAX_TABLE // 2)
        upper = np.minimum(upper, centre + _MAX_TABLE // 2 - 1)
        grid = np.arange(np.max(upper - lower) + 1)[:, None] + lower
        pmf = self._noisy.prob(tf.cast(grid, tf.float32) + self.offset).numpy()
        return [pmf[:n, c] for c, n in enumerate(upper - lower + 1)], lower

    def _quantiles(self, probability: float) -> tf.Tensor:
        """Quantile of every channel [channels], all found together by bracketing."""
        target = math.log(probability / (1 - probability))
        density = self._noisy.base
        low = tf.fill([self.channels], -float(MAX_SYMBOL))
        width = 2.0 * MAX_SYMBOL
        # Cumulatives are monotone, so the bracket only has to be wide enough. Widths are powers
        # of two; the last one is 2^-19.
        for _ in range(8):
            width /= _SECTIONS
            inner = low + width * tf.range(1.0, _SECTIONS)[:, None]
            logit = density.log_cdf(inner) - density.log_survival_function(inner)
            low += width * tf.reduce_sum(tf.cast(logit < target, tf.float32), axis=0)
        return low + width / 2


class _LastFactor(tfc.DeepFactorized):
    """A density whose cumulative has the logits l + tanh(a) tanh(l), with a trained a [C]."""

    def _make_variables(self):
        super()._make_variables()
        self._last_factor = tf.Variable(tf.zeros(self.batch_shape), name="last_factor")

    def _logits_cumulative(self, inputs):
        logits = super()._logits_cumulative(inputs)
        return logits + tf.tanh(self._last_factor) * tf.tanh(logits)


class FineFactorized(DeepFactorized):
    """The densities of `DeepFactorized` for a latent that is not quantised, as in bits-back coding.

    In the tables, symbol k stands for the values within step / 2 of k * step.

    Args:
      channels: number of channels of the latent.
      step: distance of the values that are coded, a power of two.
      num_filters, last_factor: as of `DeepFactorized`.
    """

    def __init__(self, channels: int, step: float, num_filters: Sequence[int] = (3, 3),
                 last_factor: bool = False):
        super().__init__(
            channels, use_offset=False, num_filters=num_filters, last_factor=last_factor)
        self.step = step

    def bits(self, value: tf.Tensor) -> tf.Tensor:
        """-log2 of the density at every element of `value` [..., channels]; may be negative."""
        return _bits(self._noisy.base.log_prob(value))

    def symbol_bits(self, symbols, channels):
        pmfs, minima = self.pmfs()
        padded = np.zeros([self.channels, max(map(len, pmfs))], np.float32)
        for row, pmf in zip(padded, pmfs):
            row[:len(pmf)] = pmf
        position = np.clip(symbols - minima[channels], 0, padded.shape[1] - 1).astype(np.int32)
        return np.minimum(-np.log2(np.maximum(padded[channels, position], 1e-30)), MAX_BITS)

    def pmfs(self):
        lower, upper = (
            np.round(self._quantiles(q).numpy() / self.step).astype(np.int32)
            for q in (TAIL_MASS / 2, 1 - TAIL_MASS / 2))
        centre = np.round(self._quantiles(0.5).numpy() / self.step).astype(np.int32)
        lower = np.maximum(lower, centre - _MAX_TABLE // 2)
        upper = np.minimum(upper, centre + _MAX_TABLE // 2 - 1)
        edges = (np.arange(np.max(upper - lower) + 2)[:, None] + lower - 0.5) * self.step
        density, edges = self._noisy.base, tf.cast(edges, tf.float32)
        below, above = density.cdf(edges).numpy(), density.survival_function(edges).numpy()
        # Differences of the smaller of the two do not cancel.
        pmf = np.where(below[1:] < 0.5, np.diff(below, axis=0), -np.diff(above, axis=0))
        return [pmf[:n, c] for c, n in enumerate(upper - lower + 1)], lower


class ScaleTable:
    """Zero-mean Gaussians of 64 log-spaced scales, convolved with U(-1/2, 1/2).

    `index` is the position in the table of a scale that a network predicts. The coder uses the
    nearest entry, so evaluation does too: the reported rate is the coded rate.

    Args:
      output: what the network predicts, by name:
        "log_scale": ln(scale), so that fresh weights mean a scale of 1, and `index` is an affine
          map without exp.
        "scale": the scale itself, where it is not below the smallest one.
        "exp_index": ln(index).

    Raises:
      TypeError: there is no such output.
    """

    distributions = NUM_SCALES
    _step = math.log(MAX_SCALE / MIN_SCALE) / (NUM_SCALES - 1)
    _reach = 4.33  # P(|X| > reach * scale) < TAIL_MASS
    _deviation = 1.0  # at scale 1
    _noisy = tfc.NoisyNormal

    def __init__(self, output: str = "log_scale"):
        known = "log_scale", "scale", "exp_index"
        if output not in known:
            raise TypeError(f"unknown output of scales '{output}'; known: {', '.join(known)}")
        self._output = output

    @staticmethod
    @np.vectorize
    def _cdf(x):
        return 0.5 * math.erfc(-x / math.sqrt(2.0))

    def index(self, predicted: tf.Tensor) -> tf.Tensor:
        """Continuous position in the table, in [0, 63]; gradients push back from beyond."""
        if self._output == "exp_index":
            index = tf.exp(tfc.upper_bound(predicted, math.log(NUM_SCALES - 1)))
        else:
            if self._output == "scale":
                predicted = tf.math.log(tfc.lower_bound(predicted, MIN_SCALE))
            index = (predicted - math.log(MIN_SCALE)) / self._step
        return tfc.upper_bound(tfc.lower_bound(index, 0.0), NUM_SCALES - 1.0)

    def exact_index(self, builder: exact.Builder, predicted: exact.Value) -> exact.Value:
        """The nearest entry, in integers: `index` of what a network in fixed point predicts."""
        if self._output == "log_scale":
            return builder.affine("scale_table", predicted, 1 / self._step,
                                  -math.log(MIN_SCALE) / self._step,
                                  bits=0, low=0, high=NUM_SCALES - 1)
        between = np.arange(NUM_SCALES - 1) + 0.5
        edges = (MIN_SCALE * np.exp(between * self._step) if self._output == "scale"
                 else np.log(between))
        return builder.steps("scale_table", predicted, edges)

    def bits(self, value: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """Information content of every element of `value` (mean removed) at `index`, in bits."""
        return _bits(self._log_probability(value, index))

    def mixture_bits(self, value: tf.Tensor, logits: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        """Information content [..., C] of values of which each has a mixture of its own, in bits.

        Args:
          value: [..., K, C], with the mean of each of K components removed.
          logits: of the same shape; the components' weights are their softmax.
          index: of the same shape.
        """
        # In logarithms, so that far from all components the nearest still has a gradient.
        return _bits(tf.reduce_logsumexp(
            tf.nn.log_softmax(logits, axis=-2) + self._log_probability(value, index), axis=-2))

    def deviation(self, index: tf.Tensor) -> tf.Tensor:
        """Standard deviation at `index`, before the convolution with U(-1/2, 1/2)."""
        return self._deviation * self._scale(index)

    def _log_probability(self, value, index):
        return self._noisy(
            loc=tf.zeros([], value.dtype), scale=self._scale(index)).log_prob(value)

    def _scale(self, index):
        return tf.exp(index * self._step + math.log(MIN_SCALE))

    def symbol_bits(self, symbols: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Information content of symbols [N] (mean removed) at entries `index` [N], in bits."""
        return self.bits(tf.cast(symbols, tf.float32), tf.cast(index, tf.float32)).numpy()

    def pmfs(self) -> tuple[list[np.ndarray], np.ndarray]:
        """One pmf a scale over `minimum + i`, and the minima int32 [64]."""
        scales = np.exp(np.arange(NUM_SCALES) * self._step + math.log(MIN_SCALE))
        # Half a step for the uniform part.
        bounds = np.ceil(scales * self._reach + 0.5).astype(np.int32)
        pmfs = []
        for scale, bound in zip(scales, bounds):
            # The lower half only, mirrored: differences near cdf = 1 would cancel.
            half = np.diff(self._cdf((np.arange(-bound, 2) - 0.5) / scale))
            pmfs.append(np.concatenate([half, half[-2::-1]]))
        return pmfs, -bounds


class LogisticTable(ScaleTable):
    """`ScaleTable` for logistic distributions, whose scales are not their standard deviations."""

    _reach = 11.79
    _deviation = math.pi / math.sqrt(3.0)
    _noisy = tfc.NoisyLogistic

    @staticmethod
    def _cdf(x):
        return 1 / (1 + np.exp(-x))


class ShiftedScaleTable(ScaleTable):
    """`ScaleTable` for integers whose mean is none: the mean's fraction picks the table too.

    Distribution number i * 64 + k has entry k of the scale table and mean i / `shifts`.

    Args:
      shifts: how many fractions there are.
      output: as of `ScaleTable`.
    """

    def __init__(self, shifts: int, output: str = "log_scale"):
        super().__init__(output)
        self.shifts = shifts

    @property
    def distributions(self) -> int:
        return self.shifts * NUM_SCALES

    def symbol_bits(self, symbols, distributions):
        shift, index = np.divmod(distributions, NUM_SCALES)
        return super().symbol_bits(symbols - shift / self.shifts, index)

    def pmfs(self):
        scales = np.exp(np.arange(NUM_SCALES) * self._step + math.log(MIN_SCALE))
        bounds = np.ceil(scales * self._reach + 0.5).astype(np.int32)
        pmfs = []
        for shift in np.arange(self.shifts) / self.shifts:
            for scale, bound in zip(scales, bounds):
                # One more above, where the mean lies; of both tails the one that does not cancel.
                edges = (np.arange(-bound, bound + 3) - 0.5 - shift) / scale
                pmfs.append(np.where(
                    edges[1:] < 0, np.diff(self._cdf(edges)), -np.diff(self._cdf(-edges))))
        return pmfs, np.tile(-bounds, self.shifts)


class ShiftedLogisticTable(ShiftedScaleTable, LogisticTable):
    """`ShiftedScaleTable` for logistic distributions."""


def scale_table(likelihood: str, shifts: int = 1, output: str = "log_scale") -> ScaleTable:
    """The table of "normal" or "logistic" distributions; see `ShiftedScaleTable` for the others.

    Raises:
      TypeError: there is no such likelihood or output.
    """
    tables = {"normal": (ScaleTable, ShiftedScaleTable),
              "logistic": (LogisticTable, ShiftedLogisticTable)}
    if likelihood not in tables:
        raise TypeError(f"unknown likelihood '{likelihood}'; known: {', '.join(tables)}")
    plain, shifted = tables[likelihood]
    return plain(output) if shifts == 1 else shifted(shifts, output)


def _bits(log_probability: tf.Tensor) -> tf.Tensor:
    """Natural logarithm of a probability -> bits, at most `MAX_BITS`."""
    # Above the bound the gradient is that of the probability, and pulls outliers in.
    return tfc.upper_bound(log_probability / -math.log(2.0), MAX_BITS)


# --- Tables and coders ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Tables:
    """Integer cumulative distributions of all priors of a model, in the range coder's layout.

    The last symbol of each distribution escapes: the value lies outside of the table and follows
    in digits. The library has an escape code of its own, but its decoder does not return when a
    damaged stream ends within one.

    Attributes:
      cdfs: int32 [L]; for each distribution PRECISION, then its cumulative counts from 0 to
        2^PRECISION. The last distribution is that of the digits.
      minima: int32 [D]; the value of the first symbol of each distribution.
      sizes: int32 [D]; the number of symbols of each, the escape not counted.
    """

    cdfs: np.ndarray
    minima: np.ndarray
    sizes: np.ndarray

    @classmethod
    def build(cls, priors) -> "Tables":
        """Tables of several priors in a row; distribution numbers count on from one to the next."""
        cdfs, minima, sizes = [], [], []
        for prior in priors:
            pmfs, prior_minima = prior.pmfs()
            for pmf in pmfs:
                escape = max(0.0, 1.0 - float(np.sum(pmf, dtype=np.float64)))
                cdf = tfc.pmf_to_quantized_cdf(
                    np.append(pmf, escape).astype(np.float32), precision=PRECISION)
                cdfs += [[PRECISION], cdf.numpy()]
                sizes.append(len(pmf))
            minima.append(prior_minima)
        cdfs += [[PRECISION], np.arange(_DIGITS + 1) * 2**PRECISION // _DIGITS]
        minima, sizes = np.append(np.concatenate(minima), 0), np.append(sizes, _DIGITS - 1)
        return cls(*(array.astype(np.int32) for array in (np.concatenate(cdfs), minima, sizes)))

    def check(self) -> None:
        """Raises ValueError unless these are tables that a coder can take."""
        for name, array in dataclasses.asdict(self).items():
            if array.dtype != np.int32 or array.ndim != 1:
                raise ValueError(f"{name} is no list of 32-bit integers")
        if (self.sizes.size != self.minima.size or self.sizes.size < 2 or np.any(self.sizes < 1)
                or np.sum(self.sizes + np.int64(3)) != self.cdfs.size):
            raise ValueError("the distributions' sizes do not add up")
        for start, counts in zip(self.starts, self.split()):
            if (self.cdfs[start - 1] != PRECISION or counts[0] or counts[-1] != 2**PRECISION
                    or np.any(np.diff(counts) < 1)):
                raise ValueError("a distribution's counts do not grow from 0 to 2^16")

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """int32 [D]; where in `cdfs` the counts of each distribution begin, after PRECISION."""
        return (np.cumsum(self.sizes + 3) - self.sizes - 2).astype(np.int32)

    @functools.cached_property
    def least_bits(self) -> np.ndarray:
        """float64 [L]; the bits that each symbol takes at least, where its count begins in `cdfs`.

        Of a range of r >= 2^16 numbers, the coder gives a symbol with c counts fewer than
        r c / 2^16 + 1.
        """
        return PRECISION - np.log2(np.maximum(np.diff(self.cdfs, append=0), 0) + 1)

    def split(self) -> list[np.ndarray]:
        """For each distribution its cumulative counts, from 0 to 2^PRECISION."""
        return [self.cdfs[start:start + size + 2] for start, size in zip(self.starts, self.sizes)]


# An escaped value's digit: three bits of it, lowest first, and in the fourth whether more follow.
_DIGITS = 16
_MAX_DIGITS = 8


def require_codable(latents) -> np.ndarray:
    """Returns `latents` as an array. Raises CodingError for what no model produces."""
    latents = np.asarray(latents)
    # NaN fails both comparisons. The library does not return from NaN or values above 2^31.
    if not -MAX_SYMBOL <= np.min(latents, initial=0) <= np.max(latents, initial=0) <= MAX_SYMBOL:
        raise CodingError("latents are not finite or exceed 2^20: the model is damaged, or was "
                          "never trained on images like this one")
    return latents


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


def sections(tables: Tables, symbols: np.ndarray, distributions: np.ndarray):
    """The sections in which symbols are coded, in the order in which a decoder reads them.

    First come the values that lie outside of their tables, then a symbol for every element, which
    for those is an escape: a serial decoder has all values before its first step.

    Args:
      tables: what codes them.
      symbols: int array, of what `require_codable` lets through.
      distributions: int array of the same shape: which table entry codes each.

    Yields:
      Positions in the tables, and the distributions that code them: int arrays of one shape.
    """
    positions, beyond = _locate(symbols, tables.minima[distributions], tables.sizes[distributions])
    yield from _escapes(tables, beyond)
    yield positions, distributions


def _locate(symbols, minima, sizes):
    """Positions in the tables, and of what lies outside of them the distances from their ends."""
    position = symbols - minima
    below, above = position < 0, position >= sizes
    # Even above the table and odd below.
    beyond = np.where(below, -2 * position - 1, 2 * (position - sizes))[below | above]
    return np.where(below | above, sizes, position), beyond


def _escapes(tables, beyond):
    """All sections but the last."""
    yield from _digits(tables, np.array([beyond.size]))
    yield from _digits(tables, beyond)


def _digits(tables, values):
    while values.size:
        rest = values >> 3
        yield ((values & 7) | np.where(rest > 0, 8, 0),
               np.full(values.shape, len(tables.sizes) - 1))
        values = rest[rest > 0]


def read_escapes(tables: Tables, count: int, read) -> np.ndarray:
    """Reads all sections but the last: the values that lie outside of their tables.

    Args:
      tables: what codes them.
      count: how many values there may be.
      read: reads a section: from its distributions int32 [N] to positions in the tables [N].

    Returns:
      int32 [number of values + 1], for `unescape`.

    Raises:
      CodingError: no encoder wrote these.
    """
    escapes, = _read_digits(tables, 1, read)
    if escapes > count:
        raise CodingError(f"{escapes} values outside of the tables among {count}")
    # Beyond the last value a damaged stream reads zeros.
    return np.append(_read_digits(tables, escapes, read), np.int32(0))


def _read_digits(tables, count, read):
    values = np.zeros(count, np.int32)
    more = np.arange(count)
    for shift in range(0, 3 * _MAX_DIGITS, 3):
        if not more.size:
            return values
        digits = read(np.full(more.shape, len(tables.sizes) - 1, np.int32))
        values[more] |= (digits & 7) << shift
        more = more[digits >= 8]
    if more.size:
        raise CodingError("an escaped value is too large")
    return values


def unescape(positions: tf.Tensor, minima: tf.Tensor, sizes: tf.Tensor, escapes: tf.Tensor,
             used: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Turns positions in the tables into symbols, in a graph or out of it.

    Args:
      positions: int32, of any part of the last section.
      minima, sizes: int32 of the same shape; of the tables that coded them.
      escapes: int32, as `read_escapes` returns it.
      used: how many of the escapes belong to earlier parts.

    Returns:
      Symbols, int32 of the shape of `positions`; and how many escapes are used now.
    """
    escaped = positions == sizes
    flat = tf.cast(tf.reshape(escaped, [-1]), tf.int32)
    which = tf.minimum(used + tf.cumsum(flat, exclusive=True), tf.size(escapes) - 1)
    beyond = tf.reshape(tf.gather(escapes, which), tf.shape(positions))
    outside = tf.where(beyond % 2 == 1, -(beyond + 1) // 2, sizes + beyond // 2)
    symbols = tf.where(escaped, outside, positions) + minima
    return symbols, used + tf.reduce_sum(flat)


class RangeEncoder:
    """Codes integers into one stream. Calls append to it; `finish` returns the bytes.

    Attributes:
      crc: CRC-32 of all symbols so far (little-endian int32), for the container.
    """

    def __init__(self, tables: Tables):
        self._tables = tables
        self._handle = tfc.create_range_encoder([], tables.cdfs)
        self.crc = 0

    def encode(self, symbols: np.ndarray, distributions: np.ndarray, bounded: bool = False
               ) -> None:
        """Appends symbols.

        Args:
          symbols: integers as any float or int array.
          distributions: int array of the same shape: which table entry codes each.
          bounded: none lies outside of its table, so that nothing need be said of those that do.

        Raises:
          CodingError: a symbol is not finite, or larger than any model produces, or is not in its
            table though `bounded`.
        """
        symbols = self._checked(symbols)
        distributions = np.asarray(distributions)
        pieces = list(_pieces(symbols))

        def located(piece):
            numbers = distributions.flat[piece]
            return _locate(
                symbols.flat[piece], self._tables.minima[numbers], self._tables.sizes[numbers])

        beyond = np.concatenate([np.zeros(0, np.int32), *(located(piece)[1] for piece in pieces)])
        if bounded and beyond.size:
            raise CodingError("a symbol lies outside of its table, where all should be inside")
        if not bounded:
            for positions, numbers in _escapes(self._tables, beyond):
                self._write(positions, numbers)
        for piece in pieces:
            self._write(located(piece)[0], distributions.flat[piece])

    def encode_mixtures(self, symbols: np.ndarray, weights: np.ndarray, distributions: np.ndarray,
                        shifts: np.ndarray) -> None:
        """Appends symbols, each with the distribution of a mixture of its own.

        Args:
          symbols: integers as any float or int array.
          weights, distributions, shifts: int [K, *symbols.shape]; of each component its integer
            weight, its table entry and what is added to the symbols of that: see
            `mixtures.Rows`.

        Raises:
          CodingError: as `encode`, or there are too many symbols.
        """
        symbols = self._checked(symbols).ravel()
        rows = mixtures.Rows(self._tables, weights, distributions, shifts)
        positions, beyond = _locate(symbols, rows.minima, rows.sizes)
        for section in _escapes(self._tables, beyond):
            self._write(*section)
        words = rows.encode(positions)
        if words.size >= 8**_MAX_DIGITS:
            raise CodingError("the image is too large for a mixture model")
        for section in _digits(self._tables, np.array([words.size])):
            self._write(*section)
        octets = words.astype("<u4").view(np.uint8)
        digits = np.stack([octets & 15, octets >> 4], axis=-1)
        self._write(digits, np.full(digits.shape, len(self._tables.sizes) - 1))

    def _checked(self, symbols):
        symbols = np.ascontiguousarray(require_codable(symbols), "<i4")
        self.crc = zlib.crc32(symbols, self.crc)
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

    def __init__(self, tables: Tables, stream: bytes):
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
        self.crc = zlib.crc32(symbols.astype("<i4", copy=False), self.crc)
        return symbols

    def decode_serially(self, count: int, loop) -> np.ndarray:
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
        escapes = tf.constant(self._read_escapes(count))
        with tf.device("CPU:0"), _noticing_the_end():
            (self._handle, self._bits, _, _), symbols = loop(
                (self._handle, self._bits, escapes, tf.constant(0)))
        symbols = np.asarray(symbols)
        self.crc = zlib.crc32(symbols.astype("<i4", copy=False), self.crc)
        return symbols

    def decode_mixtures(self, weights: np.ndarray, distributions: np.ndarray,
                        shifts: np.ndarray) -> np.ndarray:
        """The next symbols, int32 [...]; arguments [K, ...] as `RangeEncoder.encode_mixtures`.

        Raises:
          CodingError: the stream is not one that the encoder wrote.
        """
        rows = mixtures.Rows(self._tables, weights, distributions, shifts)
        escapes = self._read_escapes(rows.sizes.size)
        count, = _read_digits(self._tables, 1, self._read)
        if 4 * count > self._length:
            raise CodingError(f"{4 * count} bytes for mixtures in a stream of {self._length}")
        digits = self._read(np.full([4 * count, 2], len(self._tables.sizes) - 1, np.int32))
        octets = (digits[:, 0] | digits[:, 1] << 4).astype(np.uint8)
        try:
            positions = rows.decode(octets.view("<u4").astype(np.uint32))
        except ValueError as error:
            raise CodingError(str(error)) from None
        symbols, _ = unescape(positions, rows.minima, rows.sizes, escapes, 0)
        symbols = symbols.numpy().reshape(weights.shape[1:])
        self.crc = zlib.crc32(symbols.astype("<i4", copy=False), self.crc)
        return symbols

    def _read_escapes(self, count):
        # A digit takes more than three bits.
        return read_escapes(self._tables, min(count, int(self._bits) // 3), self._read)

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
    places = tf.gather(tables.starts, distributions) + positions
    bits -= tf.reduce_sum(tf.gather(tables.least_bits, places))
    with tf.control_dependencies([tf.debugging.Assert(bits >= 0, [_ENDED])]):
        return handle, tf.identity(bits), positions


def next_symbols(tables: Tables, state: tuple, distributions: tf.Tensor) -> tuple:
    """Decodes the next symbols of a stream, in a graph or out of it.

    Args:
      tables: of the stream.
      state: the decoder's handle, how many bits are left to it, the escaped values, and how many
        of them were used; as `RangeDecoder.decode_serially` hands it out.
      distributions: int32; which table entry codes each symbol.

    Returns:
      The next state; and symbols, int32 of the shape of `distributions`.
    """
    handle, bits, escapes, used = state
    handle, bits, positions = _next_positions(tables, handle, bits, distributions)
    minima, sizes = (tf.gather(x, distributions) for x in (tables.minima, tables.sizes))
    symbols, used = unescape(positions, minima, sizes, escapes, used)
    return (handle, bits, escapes, used), symbols


class BitCounter:
    """A coder that writes nothing, and counts what an ideal one would.

    Args:
      priors: those that the model's tables were made of, in the same order.

    Attributes:
      bits: information content of all symbols so far, by the priors' continuous densities.
    """

    def __init__(self, priors):
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

    def encode_mixtures(self, symbols: np.ndarray, weights: np.ndarray, distributions: np.ndarray,
                        shifts: np.ndarray) -> None:
        """Counts symbols; arguments as those of `RangeEncoder.encode_mixtures`."""
        symbols = np.asarray(symbols)
        probability = np.zeros(symbols.shape)
        for weight, distribution, shift in zip(weights, distributions, shifts):
            probability += weight * 2.0**-self._bits(symbols - shift, distribution)
        self.bits += float(np.sum(np.log2(np.sum(weights, axis=0)) - np.log2(probability)))

    def _bits(self, symbols, distributions):
        bits, first = np.empty(symbols.shape, np.float32), 0
        for prior in self._priors:
            last = first + prior.distributions
            mine = (distributions >= first) & (distributions < last)
            if np.any(mine):
                bits[mine] = prior.symbol_bits(symbols[mine], distributions[mine] - first)
            first = last
        return bits
