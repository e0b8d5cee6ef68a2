"""Gradients of integer networks, the same bits on every machine.

As common/integer_networks.py has it for outputs, weights are integers. Before every convolution of
the backward pass, the gradient is rounded to integers times one power of two, of so few bits that
all sums are exact. The gradient passes rounding as it is, and is zero where values are clipped.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from common import integer_ops
from common.errors import ConversionError
from common.integer_networks import ACCUMULATOR_BITS, Network

_MOST_BITS = 24


def pull_back(network: Network, x: np.ndarray,
              gradients_of: Callable[[list[np.ndarray]], Sequence[np.ndarray]]
              ) -> tuple[list, np.ndarray]:
    """Evaluates a network of one argument, and the gradient of a function of its outputs.

    Args:
      network: made of convolutions with stride 1 and operations of single positions.
      x: integers [B, H, W, C].
      gradients_of: takes the outputs, a list of float64 arrays of integers, and returns the
        derivative by each of them.

    Returns:
      The outputs; and the derivative by `x`, float64 of its shape. It is by the integers
      themselves, not by the values that they stand for.

    Raises:
      ConversionError: an operation has no gradient in integers.
    """
    with tf.device("CPU:0"):
        return _pull_back(network, x, gradients_of)


def _pull_back(network, x, gradients_of):
    values = []
    for op in network.ops:
        value = x if isinstance(op, integer_ops.Input) else op(
            *(tf.constant(values[i], tf.float64) for i in op.inputs))
        values.append(np.asarray(value, np.float64))
    outputs = [values[output.index] for output in network.outputs]
    pulled = [None] * len(values)

    def add(i, gradient):
        pulled[i] = gradient if pulled[i] is None else pulled[i] + gradient

    for output, gradient in zip(network.outputs, gradients_of(outputs)):
        add(output.index, gradient)
    result = np.zeros(x.shape)
    for k in reversed(range(len(values))):
        gradient, pulled[k] = pulled[k], None
        if gradient is None:
            continue
        op = network.ops[k]
        if isinstance(op, integer_ops.Input):
            result = result + gradient
        else:
            source, *others = op.inputs
            if others:
                raise _without_gradient(op)
            add(source, _pull(op, gradient, values[source], values[k]))
    return outputs, result


def rounded(x: np.ndarray, bits: int) -> np.ndarray:
    """x as integers of `bits` bits times one power of two."""
    _, exponent = np.frexp(np.max(np.abs(x), initial=0.0))
    unit = math.ldexp(1.0, int(exponent) - bits)
    return np.round(x / unit) * unit


@functools.singledispatch
def _pull(op, gradient, x, y):
    """The derivative by `x`, an operation's argument, from that by `y`, its output."""
    raise _without_gradient(op)


def _without_gradient(op):
    return ConversionError(
        f"operation {type(op).__name__} has no gradient in integers; these have: "
        + ", ".join(cls.__name__ for cls in _pull.registry if cls is not object))


@_pull.register
def _(op: integer_ops.Conv, gradient, x, y):
    if op.stride != 1:
        raise ConversionError("convolutions with a stride have no gradient in integers")
    matrix = op.kernel.astype(np.float64)
    channels = x.shape[-1]
    most = np.max(np.abs(matrix).reshape(len(matrix), -1, channels).sum(axis=(0, 1)), initial=1.0)
    gradient = rounded(
        gradient, min(_MOST_BITS, ACCUMULATOR_BITS - (int(most) - 1).bit_length() - 1))
    total = 0.0
    for k, (row, column) in enumerate(op.taps):
        part = gradient.reshape(-1, len(matrix)) @ matrix[:, k * channels:(k + 1) * channels]
        total = total + _shift(part.reshape(x.shape), row, column)
    return total


def _shift(x, rows, columns):
    """y[i + rows, j + columns] = x[i, j] within [B, H, W, C]."""
    _, height, width, _ = x.shape
    y = np.zeros_like(x)
    y[:, max(0, rows):height + min(0, rows), max(0, columns):width + min(0, columns)] = (
        x[:, max(0, -rows):height - max(0, rows), max(0, -columns):width - max(0, columns)])
    return y


@_pull.register
def _(op: integer_ops.Depthwise, gradient, x, y):
    if op.taps != ((0, 0),):
        raise ConversionError("channelwise convolutions have no gradient in integers")
    return gradient * op.kernel[0].astype(np.float64)


@_pull.register
def _(op: integer_ops.Requantize, gradient, x, y):
    return np.where((y > op.low) & (y < op.high), gradient * 2.0**-op.shift, 0.0)


@_pull.register
def _(op: integer_ops.LeakyRelu, gradient, x, y):
    return np.where(x > 0, gradient, gradient * (op.slope * 2.0**-16))


@_pull.register
def _(op: integer_ops.DepthToSpace, gradient, x, y):
    return tf.nn.space_to_depth(gradient, op.block).numpy()


@_pull.register
def _(op: integer_ops.Slice, gradient, x, y):
    result = np.zeros(x.shape)
    result[..., op.start:op.stop] = gradient
    return result
