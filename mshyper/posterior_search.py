"""Search for the posterior of bits-back coding, by encoder and decoder alike.

The amortised posterior q(z | ŷ) of the hyper-analysis is a first guess. A few steps of Adam on the
net rate make it better (Yang, Bamler & Mandt 2020, section 3.3); but the decoder has to arrive at
the same bits on its own machine. So nothing here depends on the order of sums, or on a library's
exp:

    networks        of integers, forwards and backwards (common/integer_gradients.py)
    log densities   their derivatives are quotients of the range coder's integer counts
    Adam            +, -, *, / and square roots of single float64 numbers, which IEEE 754 fixes
    noise           sums of integers from a counter-based generator

The alternative, to send what optimisation changed, saves less (`python -m benchmarks.bits_back`).
"""

import numpy as np

from common import integer_gradients
from common.coding_tables import CodingTables
from common.integer_networks import Network
from common.priors import MIN_SCALE, NUM_SCALES, ShiftedScaleTable

# Of two neighbours in the scale table: (MAX_SCALE / MIN_SCALE)^(1 / 63), and its logarithm. Written
# out, because exp and log differ in the last bit from machine to machine.
_RATIO = 1.1309463943519327
_LOG_RATIO = 0.12305479932808386

# Adam, tuned on photographs that are not Kodak's. Rates fall linearly to a tenth.
_RATE_MEAN = 1.0  # in units of z's grid
_RATE_SCALE = 0.5  # in entries of the scale table
_BETA_1, _BETA_2 = 0.9, 0.99
# Gradients are in nats; below this they are not worth a whole step.
_EPSILON = 1e-3

# Counts below tell too little of the density's slope: Gaussian tails take over.
_LEAST_COUNT = 32


class PosteriorSearch:
    """Optimises posteriors, with the same result on every machine.

    Args:
      tables: of the model.
      network: the hyper-synthesis as an integer network; from z to means in units of
        2^-`mean_bits` and positions in the scale table.
      mean_bits: see above.
      z_numbers: of z's distributions within the tables, one a channel.
      y_numbers: of y's, those of a `priors.ShiftedScaleTable`.
    """

    def __init__(self, tables: CodingTables, network: Network, mean_bits: int,
                 z_numbers: range, y_numbers: range):
        self._network = network
        self._unit = 2.0**-mean_bits
        self._shifts = len(y_numbers) // NUM_SCALES
        self._scales = _powers(MIN_SCALE, _RATIO, NUM_SCALES)
        self._z_minima = tables.minima[list(z_numbers)]
        self._z_slopes = [_slopes(counts) for counts in _counts(tables, z_numbers)]
        self._y_slopes = self._slopes_of_y(
            _counts(tables, y_numbers), tables.minima[list(y_numbers)])

    def __call__(self, y: np.ndarray, mean: np.ndarray, index: np.ndarray, steps: int
                 ) -> tuple[np.ndarray, np.ndarray]:
        """Optimises means and scales of q(z | ŷ).

        Args:
          y: int [1, h, w, M].
          mean, index: int [1, h', w', C]; where to start: the means on z's grid, and positions in
            the scale table, whose unit is z's grid too.
          steps: how many; with 0 the start is the result.

        Returns:
          The new mean and index, int32.
        """
        parameters = [mean.astype(np.float64), index.astype(np.float64)]
        first, second = [[np.zeros(mean.shape) for _ in parameters] for _ in range(2)]
        decay_1 = decay_2 = 1.0
        for step in range(steps):
            noise = _noise(step, mean.shape)
            gradients = self._gradients(y, parameters[0], parameters[1], noise)
            decay_1, decay_2 = decay_1 * _BETA_1, decay_2 * _BETA_2
            fall = 1.0 - 0.9 * step / steps
            for i, (gradient, rate) in enumerate(zip(gradients, (_RATE_MEAN, _RATE_SCALE))):
                first[i] = _BETA_1 * first[i] + (1 - _BETA_1) * gradient
                second[i] = _BETA_2 * second[i] + (1 - _BETA_2) * (gradient * gradient)
                size = np.sqrt(second[i] / (1 - decay_2)) + _EPSILON
                parameters[i] = parameters[i] - rate * fall * (first[i] / (1 - decay_1)) / size
            parameters[1] = np.clip(parameters[1], 0, NUM_SCALES - 1)
        mean, index = (np.round(parameter).astype(np.int32) for parameter in parameters)
        return mean, index

    def _gradients(self, y, mean, index, noise):
        """Derivatives of the net rate of one sample of z by mean and index, in nats."""
        spread = self._scales[np.round(index).astype(np.int32)] * noise
        z = np.round(mean + spread)
        _, by_z = integer_gradients.pull_back(
            self._network, z, lambda outputs: self._by_psi(y, *outputs))
        by_z = by_z + self._by_prior(z)
        return by_z, (by_z * spread - 1.0) * _LOG_RATIO

    def _by_psi(self, y, mean, index):
        """Derivatives of -ln p(y) by the integers of mean and index; beyond y there are none."""
        _, height, width, _ = y.shape
        inside = mean[:, :height, :width], index[:, :height, :width]
        sixteenth = np.floor(inside[0] * (self._unit * self._shifts) + 0.5)
        integer = np.floor(sixteenth / self._shifts)
        shift = (sixteenth - integer * self._shifts).astype(np.int32)
        entry = inside[1].astype(np.int32)
        starts, minima, sizes, by_mean, by_index = self._y_slopes
        table = ShiftedScaleTable.number(shift, entry)
        position = np.clip(y - integer - minima[table], 0, sizes[table] - 1).astype(np.int32)
        position = position + starts[table]
        gradients = []
        for slopes, factor in ((by_mean, self._unit), (by_index, 1.0)):
            whole = np.zeros(mean.shape)
            whole[:, :height, :width] = slopes[position] * factor
            gradients.append(whole)
        return gradients

    def _by_prior(self, z):
        result = np.empty(z.shape)
        for channel, slopes in enumerate(self._z_slopes):
            position = z[..., channel].astype(np.int32) - self._z_minima[channel]
            result[..., channel] = slopes[np.clip(position, 0, len(slopes) - 1)]
        return result

    def _slopes_of_y(self, counts, minima):
        """For every symbol of every table of y, derivatives of -ln p by mean and by index."""
        sizes = np.array([len(c) - 1 for c in counts], np.int32)
        starts = np.cumsum(sizes) - sizes
        by_mean, by_index = [], []
        numbers = np.arange(len(sizes))
        shifts, entries = ShiftedScaleTable.shift_and_index(numbers)

        def at(symbols, shift, entry):
            """Counts of symbols in the table of a mean shift / shifts and a scale."""
            carry, shift = divmod(shift, self._shifts)
            table = ShiftedScaleTable.number(shift, np.clip(entry, 0, NUM_SCALES - 1))
            position = symbols - carry - minima[table]
            inside = (position >= 0) & (position < sizes[table])
            return np.where(inside, counts[table][np.clip(position, 0, sizes[table] - 1)], 1.0)

        for table, size in enumerate(sizes):
            shift, entry = shifts[table], entries[table]
            symbols = np.arange(size) + minima[table]
            here = at(symbols, shift, entry)
            distance = symbols - shift / self._shifts
            scale = self._scales[entry]
            beyond = np.sign(distance) * np.maximum(np.abs(distance) - 0.5, 0.0) / scale
            known = here >= _LEAST_COUNT
            higher, lower = (at(symbols, shift + i, entry) for i in (1, -1))
            by_mean.append(np.where(
                known, (lower - higher) * (self._shifts / 2) / here, -beyond / scale))
            wider, narrower = (at(symbols, shift, entry + i) for i in (1, -1))
            by_index.append(np.where(
                known, (narrower - wider) / (2 * here), (1 - beyond * beyond) * _LOG_RATIO))
        return starts, minima, sizes, np.concatenate(by_mean), np.concatenate(by_index)


def _counts(tables, numbers):
    """For each of these distributions the counts of its symbols and, last, of its escape."""
    return [np.diff(tables.counts(number)).astype(np.float64) for number in numbers]


def _slopes(counts):
    """Derivative of -ln p by the symbol, for counts of one table and its escape."""
    padded = np.pad(counts[:-1], 1, mode="edge")
    return (padded[:-2] - padded[2:]) / (2 * padded[1:-1])


def _powers(first, ratio, count):
    powers = [first]
    while len(powers) < count:
        powers.append(powers[-1] * ratio)
    return np.array(powers)


def _noise(step, shape):
    """Nearly normal noise of variance 1: the sum of four uniform numbers."""
    generator = np.random.Philox(key=[step, 0])
    pieces = generator.random_raw(int(np.prod(shape))).astype("<u8").view("<u2")
    sums = pieces.reshape(-1, 4).astype(np.float64).sum(axis=1)
    # Their sum has mean 2 (2^16 - 1) and variance 2^32 / 3.
    return ((sums - 131070.0) * (1.7320508075688772 * 2.0**-16)).reshape(shape)
