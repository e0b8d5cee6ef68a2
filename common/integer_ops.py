"""Operations of integer networks (common/integer_networks.py), on integers held in float64.

Convolutions gather their taps and multiply matrices, on the CPU: the fast forms of FFT and Winograd
round on the way. Nonlinear functions are integer tables. What is left is +, -, *, / and rounding of
single float64 numbers, which IEEE 754 fixes.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from common.errors import NotLocal
from common.reach import Reach, blocks, taps


@dataclasses.dataclass(frozen=True, eq=False)
class Op:
    """An operation on tensors of integers, float64 [..., C].

    All but `Spatial`, `DepthToSpace` and `Mean` act on every position by itself.

    Attributes:
      inputs: indices of the operations whose outputs it takes.
    """

    inputs: tuple[int, ...]

    stride = 1  # distance of the outputs' positions in the input

    @property
    def taps(self) -> tuple[tuple[int, int], ...]:
        """Offsets (rows, columns) of the input's positions that an output's position reads."""
        return ((0, 0),)

    def reach(self) -> Reach:
        """The reach of an output; raises NotLocal if it sees the whole image."""
        return taps(min(map(min, self.taps)), max(map(max, self.taps)), self.stride)

    def __call__(self, *inputs: tf.Tensor) -> tf.Tensor:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class Input(Op):
    """The network's argument number `number`."""

    number: int
    channels: int


@dataclasses.dataclass(frozen=True, eq=False)
class Spatial(Op):
    """An operation on several positions: a weighted sum of x[i stride + row, j stride + column].

    Attributes:
      offsets: int [T, 2], row and column of each tap.
      kernel: integer weights.
      bias: int64 [filters].
      stride: distance of the outputs' positions.
    """

    offsets: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    stride: int = 1

    @functools.cached_property
    def taps(self) -> tuple[tuple[int, int], ...]:
        return tuple((int(row), int(column)) for row, column in self.offsets)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return self.apply(tf.concat([*_shifted(x, self.taps, self.stride)], axis=-1))

    def apply(self, patches: tf.Tensor) -> tf.Tensor:
        """The taps of every position side by side [..., T * C] -> outputs [..., filters]."""
        raise NotImplementedError


class Conv(Spatial):
    """Convolution; `kernel` is int16 [filters, T * C], which suits products with few rows."""

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return self._eagerly(x.numpy()) if tf.executing_eagerly() else super().__call__(x)

    def _eagerly(self, x):
        """Tap by tap with NumPy, whose float64 products are twice as fast as TensorFlow's."""
        channels = x.shape[-1]
        total = product = None
        for k, shifted in enumerate(_shifted(x, self.taps, self.stride, np.pad)):
            columns = slice(k * channels, (k + 1) * channels)
            product = np.matmul(shifted.reshape(-1, channels), self._matrix[:, columns].T,
                                out=product)
            total = product.copy() if total is None else np.add(total, product, out=total)
        return tf.constant((total + self.bias).reshape(*shifted.shape[:-1], -1))

    @functools.cached_property
    def _matrix(self):
        return self.kernel.astype(np.float64)

    def apply(self, patches: tf.Tensor) -> tf.Tensor:
        kernel, bias = _tensor(self, "kernel"), _tensor(self, "bias")
        rows = tf.reshape(patches, [-1, kernel.shape[1]])
        shape = tf.concat([tf.shape(patches)[:-1], kernel.shape[:1]], axis=0)
        return tf.reshape(tf.matmul(rows, kernel, transpose_b=True) + bias, shape)


class Depthwise(Spatial):
    """Convolution of each channel by itself; `kernel` is int32 [T, C]."""

    def apply(self, patches: tf.Tensor) -> tf.Tensor:
        kernel, bias = _tensor(self, "kernel"), _tensor(self, "bias")
        shape = tf.concat([tf.shape(patches)[:-1], kernel.shape], axis=0)
        return tf.reduce_sum(tf.reshape(patches, shape) * kernel, axis=-2) + bias


@dataclasses.dataclass(frozen=True, eq=False)
class Requantize(Op):
    """round(x / 2^shift), halves to even, clipped to [low, high]."""

    shift: int
    low: float
    high: float

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        if self.shift:
            x = tf.round(x * 2.0**-self.shift)
        return tf.clip_by_value(x, tf.constant(self.low, x.dtype), tf.constant(self.high, x.dtype))


@dataclasses.dataclass(frozen=True, eq=False)
class LeakyRelu(Op):
    """x where positive, else round(x * slope / 2^16)."""

    slope: int

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        if not self.slope:
            return tf.maximum(x, 0.0)
        return tf.maximum(x, tf.round(x * (self.slope * 2.0**-16)))


@dataclasses.dataclass(frozen=True, eq=False)
class Lookup(Op):
    """table[x], and max(x, 0) added to it if `linear`.

    Attributes:
      table: int32 [2 * 2^14 + 1]; for arguments in steps of 2^-10 from -16 to 16.
      shift: fractional bits of x beyond the table's 10.
      linear: see above.
    """

    table: np.ndarray
    shift: int
    linear: bool

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        half = len(self.table) // 2
        position = tf.clip_by_value(tf.round(x * 2.0**-self.shift), -half, half) + half
        y = tf.gather(_tensor(self, "table"), tf.cast(position, tf.int32))
        return y + tf.maximum(x, 0.0) if self.linear else y


@dataclasses.dataclass(frozen=True, eq=False)
class Steps(Op):
    """The number of edges that are not above x.

    Attributes:
      edges: int64 [N], in ascending order.
    """

    edges: np.ndarray

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        steps = tf.searchsorted(_tensor(self, "edges"), tf.reshape(x, [-1]), side="right")
        return tf.cast(tf.reshape(steps, tf.shape(x)), x.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class Add(Op):
    """Sum of inputs with the same number of fractional bits."""

    def __call__(self, *values: tf.Tensor) -> tf.Tensor:
        return functools.reduce(tf.add, values)


@dataclasses.dataclass(frozen=True, eq=False)
class Multiply(Op):
    """Product of two inputs."""

    def __call__(self, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        return a * b


@dataclasses.dataclass(frozen=True, eq=False)
class Maximum(Op):
    """The largest of inputs with the same number of fractional bits."""

    def __call__(self, *values: tf.Tensor) -> tf.Tensor:
        return functools.reduce(tf.maximum, values)


@dataclasses.dataclass(frozen=True, eq=False)
class Negate(Op):
    """-x."""

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return -x


@dataclasses.dataclass(frozen=True, eq=False)
class Concat(Op):
    """Inputs with the same number of fractional bits, one after another."""

    def __call__(self, *values: tf.Tensor) -> tf.Tensor:
        return tf.concat(values, axis=-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Slice(Op):
    """Channels start to stop."""

    start: int
    stop: int

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return x[..., self.start:self.stop]


@dataclasses.dataclass(frozen=True, eq=False)
class DepthToSpace(Op):
    """Channels [block, block, C] to positions."""

    block: int

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.depth_to_space(x, self.block)

    def reach(self) -> Reach:
        return blocks(self.block)


@dataclasses.dataclass(frozen=True, eq=False)
class Mean(Op):
    """Mean over all positions, [..., 1, 1, C], halves rounded up."""

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        count = tf.cast(tf.shape(x)[-3] * tf.shape(x)[-2], x.dtype)
        total = tf.reduce_sum(x, axis=(-3, -2), keepdims=True)
        # Compilers make a product with 1 / count of the division, which may be the next integer.
        quotient = tf.floor(total / count)
        rest = total - quotient * count
        return quotient + tf.cast(2 * rest >= count, x.dtype) - tf.cast(
            2 * rest < -count, x.dtype) + tf.cast(2 * rest >= 3 * count, x.dtype)

    def reach(self) -> Reach:
        raise NotLocal("a mean over all positions, in an integer network, depends on the whole "
                       "image")


BY_NAME = {cls.__name__: cls for cls in (
    Input, Conv, Depthwise, Requantize, LeakyRelu, Lookup, Steps, Add, Multiply, Maximum, Negate,
    Concat, Slice, DepthToSpace, Mean)}


def _shifted(x, taps, stride, pad=tf.pad):
    """x [B, H, W, C] moved by each tap, zeros beyond the border; one at a time."""
    rows, columns = zip(*taps)
    top, left = max(0, -min(rows)), max(0, -min(columns))
    padded = pad(x, [[0, 0], [top, max(0, *rows)], [left, max(0, *columns)], [0, 0]])
    shape = x.shape if isinstance(x, np.ndarray) else tf.shape(x)
    height, width = shape[1], shape[2]
    for row, column in taps:
        yield padded[:, top + row:top + row + height:stride,
                     left + column:left + column + width:stride]


def _tensor(op, name) -> tf.Tensor:
    """An array of `op` in float64, made once and outside of any graph."""
    cached = f"_{name}_tensor"
    if cached not in op.__dict__:
        with tf.init_scope(), tf.device("CPU:0"):
            op.__dict__[cached] = tf.constant(getattr(op, name), tf.float64)
    return op.__dict__[cached]
