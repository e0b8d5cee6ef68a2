"""Reach: the range of inputs that an output of a layer, or of several layers, depends on.

Every layer of `common/transforms` says so of itself, see common/transforms/contract.py, and tiles
are cut accordingly (common/tiles.py).
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

# Rows, and columns: the first, and the last + 1.
Box = Sequence[tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Reach:
    """The range of inputs that an output depends on, one for rows and columns: the larger of both.

    Output o depends only on inputs from o / rate - before to o / rate + after.

    Attributes:
      before, after: in inputs.
      rate: outputs for each input.
      grid: a part of the input has the same outputs as within the whole if it begins at a multiple
        of this, and ends at one or at the border.
    """

    before: Fraction = Fraction(0)
    after: Fraction = Fraction(0)
    rate: Fraction = Fraction(1)
    grid: int = 1

    def then(self, other: "Reach") -> "Reach":
        """The reach of a layer with this reach and of one after it with `other`, together."""
        outputs = int(self.grid * self.rate)  # between parts of this layer's input
        grid = self.grid * (other.grid // math.gcd(other.grid, outputs))
        return Reach(self.before + other.before / self.rate, self.after + other.after / self.rate,
                     self.rate * other.rate, grid)

    def box(self, outputs: Box) -> Box:
        """The inputs to compute outputs from; it may lie beyond the border at its end."""
        return tuple((self._start(start), self._stop(stop)) for start, stop in outputs)

    def _start(self, output):
        first = math.floor(output / self.rate - self.before)
        return max(0, first // self.grid * self.grid)

    def _stop(self, output):
        last = math.floor((output - 1) / self.rate + self.after)
        return -(-(last + 1) // self.grid) * self.grid


def beside(reaches: Iterable[Reach]) -> Reach:
    """The joint reach of layers with one input, or of several inputs of one layer."""
    reaches = list(reaches)
    return Reach(max(reach.before for reach in reaches), max(reach.after for reach in reaches),
                 reaches[0].rate, math.lcm(*(reach.grid for reach in reaches)))


def taps(first: int, last: int, stride: int = 1) -> Reach:
    """The reach of a sum of inputs from o stride + first to o stride + last, with zeros around."""
    # Parts are at least as large as their outputs, wherever the taps lie.
    return Reach(Fraction(max(0, -first)), Fraction(max(0, last)), Fraction(1, stride), stride)


def transposed(size: int, before: int, stride: int) -> Reach:
    """The reach of a transposed kernel that starts `before` outputs before an input's first one."""
    return Reach(Fraction(max(0, size - 1 - before), stride), Fraction(before, stride),
                 Fraction(stride))


def blocks(size: int) -> Reach:
    """The reach of a layer that makes size x size outputs of one input."""
    return Reach(before=Fraction(size - 1, size), rate=Fraction(size))
