"""Tables of the range coder: the integer counts of all distributions of a model.

They are stored with the model and never recomputed, because two machines may not agree on the last
bit of a float (Ballé et al. 2019).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator

import numpy as np

from common.lazy import Prior, tf, tfc

# Counts of a distribution add up to 2^PRECISION.
PRECISION = 16

# Values of a digit, of which escaped values are made: see common/escapes.py.
NUM_DIGITS = 16


@dataclasses.dataclass(frozen=True)
class CodingTables:
    """Integer cumulative distributions of all priors of a model, in the range coder's layout.

    The last symbol of each distribution is the escape: the value lies outside of the table
    (common/escapes.py). The library has an escape code of its own, but its decoder does not return
    when a damaged stream ends within one.

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
    def build(cls, priors: Iterable[Prior]) -> CodingTables:
        """Tables of several priors in a row; see `numbered`."""
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
        cdfs += [[PRECISION], np.arange(NUM_DIGITS + 1) * 2**PRECISION // NUM_DIGITS]
        minima, sizes = np.append(np.concatenate(minima), 0), np.append(sizes, NUM_DIGITS - 1)
        return cls(*(array.astype(np.int32) for array in (np.concatenate(cdfs), minima, sizes)))

    def check(self) -> None:
        """Raises ValueError unless these are tables that a coder can take."""
        for name, array in dataclasses.asdict(self).items():
            if array.dtype != np.int32 or array.ndim != 1:
                raise ValueError(f"{name} is not a list of 32-bit integers")
        if (self.sizes.size != self.minima.size or self.sizes.size < 2 or np.any(self.sizes < 1)
                or np.sum(self.sizes + np.int64(3)) != self.cdfs.size):
            raise ValueError("the distributions' sizes do not add up")
        for number, start in enumerate(self._starts):
            counts = self.counts(number)
            if (self.cdfs[start - 1] != PRECISION or counts[0] or counts[-1] != 2**PRECISION
                    or np.any(np.diff(counts) < 1)):
                raise ValueError("a distribution's counts do not grow from 0 to 2^16")

    @property
    def digits(self) -> int:
        """Number of the distribution of digits, the last one."""
        return len(self.sizes) - 1

    @property
    def level(self) -> int:
        """Number of the distribution of the level, the last one before; see `Codec.priors`."""
        return self.digits - 1

    def counts(self, number: int) -> np.ndarray:
        """Cumulative counts of a distribution, from 0 to 2^PRECISION: int32 [size + 2]."""
        start = self._starts[number]
        return self.cdfs[start:start + self.sizes[number] + 2]

    def cumulative(self, distributions: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Counts of all symbols of a distribution before a position, for arrays of both."""
        return self.cdfs[self._starts[distributions] + positions]

    def least_bits(self, distributions: tf.Tensor, positions: tf.Tensor) -> tf.Tensor:
        """The bits that symbols at these positions take at least: float64, in a graph or out of it.

        Of a range of r >= 2^16 numbers, the coder gives a symbol with c counts fewer than
        r c / 2^16 + 1.
        """
        return tf.gather(self._least_bits, tf.gather(self._starts, distributions) + positions)

    @functools.cached_property
    def _starts(self):
        """int32 [D]; where in `cdfs` the counts of each distribution begin, after PRECISION."""
        return (np.cumsum(self.sizes + 3) - self.sizes - 2).astype(np.int32)

    @functools.cached_property
    def _least_bits(self):
        """float64 [L]; that of each symbol where its count begins in `cdfs`."""
        return PRECISION - np.log2(np.maximum(np.diff(self.cdfs, append=0), 0) + 1)


def numbered(priors: Iterable[Prior]) -> Iterator[tuple[Prior, range]]:
    """Each prior, and the numbers of its distributions in the tables that are built of these."""
    start = 0
    for prior in priors:
        yield prior, range(start, start + prior.distributions)
        start += prior.distributions
