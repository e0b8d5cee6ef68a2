"""Context models: causal neighbourhoods, and coding position by position without the wait.

A context model predicts each position of y from earlier ones. Decoding in raster order takes as
many steps as there are positions. But a position (i, j) waits only for those in its *causal
neighbourhood*. If none of these has a larger j + s i, all positions with equal j + s i are decoded
together: they form a wavefront, which sweeps y in W + s (H - 1) steps instead of H W. For a masked
5x5 convolution s = 3: its neighbour farthest ahead is two columns to the right in the row above.

Here is only the coding. The networks themselves are transforms: the masked context and the entropy
parameters of Minnen et al. 2018 in common/transforms/mbt2018.py, deeper ones in pixelcnn.py beside
it, and joint_ar/models.py puts them together.

          j                      steps of positions, s = 3
        i 0  1  2  3  4  5  6
          3  4  5  6  7  8  9    positions with equal numbers are decoded
          6  7  8  9 10 11 12    together, each after its neighbours

Deeper networks have layers that may run ahead of the decoder: a layer that sees the rows above
only is computed as soon as these are there. Each layer's outputs are kept for as many steps as
later ones read them, so that every activation is computed once (Ramachandran et al. 2017): a few
columns of rows that are under way at the same time.

There are no tiles here, for every position waits for others: y and what is known of it lie in
memory as a whole, in float64. That takes about 100 bytes for each element of y to encode, and 75 to
decode: with 192 channels, 2 GB for an image of 25 megapixels and 8 GB for one of 100.
"""

import math

import numpy as np
import tensorflow as tf

from common import escapes, integer_ops, range_coding
from common.coders import Encoder, StreamDecoder
from common.coding_tables import CodingTables
from common.errors import ConversionError
from common.integer_networks import Network


def neighbourhood(network: Network, number: int) -> set[tuple[int, int]]:
    """Offsets (rows, columns) of the positions of an argument that an output position depends on.

    Args:
      network: each of its operations keeps the grid of positions.
      number: of the argument.
    """
    reached = []
    for op in network.ops:
        if isinstance(op, integer_ops.Input):
            reached.append({(0, 0)} if op.number == number else set())
        else:
            before = set().union(*(reached[i] for i in op.inputs))
            reached.append({(row + down, column + right)
                            for row, column in before for down, right in op.taps})
    return set().union(*(reached[value.index] for value in network.outputs))


def causal_neighbourhood(network: Network) -> set[tuple[int, int]]:
    """The `neighbourhood` of argument 0.

    Raises:
      ConversionError: it has the position itself, or one that comes after it in raster order.
    """
    found = neighbourhood(network, 0)
    late = sorted(offset for offset in found if offset >= (0, 0))
    if late:
        raise ConversionError(f"the context is not causal: it reads y at offsets {late}")
    return found


def slope(neighbourhood: set[tuple[int, int]]) -> int:
    """The smallest s, at least 1, such that all of these positions have a smaller j + s i."""
    return max([1, *(right // -down + 1 for down, right in neighbourhood if down < 0)])


class Wavefront:
    """Codes y with a context model as an integer network.

    Args:
      network: arguments y [B, H, W, M], in units of 2^-`bits`, and psi [B, H, W, C], what is known
        of every position beforehand; outputs mean (as y) and position in the scale table.
      tables: of the range coder.
      first_distribution: number of the first scale within the tables.
      bits: fractional bits of y and of the mean.
      steepness: s; by default as small as the network allows. Larger ones give the same result,
        and from W on the order is raster order.
    """

    def __init__(self, network: Network, tables: CodingTables, first_distribution: int,
                 bits: int, steepness: int | None = None):
        self.slope = slope(causal_neighbourhood(network))
        if steepness is not None:
            if steepness < self.slope:
                raise ValueError(f"steepness {steepness} is less than the network's {self.slope}")
            self.slope = steepness
        self._network = network
        self._tables = tables
        self._first = first_distribution
        self._unit = 2.0**-bits
        self._plan()
        # One trace for images of all sizes.
        y, psi = (tf.TensorSpec([None, network.channels[k]], tf.float64)
                  for k in (self._y, self._side))
        state = tuple(tf.TensorSpec(shape, dtype) for shape, dtype in (
            ([], tf.variant), ([], tf.float64), ([None], tf.int32), ([], tf.int32)))
        steps = tuple(tf.TensorSpec(shape, tf.int32) for shape in ([], [], [None], [None]))
        self._encode = tf.function(self._encode_loop, [y, psi, *steps], autograph=False)
        self._decode = tf.function(
            self._decode_loop, [state, psi, *steps], autograph=False)

    def encode(self, y: tf.Tensor, psi: tf.Tensor, coder: Encoder) -> tf.Tensor:
        """Rounds y [1, H, W, M] around its means, and writes it. Returns what was written.

        Raises:
          CodingError: y is not finite or too large.
        """
        escapes.require_codable(y)
        symbols, distributions, y_hat = self._encode(
            _rows(tf.cast(y, tf.float64)), _rows(psi), *self._steps(*y.shape[1:3]))
        coder.encode(symbols.numpy(), distributions.numpy())
        return tf.reshape(y_hat, y.shape)

    def decode(self, coder: StreamDecoder, psi: tf.Tensor) -> tf.Tensor:
        """Reads y [1, H, W, M], float32, whose psi [1, H, W, C] is given.

        Raises:
          CodingError: the stream is not one that the encoder wrote.
        """
        y_hat = None
        shape = [1, *psi.shape[1:3], self._channels]

        def loop(state):
            nonlocal y_hat
            state, symbols, y_hat = self._decode(state, _rows(psi), *self._steps(*shape[1:3]))
            return state, symbols

        coder.decode_serially(math.prod(shape), loop)
        return tf.reshape(y_hat, shape)

    # How a step works. Column t of a value holds its outputs at the positions with j + s i = t,
    # one row for each i. Operation k computes column t - delay[k] in step t. A tap (down, right)
    # then lies in column t - delay[k] + right + s down, at row i + down. Columns are kept from
    # their first row in y on, with zeros around them for what lies outside of y.

    def _plan(self):
        """Which delay each operation has, and how many columns of each value are kept."""
        ops = self._network.ops
        numbers = {op.number: k for k, op in enumerate(ops) if isinstance(op, integer_ops.Input)}
        self._y, self._side = numbers[0], numbers[1]
        self._channels = self._network.channels[self._y]
        for op in ops:
            if isinstance(op, integer_ops.DepthToSpace | integer_ops.Mean) or op.stride != 1:
                raise ConversionError("a context cannot have the operation "
                                      f"{type(op).__name__}, which changes the positions")
            if max(op.taps)[0] > 0:
                raise ConversionError("no layer of a context can read rows below")
        if neighbourhood(self._network, 1) - {(0, 0)}:
            raise ConversionError("a context cannot read psi at other positions")
        delays = {}
        for k, op in enumerate(ops):
            ready = [delays[i] + right + self.slope * down + (i == self._y)
                     for i in op.inputs if i in delays for down, right in op.taps]
            if ready or k == self._y:
                delays[k] = max(ready, default=0)
        self._first_step = min(delays.values())
        # What depends on psi alone can be computed at any time.
        self._delays = [delays.get(k, self._first_step) for k in range(len(ops))]
        self._depths, self._pad = {}, 0
        for k, op in enumerate(ops):
            for i in op.inputs:
                self._need(k, i, op.taps)
        for value in self._network.outputs:
            self._need(None, value.index, ((0, 0),))

    def _need(self, k, i, taps):
        """Notes that operation k (None: the coder) reads value i at these taps."""
        if self._is_current(k, i, taps) or i == self._side:
            return
        for down, right in taps:
            back = self._delay(k) - self._delays[i] - right - self.slope * down
            self._depths[i] = max(self._depths.get(i, 0), back + 1)
            self._pad = max(self._pad, -down)

    def _delay(self, k):
        return 0 if k is None else self._delays[k]

    def _is_current(self, k, i, taps):
        return taps == ((0, 0),) and self._delay(k) == self._delays[i] and i != self._y

    def _steps(self, height, width):
        """Sizes, and the positions in the order of the steps."""
        rows, columns = np.divmod(np.arange(height * width), width)
        step = columns + self.slope * rows
        order = np.argsort(step, kind="stable")
        ends = np.cumsum(np.bincount(step))
        return (tf.constant(height), tf.constant(width), tf.constant(order, tf.int32),
                tf.constant(np.concatenate([[0], ends]), tf.int32))

    def _encode_loop(self, y, psi, height, width, order, starts):
        y = tf.gather(y, order)

        def code(state, mean, distributions, rows):
            del distributions
            return state, tf.round(y[rows] - mean * self._unit)

        _, symbols, distributions, y_hat = self._loop(
            code, tf.constant(0), psi, height, width, order, starts)
        return symbols, distributions, y_hat

    def _decode_loop(self, state, psi, height, width, order, starts):
        def code(state, mean, distributions, rows):
            del mean, rows
            state, symbols = range_coding.next_symbols(self._tables, state, distributions)
            return state, tf.cast(symbols, tf.float64)

        state, symbols, _, y_hat = self._loop(code, state, psi, height, width, order, starts)
        return state, tf.cast(symbols, tf.int32), y_hat

    def _loop(self, code, state, psi, height, width, order, starts):
        """All steps. `code` turns means and distributions of a step into its symbols."""
        with tf.device("CPU:0"):
            return self._steps_in_order(code, state, psi, height, width, order, starts)

    def _steps_in_order(self, code, state, psi, height, width, order, starts):
        ops, outputs = self._network.ops, [value.index for value in self._network.outputs]
        psi = tf.gather(psi, order)
        last = width + self.slope * (height - 1)

        def first_row(column):
            """The range of rows that have a position in this column, or in these."""
            return tf.clip_by_value(-((width - 1 - column) // self.slope), 0, height)

        def active(column):
            """First and last + 1 of the rows that have a position in this column."""
            first = first_row(column)
            return first, tf.clip_by_value(column // self.slope + 1, first, height)

        most = tf.minimum(height, (width - 1) // self.slope + 1)
        rows = {i: self._pad + most + depth // self.slope + 2 for i, depth in self._depths.items()}

        def step(t, state, buffers, symbols, distributions, decoded):
            buffers = dict(zip(self._depths, buffers))
            spans = {delay: active(t - delay) for delay in {0, *self._delays}}
            current = {}

            def positions(delay):
                start = tf.gather(starts, tf.clip_by_value(t - delay, 0, last - 1))
                first, end = spans[delay]
                return slice(start, start + end - first)

            def read(k, i, taps):
                delay = self._delay(k)
                if i == self._side:
                    return psi[positions(delay)]
                if self._is_current(k, i, taps):
                    return current[i]
                # The last column kept of y is that of the step before.
                newest = delay - self._delays[i] - (i == self._y)
                first, end = spans[delay]
                buffer, depth = buffers[i], self._depths[i] - (i == self._y)
                downs, columns = zip(*((down, right + self.slope * down) for down, right in taps))
                starts_of_rows = (depth - 1 - newest + np.array(columns)) * rows[i] + self._pad
                where = tf.range(first, end)[:, None] + (
                    starts_of_rows + np.array(downs) - first_row(t - delay + np.array(columns)))
                patches = tf.gather(tf.reshape(buffer, [-1, buffer.shape[-1]]), where)
                return tf.reshape(patches, [-1, len(taps) * buffer.shape[-1]])

            def keep(i, value):
                if i in self._depths:
                    first, end = spans[self._delays[i]]
                    below = rows[i] - self._pad - (end - first)
                    column = tf.pad(value, [[self._pad, below], [0, 0]])
                    buffers[i] = tf.concat([buffers[i][1:], column[None]], axis=0)

            for k, op in enumerate(ops):
                if isinstance(op, integer_ops.Input):
                    continue
                arguments = [read(k, i, op.taps) for i in op.inputs]
                current[k] = (op.apply if isinstance(op, integer_ops.Spatial) else op)(*arguments)
                keep(k, current[k])
            mean, index = (read(None, i, ((0, 0),)) for i in outputs)
            which = tf.cast(index, tf.int32) + self._first
            state, q = code(state, mean, which, positions(0))
            y_hat = q / self._unit + mean
            keep(self._y, y_hat)
            slot = tf.maximum(t, 0)
            return (t + 1, state, [buffers[i] for i in self._depths], symbols.write(slot, q),
                    distributions.write(slot, which), decoded.write(slot, y_hat))

        def collect(dtype):
            return tf.TensorArray(dtype, size=last, infer_shape=False,
                                  element_shape=[None, self._channels])

        buffers = [tf.zeros([depth - (i == self._y), rows[i], self._network.channels[i]],
                            tf.float64) for i, depth in self._depths.items()]
        loop = (tf.constant(self._first_step), state, buffers,
                collect(tf.float64), collect(tf.int32), collect(tf.float64))
        invariants = tf.nest.map_structure(
            lambda x: tf.TensorShape(None) if isinstance(x, tf.TensorArray) else x.shape, loop)
        invariants[2][:] = [tf.TensorShape([None, None, b.shape[-1]]) for b in buffers]
        _, state, _, *collected = tf.while_loop(
            lambda t, *_: t < last, step, loop, shape_invariants=invariants)
        symbols, distributions, decoded = (array.concat() for array in collected)
        raster = tf.gather(decoded, tf.argsort(order))
        return state, symbols, distributions, tf.cast(raster * self._unit, tf.float32)


def _rows(x):
    """[1, H, W, C] -> [H W, C]."""
    return tf.reshape(x, [-1, x.shape[-1]])
