"""Transforms of Cheng et al. 2020, "Learned image compression with discretized Gaussian mixture
likelihoods and attention modules": residual blocks of 3x3 kernels.

    analysis          image   down, RB   down, A, RB   down, RB   3x3 /2, A                y
    synthesis         y       A, RB, up   RB, up, A   RB, up   RB, 3x3 x2                  image
    hyper-analysis    y       3x3   3x3   3x3 /2   3x3   3x3 /2                            z
    hyper-synthesis   z       3x3   3x3 x2   3x3   3x3 x2   3x3             parameters of p(y | z)

    RB      x + [3x3, 3x3](x)
    down    [3x3 /2, 3x3 GDN](x) + [1x1 /2](x)
    up      [3x3 x2, 3x3 IGDN](x) + [3x3 x2](x)
    A       x + [3 RU](x) * sigmoid([3 RU, 1x1](x))                     only with `attention`
    RU      ReLU(x + [1x1 to half the channels, ReLU, 3x3, ReLU, 1x1](x))

After other convolutions within blocks, and between those of the hyper transforms, is a leaky ReLU
of slope 0.01. "x2" is sub-pixel convolution (Shi et al. 2016), GDN that of Ballé et al. 2016. The
paper has a mixture of three Gaussians for each element of y; the hyper-synthesis here ends with
means and scales of one, as its "anchor" in CompressAI.
"""

import tensorflow as tf

from common.transforms.composites import Gated, Residual, Stack, Sum, Transform
from common.transforms.layers import conv, subpixel

_LEAKY = "leaky_relu_0.01"


class Cheng2020Analysis(Transform):
    """Image [B, H, W, 3] -> y [B, H/16, W/16, channels].

    Args:
      channels: of all layers, N in the paper.
      attention: with the attention modules.
    """

    stride = 16

    def __init__(self, channels: int = 128, attention: bool = False):
        super().__init__([
            _down(channels), _block(channels),
            _down(channels), *_attention(channels, attention), _block(channels),
            _down(channels), _block(channels),
            conv(channels, 3, stride=2), *_attention(channels, attention),
        ], out_channels=channels)


class Cheng2020Synthesis(Transform):
    """y [B, h, w, channels] -> image [B, 16 h, 16 w, 3].

    Args:
      channels: of y and of all layers but the last, N in the paper.
      attention: with the attention modules.
    """

    stride = 16

    def __init__(self, channels: int = 128, attention: bool = False):
        super().__init__([
            *_attention(channels, attention), _block(channels), _up(channels),
            _block(channels), _up(channels), *_attention(channels, attention),
            _block(channels), _up(channels),
            _block(channels), subpixel(3, 3),
        ], out_channels=3)


class Cheng2020HyperAnalysis(Transform):
    """y [B, h, w, M] -> z [B, h/4, w/4, channels].

    Args:
      channels: of all layers, N in the paper.
    """

    stride = 4

    def __init__(self, channels: int = 128):
        super().__init__([
            conv(channels, 3, activation=_LEAKY),
            conv(channels, 3, activation=_LEAKY),
            conv(channels, 3, stride=2, activation=_LEAKY),
            conv(channels, 3, activation=_LEAKY),
            conv(channels, 3, stride=2),
        ], out_channels=channels)


class Cheng2020HyperSynthesis(Transform):
    """z [B, h, w, C] -> parameters of y [B, 4 h, 4 w, 2 channels].

    Args:
      channels: of y and of the first two layers, N in the paper; the next two have 3/2 N.
    """

    stride = 4

    def __init__(self, channels: int = 128):
        wide = channels * 3 // 2
        super().__init__([
            conv(channels, 3, activation=_LEAKY),
            subpixel(channels, 3, activation=_LEAKY),
            conv(wide, 3, activation=_LEAKY),
            subpixel(wide, 3, activation=_LEAKY),
            conv(2 * channels, 3),
        ], out_channels=2 * channels)


def _block(channels):
    return Residual([conv(channels, 3, activation=_LEAKY) for _ in range(2)])


def _down(channels):
    return Sum([conv(channels, 3, stride=2, activation=_LEAKY),
                conv(channels, 3, activation="gdn_square")],
               [conv(channels, 1, stride=2)])


def _up(channels):
    return Sum([subpixel(channels, 3, activation=_LEAKY),
                conv(channels, 3, activation="igdn_square")],
               [subpixel(channels, 3)])


def _attention(channels, wanted):
    if not wanted:
        return []
    mask = [*_units(channels), conv(channels, 1, activation="sigmoid")]
    return [Residual([Gated(_units(channels), mask)])]


def _units(channels):
    return [Stack([Residual([conv(channels // 2, 1, activation="relu"),
                             conv(channels // 2, 3, activation="relu"),
                             conv(channels, 1)]),
                   tf.keras.layers.ReLU()]) for _ in range(3)]
