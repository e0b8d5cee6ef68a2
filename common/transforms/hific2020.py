"""Transforms of HiFiC, high-fidelity generative image compression (Mentzer et al. 2020, figure 2).

    analysis    image   7x7   4 x [3x3 /2], each with norm and ReLU   3x3   y  (1/16 of the sides)
    synthesis   y   norm  3x3  norm = h    r = h + 9 residual blocks(h)
                r   4 x [3x3 x2, norm, ReLU]   7x7   image
    hyper-synthesis   z   5x5 x2   5x5 x2   3x3   means, and the same again for scales

Norms are over the channels of a position: those over positions depend on the image's size, and
darken images of other sizes than the crops of training (section 3.2).

A port to PyTorch reflects the image at its borders, and its strided kernels lie one column further
right than those here: at the rows 2 i - 1 .. 2 i + 1 and the columns 2 j .. 2 j + 2. That is what
`padding` "reflect" does; transposed convolutions have zeros beyond the border there too.
"""

import functools
from collections.abc import Sequence

import tensorflow as tf

from common import arguments
from common.transforms.composites import Branches, Residual, Transform
from common.transforms.layers import ChannelNorm, InstanceNorm, ShiftedConv, conv, deconv


def _conv(filters: int, kernel: int, padding: str = "zeros", activation=None
          ) -> tf.keras.layers.Layer:
    """As `layers.conv`; if it pads zeros, its gradient is up to ten times as fast on CPUs."""
    if padding != "zeros":
        return conv(filters, kernel, activation=activation, padding=padding)
    return tf.keras.layers.Conv2D(
        filters, kernel, padding="same", activation=activation,
        kernel_initializer="variance_scaling")


def _halving(filters: int, padding: str) -> tf.keras.layers.Layer:
    if padding == "zeros":
        return conv(filters, 3, stride=2)
    return ShiftedConv(filters, (3, 3), (-1, 0), stride=2, padding=padding)


_NORMS = {"channel": ChannelNorm, "instance": InstanceNorm}


def _norm(name: str, epsilon: float) -> tf.keras.layers.Layer:
    if name not in _NORMS:
        raise arguments.unknown("norm", name, _NORMS)
    return _NORMS[name](epsilon)


class HiFiCAnalysis(Transform):
    """Image [B, H, W, 3] -> y [B, H/s, W/s, channels[-1]], with s = 2^(len(channels) - 2).

    Args:
      channels: outputs of the layers: of the first at full size, of those that halve the sides,
        and of the last.
      norm: "channel", or "instance".
      padding: "zeros", or "reflect", see above.
      epsilon: of the norms.
    """

    def __init__(self, channels: Sequence[int] = (60, 120, 240, 480, 960, 220),
                 norm: str = "channel", padding: str = "zeros", epsilon: float = 1e-3):
        first, *halving, last = channels
        layers = [_conv(first, 7, padding), _norm(norm, epsilon), tf.keras.layers.ReLU()]
        for c in halving:
            layers += [_halving(c, padding), _norm(norm, epsilon), tf.keras.layers.ReLU()]
        super().__init__([*layers, _conv(last, 3, padding)], out_channels=last)
        self.stride = 2**len(halving)


class HiFiCSynthesis(Transform):
    """The generator: y [B, h, w, C] -> image [B, s h, s w, 3], with s = 2^(len(channels) - 2).

    Args:
      channels: outputs of the layers: of the residual blocks, of those that double the sides, and
        of the last.
      blocks: number of residual blocks.
      norm: "channel", or "instance".
      padding: "zeros", or "reflect", see above.
      last_activation: name of the activation of the last layer, e.g. "tanh".
      epsilon: of the norms.
    """

    def __init__(self, channels: Sequence[int] = (960, 480, 240, 120, 60, 3), blocks: int = 9,
                 norm: str = "channel", padding: str = "zeros", last_activation: str | None = None,
                 epsilon: float = 1e-3):
        width, *doubling, last = channels
        normal = functools.partial(_norm, norm, epsilon)
        block = [Residual([_conv(width, 3, padding), normal(), tf.keras.layers.ReLU(),
                           _conv(width, 3, padding), normal()]) for _ in range(blocks)]
        layers = [normal(), _conv(width, 3, padding), normal(), Residual(block)]
        for c in doubling:
            layers += [deconv(c, 3, stride=2), normal(), tf.keras.layers.ReLU()]
        super().__init__([*layers, _conv(last, 7, padding, last_activation)], out_channels=last)
        self.stride = 2**len(doubling)


class SeparateHyperSyntheses(Transform):
    """z [B, h, w, C] -> means and logarithms of scales [B, 4 h, 4 w, 2 channels[-1]].

    A hyper-synthesis for each, also in variant 2 of advDNIC.

    Args:
      channels: outputs of the three layers of either, (N, N, M).
      activation: between them.
    """

    stride = 4

    def __init__(self, channels: Sequence[int] = (192, 192, 192), activation: str = "relu"):
        first, second, last = channels
        super().__init__([Branches(*([
            deconv(first, 5, stride=2, activation=activation),
            deconv(second, 5, stride=2, activation=activation),
            deconv(last, 3),
        ] for _ in range(2)))], out_channels=2 * last)


class HiFiCMixtureHyperSynthesis(Transform):
    """z [B, h, w, N] -> mixtures' parameters [B, 4 h, 4 w, 3 K M], with M = channels[-1].

    Logits of the weights, means, and logarithms of scales, of each all of the first component come
    first. Not in the paper: from the latent mixture of a port to PyTorch, where M = 64 and K = 4.

    Args:
      channels: outputs of the first three layers.
      components: K.
      activation: name of the activation between the first three layers.
    """

    stride = 4

    def __init__(self, channels: Sequence[int] = (320, 320, 64), components: int = 4,
                 activation: str = "relu"):
        first, second, last = channels
        out_channels = 3 * components * last
        super().__init__([
            deconv(first, 5, stride=2, activation=activation),
            deconv(second, 5, stride=2, activation=activation),
            deconv(last, 3),
            _conv(out_channels, 1),
        ], out_channels=out_channels)
