"""Priors of latents, each with two views of one distribution.

`bits` is differentiable, for training and estimates. `pmfs` are the probabilities of integers, of
which the tables of the range coder are built once, at export (common/coding_tables.py). Where every
element has its own mean and scale, its distribution is picked from a table of scales.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

from common import arguments
from common.integer_builder import Builder
from common.integer_networks import Value

# Tails of 2^-16 and the 16 bits of the coding tables cost under 0.0002 bit a symbol at scales below
# 8, and under 0.01 at the largest, of normal distributions (of logistic ones, whose tails are
# heavier, under 0.0004 and some 0.05); the library's defaults (2^-8, 12 bits) cost over 1 % at low
# rates.
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

# Standard deviations from where on a normal's tail is a series, before erfc underflows.
_FAR = 10.0

# Longest table; what lies outside is escaped. Every symbol takes at least one of 2^16 counts.
_MAX_TABLE = 2**13


class Prior(Protocol):
    """Distributions of integers, of which coding tables are built.

    Attributes:
      distributions: how many there are.
    """

    distributions: int

    def pmfs(self) -> tuple[list[np.ndarray], np.ndarray]:
        """Probabilities of consecutive integers for each distribution, without the tails that the
        coding tables leave out; and the first of these integers, int32 [distributions].
        """

    def symbol_bits(self, symbols: np.ndarray, distributions: np.ndarray) -> np.ndarray:
        """Information content of symbols [N], each of the distribution of that number, in bits."""

    def update_offset(self) -> None:
        """Recentres the integer grid, if it is the prior's to choose; the weights have changed."""


class DeepFactorized(tf.keras.layers.Layer):
    """Fully factorised prior with a learned density per channel (Ballé et al. 2018, appendix 6.1).

    The density is convolved with U(-1/2, 1/2), so that its value at a quantised point is the
    probability of that point.

    Args:
      channels: number of channels of the latent.
      use_offset: shift the integer grid of each channel so that its centre lies on the median.
        "stored": leave it where the weights have it, among which `offset` is saved and loaded.
      num_filters: widths of the hidden layers of the network that is the cumulative; by default
        those of tensorflow-compression. The paper's are (3, 3, 3).
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
        # From 2^23 on, in float32 value - 1/2 and value + 1/2 are one.
        value = tfc.lower_bound(tfc.upper_bound(value, MAX_SYMBOL), -MAX_SYMBOL)
        return _bits(self._noisy.log_prob(value))

    def update_offset(self) -> None:
        """Moves `offset` [channels] to the fractional part of the medians, in (-1/2, 1/2]."""
        if self._recentred:
            median, = self._quantiles(0.5)
            self.offset.assign(median - tf.round(median))

    @property
    def distributions(self) -> int:
        """The number of distributions in the tables: one a channel."""
        return self.channels

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
        low, median, high = self._quantiles(TAIL_MASS / 2, 0.5, 1 - TAIL_MASS / 2) - self.offset
        lower, upper = _bounded(np.floor(low), np.round(median), np.ceil(high))
        grid = np.arange(np.max(upper - lower) + 1)[:, None] + lower
        pmf = self._noisy.prob(tf.cast(grid, tf.float32) + self.offset).numpy()
        return [pmf[:n, c] for c, n in enumerate(upper - lower + 1)], lower

    def _quantiles(self, *probabilities: float) -> tf.Tensor:
        """Quantiles of every channel [number, channels], all found together by bracketing."""
        targets = tf.constant([[math.log(p / (1 - p))] for p in probabilities])
        low = tf.fill([len(probabilities), self.channels], -float(MAX_SYMBOL))
        width = 2.0 * MAX_SYMBOL
        # Cumulatives are monotone, so the bracket only has to be wide enough. Widths are powers
        # of two; the last one is 2^-19.
        for _ in range(8):
            width /= _SECTIONS
            inner = low + width * tf.range(1.0, _SECTIONS)[:, None, None]
            # Logits of the cumulative distribution; in tfc only a private method returns them.
            logits = self._noisy.base._logits_cumulative(inner)
            low += width * tf.reduce_sum(tf.cast(logits < targets, tf.float32), axis=0)
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

    def symbol_bits(self, symbols: np.ndarray, channels: np.ndarray) -> np.ndarray:
        pmfs, minima = self.pmfs()
        padded = np.zeros([self.channels, max(map(len, pmfs))], np.float32)
        for row, pmf in zip(padded, pmfs):
            row[:len(pmf)] = pmf
        position = np.clip(symbols - minima[channels], 0, padded.shape[1] - 1).astype(np.int32)
        return np.minimum(-np.log2(np.maximum(padded[channels, position], 1e-30)), MAX_BITS)

    def pmfs(self) -> tuple[list[np.ndarray], np.ndarray]:
        quantiles = self._quantiles(TAIL_MASS / 2, 0.5, 1 - TAIL_MASS / 2).numpy()
        lower, upper = _bounded(*np.round(quantiles / self.step))
        edges = (np.arange(np.max(upper - lower) + 2)[:, None] + lower - 0.5) * self.step
        density, edges = self._noisy.base, tf.cast(edges, tf.float32)
        below, above = density.cdf(edges).numpy(), density.survival_function(edges).numpy()
        # Differences of the smaller of the two do not cancel.
        pmf = np.where(below[1:] < 0.5, np.diff(below, axis=0), -np.diff(above, axis=0))
        return [pmf[:n, c] for c, n in enumerate(upper - lower + 1)], lower


def _bounded(lower, centre, upper):
    """The ends of tables, int32 [channels], nearer to the centre where one would be too long."""
    lower, centre, upper = np.stack([lower, centre, upper]).astype(np.int32)
    return (np.maximum(lower, centre - _MAX_TABLE // 2),
            np.minimum(upper, centre + _MAX_TABLE // 2 - 1))


def _log_normal_cdf(x):
    """The logarithm of the standard normal's cumulative, with one `erfc`: those take the time."""
    near = tf.math.log(0.5 * tf.math.erfc(tf.maximum(x, -_FAR) * -math.sqrt(0.5)))
    far = tf.minimum(x, -_FAR)
    square = tf.square(far)
    series = tf.math.log1p((3 / square - 1) / square)
    return tf.where(x > -_FAR, near,
                    series - square / 2 - tf.math.log(-math.sqrt(2 * math.pi) * far))


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
      UserError: there is no such output.
    """

    distributions = NUM_SCALES
    _step = math.log(MAX_SCALE / MIN_SCALE) / (NUM_SCALES - 1)
    _reach = 4.33  # P(|X| > reach * scale) < TAIL_MASS
    _deviation = 1.0  # at scale 1
    _log_cdf = staticmethod(_log_normal_cdf)

    def __init__(self, output: str = "log_scale"):
        known = "log_scale", "scale", "exp_index"
        if output not in known:
            raise arguments.unknown("output of scales", output, known)
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

    def integer_index(self, builder: Builder, predicted: Value) -> Value:
        """The nearest entry, in integers: `index` of what an integer network predicts."""
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
        # Of the lower tail, where differences do not cancel: tfc.NoisyNormal computes both.
        # In float32 the two tails of a value from 2^24 on are one, and their difference is nothing.
        distance, scale = tfc.upper_bound(tf.abs(value), MAX_SYMBOL), self._scale(index)
        upper = self._log_cdf((0.5 - distance) / scale)
        lower = self._log_cdf((-0.5 - distance) / scale)
        return upper + tf.math.log1p(-tf.exp(lower - upper))

    def _scale(self, index):
        return tf.exp(index * self._step + math.log(MIN_SCALE))

    def symbol_bits(self, symbols: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Information content of symbols [N] (mean removed) at entries `index` [N], in bits."""
        return self.bits(tf.cast(symbols, tf.float32), tf.cast(index, tf.float32)).numpy()

    def update_offset(self) -> None:
        """Nothing: a table has no grid of its own."""

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
    _log_cdf = staticmethod(tf.math.log_sigmoid)

    @staticmethod
    def _cdf(x):  # type: ignore[override]  # NumPy's vectorize is a class
        return 1 / (1 + np.exp(-x))


class ShiftedScaleTable(ScaleTable):
    """`ScaleTable` for integers whose mean is not one: the mean's fraction picks the table too.

    Args:
      shifts: how many fractions there are.
      output: as of `ScaleTable`.
    """

    def __init__(self, shifts: int, output: str = "log_scale"):
        super().__init__(output)
        self.shifts = shifts
        self.distributions = shifts * NUM_SCALES

    @staticmethod
    def number(shift: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Number of the distribution of mean `shift` / `shifts` and entry `index` of the scales."""
        return shift * NUM_SCALES + index

    @staticmethod
    def shift_and_index(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The inverse of `number`."""
        return divmod(number, NUM_SCALES)

    def symbol_bits(self, symbols: np.ndarray, distributions: np.ndarray) -> np.ndarray:
        shift, index = self.shift_and_index(distributions)
        return super().symbol_bits(symbols - shift / self.shifts, index)

    def pmfs(self) -> tuple[list[np.ndarray], np.ndarray]:
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
      UserError: there is no such likelihood or output.
    """
    tables = {"normal": (ScaleTable, ShiftedScaleTable),
              "logistic": (LogisticTable, ShiftedLogisticTable)}
    if likelihood not in tables:
        raise arguments.unknown("likelihood", likelihood, tables)
    plain, shifted = tables[likelihood]
    return plain(output) if shifts == 1 else shifted(shifts, output)


def _bits(log_probability: tf.Tensor) -> tf.Tensor:
    """Natural logarithm of a probability -> bits, at most `MAX_BITS`."""
    # Above the bound the gradient is that of the probability, and pulls outliers in.
    return tfc.upper_bound(log_probability / -math.log(2.0), MAX_BITS)
