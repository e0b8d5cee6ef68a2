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


def gdn(inverse: bool = False):
    """Generalised divisive normalisation, y_i = x_i / (beta_i + sum_j gamma_ij |x_j|).

    The simplified form of Johnston et al. 2019 (Ballé et al. 2016 have squares and a root), which
    is also the default of tensorflow-compression. `inverse` multiplies instead.
    """
    return tfc.GDN(inverse=inverse)


def _activation(activation):
    return tf.keras.activations.get(activation) if isinstance(activation, str) else activation
