"""Residual bottlenecks as in ELIC, none of them on large feature maps: for CPUs.

    analysis    image  9x9 /4, RBs   5x5 /2, RBs   5x5 /2, RBs   1x1   y
    synthesis   y      the same backwards: 1x1   RBs, 5x5 x2, ...      image

    RB          x + [1x1 to half the channels, ReLU, 3x3, ReLU, 1x1](x)    (He et al. 2022)

On CPUs an activation or a GDN of the feature maps at half the image's resolution takes longer than
the convolutions beside it, for it does little with each number that it reads. Here the first
convolution goes to a quarter of the resolution at once, and most of the work is at an eighth and a
sixteenth.
"""

from collections.abc import Sequence

from common.transforms.composites import Residual, Transform
from common.transforms.dct import DCT, InverseDCT
from common.transforms.layers import conv, deconv


class ResidualAnalysis(Transform):
    """Image [B, H, W, 3] -> y [B, H/16, W/16, channels[-1]].

    Args:
      channels: outputs of the three strided layers, and of the last.
      blocks: number of bottlenecks after each strided layer.
      kernel: of the strided layers but the first.
      activation: of the strided layers, "gdn" or None.
      dct: whether the discrete cosine transform is added (common/transforms/dct.py).
    """

    stride = 16

    def __init__(self, channels: Sequence[int] = (96, 160, 192, 192),
                 blocks: Sequence[int] = (2, 3, 0), kernel: int = 5, activation: str | None = None,
                 dct: bool = False):
        *inner, last = channels
        layers = []
        for width, number, size, stride in zip(
                inner, blocks, (9, kernel, kernel), (4, 2, 2), strict=True):
            layers += [conv(width, size, stride, activation), *_bottlenecks(width, number)]
        layers.append(conv(last, 1, kernel_initializer=_initializer(dct)))
        super().__init__(layers, last, linear=DCT(last) if dct else None)


class ResidualSynthesis(Transform):
    """y [B, h, w, C] -> image [B, 16 h, 16 w, channels[-1]].

    Args:
      channels: outputs of the first layer, and of the strided ones.
      blocks: number of bottlenecks before each strided layer.
      kernel: of the strided layers but the last.
      activation: of the strided layers but the last, "igdn" or None.
      dct: whether its inverse is added.
    """

    stride = 16

    def __init__(self, channels: Sequence[int] = (192, 160, 96, 3),
                 blocks: Sequence[int] = (0, 3, 2), kernel: int = 5, activation: str | None = None,
                 dct: bool = False):
        *inner, last = channels
        first, second, third = inner
        at_16, at_8, at_4 = blocks
        super().__init__([
            conv(first, 1),
            *_bottlenecks(first, at_16), deconv(second, kernel, 2, activation),
            *_bottlenecks(second, at_8), deconv(third, kernel, 2, activation),
            *_bottlenecks(third, at_4), deconv(last, 9, 4, kernel_initializer=_initializer(dct)),
        ], last, linear=InverseDCT() if dct else None)


def _initializer(dct):
    """The last kernel's initialiser: zeros where the cosine transform is all there is at first."""
    return "zeros" if dct else "variance_scaling"


def _bottlenecks(channels, number):
    return [Residual([conv(channels // 2, 1, activation="relu"),
                      conv(channels // 2, 3, activation="relu"),
                      conv(channels, 1)]) for _ in range(number)]
