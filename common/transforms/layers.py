"""Layers that the transforms of all papers are made of."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from common import arguments, padding
from common.errors import ConversionError
from common.integer_builder import Builder
from common.integer_networks import Value
from common.reach import Reach, blocks, taps
from common.transforms import keras_layers
from common.transforms.composites import Stack
from common.transforms.contract import Layer, Pointwise
from common.transforms.convolution import Convolution, SignalConv2D, correlate
from common.transforms.gdn import GDN

# A name in a config, a function or layer, or none.
Activation = str | Callable[[tf.Tensor], tf.Tensor] | None


def conv(filters: int, kernel: int, stride: int = 1, activation: Activation = None,
         use_bias: bool = True,
         kernel_initializer: str | tf.keras.initializers.Initializer = "variance_scaling",
         align: str = "centre", padding: str = "zeros") -> Convolution:
    """Convolution, down-sampling by `stride`; any size.

    Kernels are stored as they are: the library's default, the kernel's Fourier transform, helps
    Adam but makes a training step half as slow again.

    Args:
      filters, kernel, stride, activation, use_bias, kernel_initializer: as for Keras.
      align: "centre": the kernel's centre is on the first of the `stride` inputs of an output;
        "keras": on all of them, as Keras has it for sizes that are multiples of the stride. At
        stride 1 odd kernels lie the same.
      padding: as for `ShiftedConv`.
    """
    origin = -(max(0, kernel - stride) // 2) if _is_keras(align) else -(kernel // 2)
    if origin == -(kernel // 2) and padding == "zeros":
        return SignalConv2D(
            filters, (kernel, kernel), corr=True, strides_down=stride, use_bias=use_bias,
            activation=get_activation(activation), kernel_initializer=kernel_initializer)
    return ShiftedConv(
        filters, (kernel, kernel), (origin, origin), activation=activation, stride=stride,
        padding=padding, use_bias=use_bias, kernel_initializer=kernel_initializer)


def deconv(filters: int, kernel: int, stride: int = 1, activation: Activation = None,
           use_bias: bool = True, align: str = "centre",
           kernel_initializer: str | tf.keras.initializers.Initializer = "variance_scaling"
           ) -> tf.keras.layers.Layer:
    """Transposed convolution, up-sampling by `stride`.

    Kernels are centred on the first of the `stride` outputs of an input. Where they are too small
    to reach the last one from there, or with `align` "keras", they are centred on all of them, as
    Keras does: else nothing would reach the last rows and columns of an image. These are Keras's
    layer, whose kernels are [rows, columns, outputs, inputs].

    Raises:
      ValueError: the kernel is smaller than the stride.
    """
    if kernel < stride:
        raise ValueError(f"kernel {kernel} with stride {stride} leaves gaps")
    if _is_keras(align) or (kernel - 1) // 2 < stride - 1:
        return tf.keras.layers.Conv2DTranspose(
            filters, kernel, stride, "same", activation=get_activation(activation),
            use_bias=use_bias, kernel_initializer=kernel_initializer)
    return SignalConv2D(
        filters, (kernel, kernel), corr=False, strides_up=stride, use_bias=use_bias,
        activation=get_activation(activation), kernel_initializer=kernel_initializer)


def _is_keras(align):
    if align not in ("centre", "keras"):
        raise arguments.unknown("alignment", align, ("centre", "keras"))
    return align == "keras"


class ShiftedConv(Convolution):
    """Convolution whose kernel may lie anywhere relative to the output's position.

    For the output (i, j) tap (a, b) of the kernel reads the input at (stride i + origin[0] + a,
    stride j + origin[1] + b). Context networks are made of it: y must not see itself or what comes
    later.

    Args:
      filters: channels of the output.
      kernel_size: rows and columns of the kernel.
      origin: offset (rows, columns) of the kernel's first tap.
      last: offset of the last tap in use, in raster order; those after it are masked: they have
        weights, which are never used. None for no mask.
      activation: name of the activation.
      stride: distance of the outputs' positions.
      padding: what is beyond the border: "zeros", or "reflect", the input mirrored at its first and
        last row and column, as often as it takes.
      use_bias, kernel_initializer: as for Keras.

    Attributes:
      taps: offsets of the taps in use, in raster order.
    """

    def __init__(self, filters: int, kernel_size: tuple[int, int], origin: tuple[int, int],
                 last: tuple[int, int] | None = None, activation: Activation = None,
                 stride: int = 1, padding: str = "zeros", use_bias: bool = True,
                 kernel_initializer: str | tf.keras.initializers.Initializer = "variance_scaling"):
        super().__init__()
        if padding not in ("zeros", "reflect"):
            raise arguments.unknown("padding", padding, ("zeros", "reflect"))
        self.filters = filters
        self.stride = stride
        self.padding = padding
        self.use_bias = use_bias
        self._kernel_size = kernel_size
        self._initializer = kernel_initializer
        offsets = [(origin[0] + a, origin[1] + b)
                   for a in range(kernel_size[0]) for b in range(kernel_size[1])]
        self._spans = [*zip(offsets[0], offsets[-1])]
        self.taps = [tap for tap in offsets if last is None or tap <= last]
        if not self.taps:
            raise ValueError(f"no tap of a {kernel_size} kernel at {origin} lies before {last}")
        self._mask = tf.reshape(
            tf.constant([float(tap in self.taps) for tap in offsets]), [*kernel_size, 1, 1])
        self.activation = get_activation(activation) or tf.keras.activations.linear

    def build(self, input_shape: tf.TensorShape) -> None:
        self.kernel = self.add_weight(
            "kernel", [*self._kernel_size, input_shape[-1], self.filters],
            initializer=self._initializer)
        if self.use_bias:
            self.bias = self.add_weight("bias", [self.filters], initializer="zeros")

    def _convolve(self, x, kernel):
        # Strides may leave some of the last rows and columns unread.
        x = (_reflected if self.padding == "reflect" else _in_zeros)(x, self._spans)
        return correlate(x, kernel * tf.cast(self._mask, self.compute_dtype), self.stride)

    def reach(self) -> Reach:
        first, last = min(map(min, self.taps)), max(map(max, self.taps))
        if self.padding == "reflect":  # what is beyond the border lies as far within
            first, last = min(first, -last), max(last, -first)
        return taps(first, last, self.stride).then(keras_layers.reach_of_activation(self))

    def integers(self, builder: Builder, x: Value) -> Value:
        if self.padding != "zeros":
            raise ConversionError(f"layer {self.name}: padding '{self.padding}' has no integer "
                                  "form; 'zeros' has")
        kernel = self.kernel.numpy().reshape(-1, *self.kernel.shape[2:])
        y = builder.conv(self.name, x, self.taps, kernel[:len(self.taps)],
                         keras_layers.bias(self, self.filters), self.stride)
        return keras_layers.activate(self, builder, y)


def _in_zeros(x, spans):
    """x [B, h, w, C] from row first to row h - 1 + last, columns alike, for spans (first, last)."""
    # A kernel wholly on one side of the position does not read the input's other end.
    unread = [(max(0, first), max(0, -last)) for first, last in spans]
    if any(map(any, unread)):
        x = padding.crop(x, [before for before, _ in unread], [
            side - sum(ends) for side, ends in zip(tf.unstack(tf.shape(x)[1:3]), unread)])
    around = ([max(0, -first), max(0, last)] for first, last in spans)
    return tf.pad(x, [[0, 0], *around, [0, 0]])


def _reflected(x, spans):
    """As `_in_zeros`, but periodic beyond the border: 0 1 2 3 2 1 0 1 ...; of any size."""
    for axis, (first, last) in enumerate(spans, start=1):
        size = x.shape[axis] or tf.shape(x)[axis]
        period = tf.maximum(2 * (size - 1), 1)
        place = tf.range(first, size + last) % period
        x = tf.gather(x, tf.minimum(place, period - place), axis=axis)
    return x


class ConcatElu(Pointwise):
    """[elu(x), elu(-x)], twice the channels (Salimans et al. 2017)."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.elu(tf.concat([x, -x], axis=-1))

    def integers(self, builder: Builder, x: Value) -> Value:
        return builder.pointwise(builder.concat(x, builder.negate(x)), tf.nn.elu, linear=True)


class DepthToSpace(Layer):
    """Channels [block, block, C] to positions: [B, h, w, block^2 C] -> [B, block h, block w, C]."""

    def __init__(self, block: int):
        super().__init__()
        self.block = block

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.depth_to_space(x, self.block)

    def reach(self) -> Reach:
        return blocks(self.block)

    def integers(self, builder: Builder, x: Value) -> Value:
        return builder.depth_to_space(x, self.block)


class AppendOnes(Pointwise):
    """One more channel, of ones: a convolution's constant basis function."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.concat([x, tf.ones_like(x[..., :1])], axis=-1)


class LastChannels(Pointwise):
    """The last `number` channels."""

    def __init__(self, number: int):
        super().__init__()
        self._number = number

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.split(x, [-1, self._number], axis=-1)[1]  # a slice's gradient is slow

    def integers(self, builder: Builder, x: Value) -> Value:
        return builder.slice(x, x.channels - self._number, x.channels)


class EverySecondChannel(Pointwise):
    """Channels 0, 2, 4, ... of an even number."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        pairs = [*tf.unstack(tf.shape(x)[:-1]), x.shape[-1] // 2, 2]
        return tf.unstack(tf.reshape(x, pairs), axis=-1)[0]


class ICNR(tf.keras.initializers.Initializer):
    """Kernels whose outputs `DepthToSpace` makes blocks of equal pixels (Aitken et al. 2017).

    Args:
      block: of the `DepthToSpace` that follows.
    """

    def __init__(self, block: int):
        self._block = block
        self._initializer = tf.keras.initializers.HeNormal()

    def __call__(self, shape: Sequence[int], dtype: tf.DType | str | None = None, **kwargs: Any):
        *inputs, outputs = shape
        kernel = self._initializer([*inputs, outputs // self._block**2], dtype=dtype)
        return tf.tile(kernel, [1] * len(inputs) + [self._block**2])


def subpixel(filters: int, kernel: int = 1, block: int = 2, activation: Activation = None) -> Stack:
    """Up-sampling by a convolution to `block`^2 times the channels (Shi et al. 2016)."""
    return Stack([
        conv(filters * block**2, kernel, activation=activation, kernel_initializer=ICNR(block)),
        DepthToSpace(block)])


# --- Normalisation and activations ------------------------------------------------------------


class ChannelNorm(Pointwise):
    """Normalises every position over its channels (Mentzer et al. 2020, section 3.2).

    (x - mean) / sqrt(variance + epsilon) * gamma + beta, with the unbiased variance, of C - 1.
    Moments are in float32.
    """

    def __init__(self, epsilon: float = 1e-3):
        super().__init__()
        self._epsilon = epsilon

    def build(self, input_shape: tf.TensorShape) -> None:
        self.gamma = self.add_weight("gamma", [input_shape[-1]], initializer="ones")
        self.beta = self.add_weight("beta", [input_shape[-1]], initializer="zeros")

    def _moments(self, x):
        """Mean and variance of float32 [B, H, W, C], to be broadcast to it."""
        mean = tf.reduce_mean(x, axis=-1, keepdims=True)
        return mean, tf.reduce_sum((x - mean)**2, axis=-1, keepdims=True) / (x.shape[-1] - 1)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        wide = tf.cast(x, tf.float32)
        mean, variance = self._moments(wide)
        normal = (wide - mean) * tf.math.rsqrt(variance + self._epsilon)
        return tf.cast(normal, x.dtype) * self.gamma + self.beta


class InstanceNorm(ChannelNorm):
    """Normalises every channel over its positions (Ulyanov et al. 2016), with the biased variance.

    Its outputs depend on the whole image.
    """

    def _moments(self, x):
        return tf.nn.moments(x, axes=(1, 2), keepdims=True)

    def reach(self) -> Reach:
        return Layer.reach(self)


def get_activation(activation: Activation) -> Callable[[tf.Tensor], tf.Tensor] | None:
    """A layer or function by its name in a config; layers, functions and None as they are.

    Names are Keras's, `gdn`, `igdn`, `gdn_square`, `igdn_square`, and `leaky_relu_<slope>`, e.g.
    leaky_relu_0.1 (Keras's own leaky_relu has 0.2). A layer with weights is a new one for each
    call.
    """
    if activation in ("gdn", "igdn", "gdn_square", "igdn_square"):
        return GDN(inverse=activation.startswith("i"), square=activation.endswith("square"))
    if isinstance(activation, str) and activation.startswith("leaky_relu_"):
        return tf.keras.layers.LeakyReLU(float(activation.removeprefix("leaky_relu_")))
    return tf.keras.activations.get(activation) if isinstance(activation, str) else activation
