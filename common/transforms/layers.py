"""Layers that the transforms of all papers are made of."""

import tensorflow as tf
import tensorflow_compression as tfc


class Transform(tf.keras.Sequential):
    """A stack of layers between image and latent, or between latent and hyper-latent.

    Attributes:
      stride: ratio of the sides of its larger and smaller end.
      out_channels: channels of its output.
    """

    stride: int

    def __init__(self, layers, out_channels: int):
        super().__init__(layers)
        self.out_channels = out_channels


def conv(filters: int, kernel: int, stride: int = 1, activation=None, use_bias: bool = True):
    """Convolution, down-sampling by `stride`; any size, zeros beyond the border.

    Kernels are stored as they are: the library's default, the kernel's Fourier transform, helps
    Adam but makes a training step half as slow again.
    """
    return tfc.SignalConv2D(
        filters, (kernel, kernel), corr=True, strides_down=stride, padding="same_zeros",
        use_bias=use_bias, activation=_activation(activation), kernel_parameter="variable")


def deconv(filters: int, kernel: int, stride: int = 1, activation=None):
    """Transposed convolution, up-sampling by `stride`."""
    return tfc.SignalConv2D(
        filters, (kernel, kernel), corr=False, strides_up=stride, padding="same_zeros",
        use_bias=True, activation=_activation(activation), kernel_parameter="variable")


class ShiftedConv(tf.keras.layers.Layer):
    """Convolution whose kernel may lie anywhere relative to the output's position.

    Tap (a, b) of the kernel reads the input at (i + origin[0] + a, j + origin[1] + b); zeros
    beyond the border. Context networks are made of it: y must not see itself or what comes later.

    Args:
      filters: channels of the output.
      kernel_size: rows and columns of the kernel.
      origin: offset (rows, columns) of the kernel's first tap.
      last: offset of the last tap in use, in raster order; those after it are masked: they have
        weights, which are never used. None for no mask.
      activation: name of the activation.

    Attributes:
      taps: offsets of the taps in use, in raster order.
    """

    def __init__(self, filters: int, kernel_size: tuple[int, int], origin: tuple[int, int],
                 last: tuple[int, int] | None = None, activation=None):
        super().__init__()
        self._filters = filters
        self._kernel_size = kernel_size
        self._origin = origin
        offsets = [(origin[0] + a, origin[1] + b)
                   for a in range(kernel_size[0]) for b in range(kernel_size[1])]
        self.taps = [tap for tap in offsets if last is None or tap <= last]
        if not self.taps:
            raise ValueError(f"no tap of a {kernel_size} kernel at {origin} lies before {last}")
        self._mask = tf.reshape(
            tf.constant([float(tap in self.taps) for tap in offsets]), [*kernel_size, 1, 1])
        self.activation = _activation(activation) or tf.keras.activations.linear

    def build(self, input_shape):
        self.kernel = self.add_weight(
            "kernel", [*self._kernel_size, input_shape[-1], self._filters],
            initializer="variance_scaling")
        self.bias = self.add_weight("bias", [self._filters], initializer="zeros")

    def call(self, x):
        rows, columns = ((start, start + size - 1)
                         for start, size in zip(self._origin, self._kernel_size))
        padded = tf.pad(x, [[0, 0], *([max(0, -first), max(0, last)] for first, last in
                                      (rows, columns)), [0, 0]])
        # A kernel wholly on one side of the position does not read the input's other end.
        x = padded[:, max(0, rows[0]):tf.shape(padded)[1] + min(0, rows[1]),
                   max(0, columns[0]):tf.shape(padded)[2] + min(0, columns[1])]
        y = tf.nn.conv2d(x, self.kernel * tf.cast(self._mask, self.kernel.dtype), 1, "VALID")
        return self.activation(y + self.bias)


class ConcatElu(tf.keras.layers.Layer):
    """[elu(x), elu(-x)], twice the channels (Salimans et al. 2017)."""

    def call(self, x):
        return tf.nn.elu(tf.concat([x, -x], axis=-1))


def gdn(inverse: bool = False):
    """Generalised divisive normalisation, y_i = x_i / (beta_i + sum_j gamma_ij |x_j|).

    The simplified form of Johnston et al. 2019 (Ballé et al. 2016 have squares and a root), which
    is also the default of tensorflow-compression. `inverse` multiplies instead.
    """
    return tfc.GDN(inverse=inverse)


def _activation(activation):
    return tf.keras.activations.get(activation) if isinstance(activation, str) else activation
