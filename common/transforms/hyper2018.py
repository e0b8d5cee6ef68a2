"""Hyper transforms of Ballé et al. 2018 (section 4) and Minnen et al. 2018 (table 1).

    hyper-analysis    y   3x3   5x5 /2   5x5 /2   z  (1/4 of y's sides)
    hyper-synthesis   z   5x5 x2   5x5 x2   3x3   parameters of p(y | z)

Ballé et al. use ReLU and N channels throughout, Minnen et al. leaky ReLU and widths N, 3N/2, 2M
in the hyper-synthesis, which predicts means and scales.
"""

from common.transforms.layers import Branches, Transform, conv, deconv


class HyperAnalysis(Transform):
    """y [B, h, w, M] -> z [B, h/4, w/4, channels[-1]].

    Args:
      channels: outputs of the three layers.
      activation: name of the activation between them.
      last_bias: give the last layer a bias, which the density of z could have instead.
      align: how the kernels lie, see `layers.conv`.
      padding: of the two strided layers, "zeros" or "reflect"; the first has zeros.
    """

    stride = 4

    def __init__(self, channels=(192, 192, 192), activation="relu", last_bias=True,
                 align="centre", padding="zeros"):
        first, second, last = channels
        strided = dict(stride=2, align=align, padding=padding)
        super().__init__([
            conv(first, 3, activation=activation),
            conv(second, 5, activation=activation, **strided),
            conv(last, 5, use_bias=last_bias, **strided),
        ], out_channels=last)


class HyperSynthesis(Transform):
    """z [B, h, w, C] -> parameters of y [B, 4 h, 4 w, channels[-1]].

    Args:
      channels: outputs of the three layers; the last is M for scales alone, 2 M for means and
        scales.
      activation: name of the activation between them.
      align: how the kernels lie, see `layers.deconv`.
    """

    stride = 4

    def __init__(self, channels=(192, 288, 384), activation="relu", align="centre"):
        first, second, last = channels
        super().__init__([
            deconv(first, 5, stride=2, activation=activation, align=align),
            deconv(second, 5, stride=2, activation=activation, align=align),
            deconv(last, 3, align=align),
        ], out_channels=last)


class SeparateHyperSyntheses(Transform):
    """z [B, h, w, C] -> means and logarithms of scales [B, 4 h, 4 w, 2 channels[-1]].

    A hyper-synthesis for each, as in HiFiC (Mentzer et al. 2020) and variant 2 of advDNIC.

    Args:
      channels: outputs of the three layers of either, (N, N, M).
      activation: between them.
    """

    stride = 4

    def __init__(self, channels=(192, 192, 192), activation="relu"):
        first, second, last = channels
        super().__init__([Branches(*([
            deconv(first, 5, stride=2, activation=activation),
            deconv(second, 5, stride=2, activation=activation),
            deconv(last, 3),
        ] for _ in range(2)))], out_channels=2 * last)
