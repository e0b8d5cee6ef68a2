"""Convolutions that are fast in float32 and in bfloat16, forwards and backwards.

The layer is tensorflow-compression's, with its alignment, its weights and their names. Only the
operations differ, for on CPUs TensorFlow's have traps:

    explicit padding   has no oneDNN gradient in bfloat16, and the one there is takes up to a
                       hundred times as long: pad before instead
    1x1, strided       the gradient of the kernel writes beyond its memory, and crashes now and
                       then: take every other position first
    x[:, a:b]          has a gradient that writes element by element: see `padding.crop`
    few outputs        of a transposed convolution, as the three of an image, leave most of a
                       vector register idle: they are computed as one convolution with an output
                       for each phase, `polyphase`
"""

import contextlib
import contextvars
from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow as tf
import tensorflow_compression as tfc

from common import padding
from common.errors import ConversionError
from common.integer_builder import Builder
from common.integer_networks import Value
from common.reach import Reach, taps, transposed
from common.transforms import contract, keras_layers

# Of float32 in a vector register (AVX-512). Transposed convolutions with fewer filters are faster
# in polyphase form, though its kernels are padded to multiples of the stride.
_LANES = 16

# Bound on the absolute logarithm of a level's scale of outputs.
_LARGEST_LOG_SCALE = 2.0

# Where the images of a batch are in the range of their model's levels: float32 [B], -1 to 1.
position = contextvars.ContextVar("position")


@contextlib.contextmanager
def at(t: tf.Tensor) -> Iterator[None]:
    """Sets `position` to `t` within the block."""
    token = position.set(t)
    try:
        yield
    finally:
        position.reset(token)


class Convolution(contract.Layer):
    """A convolution whose outputs may depend on the level; subclasses have `_convolve`.

    Attributes:
      filters: number of outputs.
      kernel: [rows, columns, inputs, filters].
      use_bias: whether there is a `bias` [filters].
      activation: a function, a layer, or None.
      level_scale: None, or a variable [2, filters] of rows a and b. At an image's `position` t each
        output is multiplied by exp(a t + b t^2), before the activation; the exponent is at most 2
        either way.
    """

    level_scale = None

    def call(self, x: tf.Tensor) -> tf.Tensor:
        kernel, bias = self.kernel, self.bias if self.use_bias else None
        scale = self._scale(x.dtype)
        if scale is not None and scale.shape[0] == 1:  # for all of the batch: spare a pass over y
            kernel, bias = kernel * scale, bias * scale[0] if self.use_bias else None
            scale = None
        y = self._convolve(x, kernel)
        if self.use_bias:
            y = tf.nn.bias_add(y, bias)
        if scale is not None:
            y *= scale[:, None, None, :]
        return y if self.activation is None else self.activation(y)

    def _convolve(self, x, kernel):
        """The outputs of x [B, h, w, inputs] before bias, scale and activation."""
        raise NotImplementedError

    def _scale(self, dtype):
        """[B, filters], or [1, filters] if all images of the batch are at one position."""
        if self.level_scale is None:
            return None
        t = position.get()[:, None]
        linear, square = tf.unstack(self.level_scale)
        # Unbounded, those of one layer grew beyond exp(20) in a long training, and images exploded.
        # From beyond the bound, gradients only lead back.
        exponent = tfc.upper_bound(tfc.lower_bound(
            t * linear + t**2 * square, -_LARGEST_LOG_SCALE), _LARGEST_LOG_SCALE)
        return tf.cast(tf.exp(exponent), dtype)


class SignalConv2D(Convolution, tfc.SignalConv2D):
    """`tfc.SignalConv2D` with zeros beyond the border; see the module's docstring.

    Correlations may down-sample and convolutions may up-sample, each along both axes alike.

    Args:
      filters, kernel_support, **kwargs: as there. Padding is "same_zeros", and kernels are
        variables.

    Raises:
      ValueError: other strides.
    """

    def __init__(self, filters: int, kernel_support: int | Iterable[int], *, corr: bool,
                 **kwargs: Any):
        super().__init__(filters, kernel_support, corr=corr, padding="same_zeros",
                         kernel_parameter="variable", **kwargs)
        strides, ones = self.strides_down, self.strides_up
        if not corr:
            strides, ones = ones, strides
        self._stride, *others = {*strides}
        if others or {*ones} != {1}:
            raise ValueError(f"strides {self.strides_up} up and {self.strides_down} down; use "
                             "equal ones, down for a correlation and up for a convolution")

    # tfc first tries to convert without a cast. In bfloat16 that fails, with an error whose message
    # contains all weights.

    @property
    def kernel(self) -> tf.Tensor:
        return tf.cast(self.kernel_parameter, self.compute_dtype)

    @property
    def bias(self) -> tf.Tensor:
        return tf.cast(self.bias_parameter, self.compute_dtype)

    def _convolve(self, x, kernel):
        if self.corr:
            return _correlate(x, kernel, self._stride)
        if self._stride == 1 and all(size % 2 for size in self.kernel_support):
            return _correlate(x, tf.reverse(kernel, [0, 1]), 1)
        if self.filters < _LANES and self._stride > 1:
            return polyphase(x, kernel, self._stride)
        return _upsample(x, kernel, self._stride)

    def reach(self) -> Reach:
        size = max(self.kernel_support)
        own = (taps(-(size // 2), (size - 1) // 2, self._stride) if self.corr
               else transposed(size, size // 2, self._stride))
        return own.then(keras_layers.reach_of_activation(self))

    def integers(self, builder: Builder, x: Value) -> Value:
        kernel = self.kernel.numpy()
        rows, columns, channels, filters = kernel.shape
        if self.corr:
            offsets = [(a - rows // 2, b - columns // 2)
                       for a in range(rows) for b in range(columns)]
            y = builder.conv(self.name, x, offsets, kernel.reshape(-1, channels, filters),
                             keras_layers.bias(self, filters), self._stride)
        elif rows != columns:
            raise ConversionError(f"layer {self.name}: of convolutions that up-sample, only those "
                                  "with square kernels have an integer form")
        else:
            y = keras_layers.convert_transposed(self, builder, x, kernel, self._stride, rows // 2)
        return keras_layers.activate(self, builder, y)


def _correlate(x, kernel, stride):
    """Tap a of the kernel reads x at (i stride + a - size // 2)."""
    sizes = kernel.shape[:2]
    if stride == 1 and all(size % 2 for size in sizes):
        return tf.nn.conv2d(x, kernel, 1, "SAME")
    around = [[size // 2, (size - 1) // 2] for size in sizes]
    return correlate(tf.pad(x, [[0, 0], *around, [0, 0]]), kernel, stride)


def correlate(x: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    """Tap a of the kernel reads x [B, h, w, C] at i stride + a, wherever all taps can."""
    if stride > 1 and kernel.shape[:2] == (1, 1):
        x, stride = tf.nn.avg_pool2d(x, 1, stride, "VALID"), 1
    return tf.nn.conv2d(x, kernel, stride, "VALID")


def _upsample(x, kernel, stride):
    """Tap a of the kernel adds x[i] to the output at (i stride + a - size // 2)."""
    batch, height, width, _ = tf.unstack(tf.shape(x))
    begin = [size // 2 for size in kernel.shape[:2]]
    sides = [height * stride, width * stride]
    # What is cut off lies before the first output; and after the last, where a tap reaches there.
    # Of whole multiples of the stride: oneDNN takes up to twice as long for others.
    whole = [-(-tf.maximum(side + before, side - stride + size) // stride) * stride
             for side, before, size in zip(sides, begin, kernel.shape[:2])]
    filters = kernel.shape[3]
    y = tf.nn.conv2d_transpose(x, tf.transpose(kernel, [0, 1, 3, 2]),
                               [batch, *whole, filters], stride, "VALID")
    y = padding.crop(y, begin, sides)
    y.set_shape([None, *(None if side is None else side * stride for side in x.shape[1:3]), None])
    return y


def polyphase(x: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    """A transposed convolution as one of stride 1, with stride^2 times the outputs, interleaved.

    The output at stride q + p is the sum over u of kernel[stride u + p - e] x[q + m - u], where
    the kernel starts e outputs later than m inputs would: size // 2 = stride m - e.

    Args:
      x: [B, h, w, C].
      kernel: [rows, columns, C, filters]; tap a adds x[i] to output stride i + a - size // 2.
      stride: of the outputs, per input; at least 2.

    Returns:
      [B, stride h, stride w, filters].
    """
    channels, filters = kernel.shape[2:]
    ends, around, taps = [], [], []
    for size in kernel.shape[:2]:
        most = -(-(size // 2) // stride)  # m
        early = stride * most - size // 2  # e
        count = -(-(size + early) // stride)  # of u
        ends.append([early, stride * count - size - early])
        around.append([count - 1 - most, most])
        taps.append(count)
    kernel = tf.reshape(tf.pad(kernel, [*ends, [0, 0], [0, 0]]),
                        [taps[0], stride, taps[1], stride, channels, filters])
    kernel = tf.transpose(tf.reverse(kernel, [0, 2]), [0, 2, 4, 1, 3, 5])
    kernel = tf.reshape(kernel, [*taps, channels, stride**2 * filters])
    if all(before == after for before, after in around):
        y = tf.nn.conv2d(x, kernel, 1, "SAME")
    else:
        y = tf.nn.conv2d(tf.pad(x, [[0, 0], *around, [0, 0]]), kernel, 1, "VALID")
    return tf.nn.depth_to_space(y, stride)
