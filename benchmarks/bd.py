"""BD-rate and BD-PSNR (Bjøntegaard 2001) over a stated range, with the `bjontegaard` package.

A curve is the points (bits per pixel, PSNR in dB) of one codec, joined by PCHIP over the logarithm
of the rate. The package takes no range but integrates over all that both curves have, so curves are
clipped first. Nothing is ever extrapolated.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from common.lazy import PchipInterpolator, bjontegaard

Range = tuple[float, float]
UNLIMITED = (-math.inf, math.inf)

# A clipped curve is this many points of the whole one's interpolation. With only its own points and
# two new ends, slopes near the ends would change, and BD-rates with them, by up to 0.2 points.
_SAMPLES = 1001


class Curve(NamedTuple):
    """Points in the order of their rates; both columns rise strictly.

    Attributes:
      bpp: float64 [N], bits per pixel.
      psnr: float64 [N], in dB.
    """

    bpp: np.ndarray
    psnr: np.ndarray

    @classmethod
    def of(cls, bpp: Sequence[float] | np.ndarray, psnr: Sequence[float] | np.ndarray
           ) -> "Curve":
        """The curve through points in any order.

        A point is left out if another one has no higher rate and no lower PSNR: nobody would
        use it, and no curve through both could be inverted. So is one without a finite PSNR, as
        where an image was decoded without any error.
        """
        points = []
        for rate, quality in sorted(zip(bpp, psnr), key=lambda point: (point[0], -point[1])):
            if math.isfinite(quality) and (not points or quality > points[-1][1]):
                points.append((rate, quality))
        return cls(*np.array(points, np.float64).reshape(-1, 2).T)


class Delta(NamedTuple):
    """A curve beside the anchor, on average; NaN where there is nothing to compare.

    Attributes:
      rate: BD-rate in percent: how many more bits for the same PSNR.
      psnr: BD-PSNR in dB: how much more PSNR for the same bits.
      psnrs: the range in dB that `rate` is over.
      rates: the range in bits per pixel that `psnr` is over.
    """

    rate: float
    psnr: float
    psnrs: Range
    rates: Range


def compare(anchor: Curve, test: Curve, psnrs: Range = UNLIMITED) -> Delta:
    """BD-rate and BD-PSNR of `test` against `anchor`.

    BD-rate is over the PSNRs asked for, BD-PSNR over the rates that the anchor needs for these, so
    that curves with one anchor are compared over the same. Both are narrowed to what both curves
    have. Two points are joined by a straight line over the logarithm of the rate; with fewer, there
    is nothing to compare.

    Args:
      anchor: the curve to compare with.
      test: the curve to judge.
      psnrs: lowest and highest PSNR in dB.
    """
    nothing = Delta(math.nan, math.nan, (math.nan, math.nan), (math.nan, math.nan))
    if min(len(anchor.bpp), len(test.bpp)) < 2:
        return nothing
    psnrs = _overlap(psnrs, anchor.psnr, test.psnr)
    if psnrs[0] >= psnrs[1]:
        return nothing
    anchor_rates, test_rates = np.log(anchor.bpp), np.log(test.bpp)
    rate = 100 * math.expm1(
        _difference((anchor.psnr, anchor_rates), (test.psnr, test_rates), psnrs))
    needed = PchipInterpolator(anchor.psnr, anchor_rates)(psnrs)
    rates = _overlap(needed, anchor_rates, test_rates)
    if rates[0] >= rates[1]:
        return nothing._replace(rate=rate, psnrs=psnrs)
    psnr = _difference((anchor_rates, anchor.psnr), (test_rates, test.psnr), rates)
    return Delta(rate, psnr, psnrs, (math.exp(rates[0]), math.exp(rates[1])))


def _overlap(*columns: Sequence[float] | np.ndarray) -> Range:
    return float(max(map(min, columns))), float(min(map(max, columns)))


def _difference(anchor, test, ends):
    """How much higher `test` lies than `anchor` on average: curves (x, y) between two x."""
    samples = np.linspace(ends[0], ends[1], _SAMPLES)
    clipped = [(samples, PchipInterpolator(*curve)(samples)) for curve in (anchor, test)]
    return bjontegaard.bd_linear(*clipped[0], *clipped[1], "pchip")
