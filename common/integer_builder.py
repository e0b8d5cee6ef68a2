"""Building integer networks: how many bits weights and activations get, and proofs that they fit.

What such networks are for, and the bits that there are, is in common/integer_networks.py.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from common import integer_ops
from common.errors import ConversionError
from common.integer_networks import ACCUMULATOR_BITS, Network, Value

ACTIVATION_BITS = 28
WEIGHT_BITS = 16

# Activations beyond are clipped. In the zoo's models those of photographs stay below 2^8.
_LARGEST_ACTIVATION = 2.0**14
_MOST_FRACTIONAL_BITS = 20
# With fewer bits for the largest weight of a layer the network would be another one.
_LEAST_WEIGHT_BITS = 8
# Smaller weights than 2^-28 are none: with the largest activation they add less than 2^-14.
_MOST_WEIGHT_SCALE = 28

# Tables of pointwise functions: their argument is clipped to +-16 and rounded to 2^-10.
_TABLE_RANGE = 16
_TABLE_BITS = 10
_LEAST_TABLE_BITS = 14  # of the table's entries


class Builder:
    """Appends operations to a network, choosing bit widths and proving bounds."""

    def __init__(self):
        self._ops, self._channels = [], []

    def network(self, *outputs: Value) -> Network:
        """The network that returns `outputs`."""
        return Network(tuple(self._ops), tuple(self._channels), outputs)

    def input(self, number: int, channels: int, bits: int, bound: float) -> Value:
        """Argument `number` of the network, clipped to +-`bound` (an integer)."""
        value = self._append(integer_ops.Input((), number, channels), channels, bits, math.inf)
        return self._append(
            integer_ops.Requantize((value.index,), 0, -bound, bound), channels, bits, bound)

    def _append(self, op: integer_ops.Op, channels: int, bits: int, bound: float) -> Value:
        self._ops.append(op)
        self._channels.append(channels)
        return Value(len(self._ops) - 1, channels, bits, bound)

    def _most_bits(self, x: Value) -> int:
        """How many fractional bits fit."""
        magnitude = min(x.bound / 2.0**x.bits, _LARGEST_ACTIVATION)
        bits = ACTIVATION_BITS - max(0, math.ceil(math.log2(max(magnitude, 1e-9))))
        return min(bits, _MOST_FRACTIONAL_BITS)

    def requantize(self, x: Value, bits: int | None = None, low: float | None = None,
                   high: float | None = None) -> Value:
        """x with `bits` fractional bits (default: as many as fit), clipped to [low, high]."""
        if bits is None:
            bits = min(self._most_bits(x), x.bits)
        largest = math.ceil(min(x.bound * 2.0**(bits - x.bits), _LARGEST_ACTIVATION * 2.0**bits))
        low, high = -largest if low is None else low, largest if high is None else high
        op = integer_ops.Requantize((x.index,), x.bits - bits, float(low), float(high))
        return self._append(op, x.channels, bits, max(abs(low), abs(high)))

    def conv(self, name: str, x: Value, offsets: Sequence[tuple[int, int]], kernel: np.ndarray,
             bias: np.ndarray, stride: int = 1) -> Value:
        """Convolution of float weights `kernel` [T, C, filters] and `bias` [filters]."""
        scale, weights, biases, bound = self._fit(
            name, x, kernel, bias, 2.0**(WEIGHT_BITS - 1) - 1, axis=(0, 1))
        matrix = np.ascontiguousarray(weights.reshape(-1, weights.shape[-1]).T, np.int16)
        op = integer_ops.Conv((x.index,), np.asarray(offsets, np.int32), matrix, biases, stride)
        return self.requantize(
            self._append(op, weights.shape[-1], x.bits + scale, bound))

    def depthwise(self, name: str, x: Value, offsets: Sequence[tuple[int, int]],
                  kernel: np.ndarray, bias: np.ndarray, stride: int = 1, **requantize: Any
                  ) -> Value:
        """Channel by channel, with float weights `kernel` [T, C] and `bias` [C]."""
        scale, weights, biases, bound = self._fit(name, x, kernel, bias, 2.0**24, axis=0)
        op = integer_ops.Depthwise((x.index,), np.asarray(offsets, np.int32),
                                   weights.astype(np.int32), biases, stride)
        return self.requantize(
            self._append(op, x.channels, x.bits + scale, bound), **requantize)

    def affine(self, name: str, x: Value, factor: float | np.ndarray,
               summand: float | np.ndarray, **requantize: Any) -> Value:
        """x * factor + summand, for each channel. More arguments go to `requantize`."""
        factor, summand = (np.broadcast_to(np.asarray(v, np.float64), x.channels)
                           for v in (factor, summand))
        return self.depthwise(name, x, [(0, 0)], factor[None], summand, **requantize)

    def _fit(self, name, x, kernel, bias, largest, axis):
        """Integer weights with as many bits as allowed; the bound of what they sum to.

        Raises:
          ConversionError: too few bits are left for the weights.
        """
        kernel, bias = np.asarray(kernel, np.float64), np.asarray(bias, np.float64)
        if not (np.all(np.isfinite(kernel)) and np.all(np.isfinite(bias))):
            raise ConversionError(f"layer {name} has no integer form: its weights are not finite")
        peak = np.max(np.abs(kernel), initial=0.0) or 1.0
        widest = min(math.floor(math.log2(largest / peak)), _MOST_WEIGHT_SCALE)
        # Below this the largest weight would have fewer than the least bits.
        narrowest = min(math.ceil(math.log2(2.0**(_LEAST_WEIGHT_BITS - 1) / peak)), widest)
        for scale in range(widest, narrowest - 1, -1):
            weights, biases = np.round(kernel * 2.0**scale), np.round(bias * 2.0**(x.bits + scale))
            bound = float(np.max(np.sum(np.abs(weights), axis=axis) * x.bound + np.abs(biases)))
            if bound < 2.0**ACCUMULATOR_BITS:
                return scale, weights, biases.astype(np.int64), bound
        raise ConversionError(
            f"layer {name} has no integer form: with {_LEAST_WEIGHT_BITS}-bit weights and inputs "
            f"up to {x.bound / 2.0**x.bits:g} its sums exceed 2^{ACCUMULATOR_BITS}; its largest "
            f"weight is {peak:g}, its largest bias {np.max(np.abs(bias), initial=0):g}")

    def add(self, *values: Value) -> Value:
        """Sum, channels broadcast."""
        values = self._same_bits(values)
        op = integer_ops.Add(tuple(value.index for value in values))
        return self.requantize(self._append(
            op, max(value.channels for value in values), values[0].bits,
            sum(value.bound for value in values)))

    def maximum(self, *values: Value) -> Value:
        """The largest of them, channel by channel."""
        values = self._same_bits(values)
        op = integer_ops.Maximum(tuple(value.index for value in values))
        return self._append(op, values[0].channels, values[0].bits,
                            max(value.bound for value in values))

    def concat(self, *values: Value) -> Value:
        """Channels of the values one after another."""
        values = self._same_bits(values)
        op = integer_ops.Concat(tuple(value.index for value in values))
        return self._append(op, sum(value.channels for value in values), values[0].bits,
                            max(value.bound for value in values))

    def _same_bits(self, values):
        bits = min(max(value.bits for value in values), *map(self._most_bits, values))
        return [value if value.bits == bits else self.requantize(value, bits) for value in values]

    def multiply(self, a: Value, b: Value) -> Value:
        """Product; the wider factor loses bits if it could exceed 2^53."""
        while a.bound * b.bound >= 2.0**ACCUMULATOR_BITS:
            if a.bound > b.bound:
                a = self.requantize(a, a.bits - 1)
            else:
                b = self.requantize(b, b.bits - 1)
        op = integer_ops.Multiply((a.index, b.index))
        return self.requantize(
            self._append(op, max(a.channels, b.channels), a.bits + b.bits, a.bound * b.bound))

    def negate(self, x: Value) -> Value:
        """-x."""
        return self._append(integer_ops.Negate((x.index,)), x.channels, x.bits, x.bound)

    def slice(self, x: Value, start: int, stop: int) -> Value:
        """Channels start to stop."""
        return self._append(
            integer_ops.Slice((x.index,), start, stop), stop - start, x.bits, x.bound)

    def depth_to_space(self, x: Value, block: int) -> Value:
        """Channels to positions."""
        return self._append(
            integer_ops.DepthToSpace((x.index,), block), x.channels // block**2, x.bits, x.bound)

    def mean(self, x: Value) -> Value:
        """Mean over all positions. 2^25 of them can be summed."""
        return self._append(integer_ops.Mean((x.index,)), x.channels, x.bits, x.bound)

    def leaky_relu(self, name: str, x: Value, slope: float) -> Value:
        """x where positive, else slope * x."""
        if not 0 <= slope <= 1:
            raise ConversionError(f"layer {name}: a leaky ReLU of slope {slope} has no integer "
                                  "form; those from 0 to 1 have")
        return self._append(
            integer_ops.LeakyRelu((x.index,), round(slope * 2**16)), x.channels, x.bits, x.bound)

    def pointwise(self, x: Value, function: Callable[[tf.Tensor], tf.Tensor], linear: bool
                  ) -> Value:
        """A function by its table; `linear` if beyond +-16 it is max(x, 0) plus a constant."""
        if x.bits < _LEAST_TABLE_BITS:
            x = self.requantize(x, _LEAST_TABLE_BITS)
        steps = np.arange(-_TABLE_RANGE * 2**_TABLE_BITS, _TABLE_RANGE * 2**_TABLE_BITS + 1)
        arguments = steps * 2.0**-_TABLE_BITS
        table = function(tf.constant(arguments, tf.float64)).numpy()
        if linear:
            table = table - np.maximum(arguments, 0)
        table = np.round(table * 2.0**x.bits)
        op = integer_ops.Lookup((x.index,), table.astype(np.int32), x.bits - _TABLE_BITS, linear)
        bound = float(np.max(np.abs(table))) + (x.bound if linear else 0)
        value = self._append(op, x.channels, x.bits, bound)
        return self.requantize(value) if linear else value

    def steps(self, name: str, x: Value, edges: Sequence[float] | np.ndarray) -> Value:
        """How many of `edges`, ascending floats [N], are not above x: an integer from 0 to N.

        Raises:
          ConversionError: x has too few fractional bits to tell them apart.
        """
        rounded = np.round(np.asarray(edges, np.float64) * 2.0**x.bits).astype(np.int64)
        if np.any(np.diff(rounded) < 1):
            raise ConversionError(f"layer {name} has no integer form: its inputs have {x.bits} "
                                  "fractional bits, too few to tell its steps apart")
        return self._append(integer_ops.Steps((x.index,), rounded), x.channels, 0, len(rounded))
