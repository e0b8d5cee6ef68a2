"""Image transforms of He et al. 2022, "ELIC": residual bottlenecks and attention, no GDN.

    analysis    image  5x5 /2, 3 RB   5x5 /2, 3 RB, attention   5x5 /2, 3 RB   5x5 /2, attention  y
    synthesis   y      the same backwards: attention, 5x5 x2, 3 RB, ...                       image

    RB          x + [1x1 to half the channels, ReLU, 3x3, ReLU, 1x1](x)
    attention   x + [3 RB](x) * sigmoid([3 RB, 1x1](x))             (Cheng et al. 2020, simplified)

ELIC's entropy model (uneven groups, checkerboard) is not here.
"""

from collections.abc import Sequence
from typing import Any

from common.transforms.composites import Gated, Residual, Transform
from common.transforms.layers import conv, deconv


class ElicAnalysis(Transform):
    """Image [B, H, W, 3] -> y [B, H/16, W/16, channels[-1]].

    Args:
      channels: outputs of the four strided layers; (192, 192, 192, 320) in the paper.
      align: how the strided layers' kernels lie, see `layers.conv`.
    """

    stride = 16

    def __init__(self, channels: Sequence[int] = (192, 192, 192, 320), align: str = "centre"):
        first, second, third, last = channels
        halving: dict[str, Any] = dict(kernel=5, stride=2, align=align)
        super().__init__([
            conv(first, **halving), *_bottlenecks(first),
            conv(second, **halving), *_bottlenecks(second), _attention(second),
            conv(third, **halving), *_bottlenecks(third),
            conv(last, **halving), _attention(last),
        ], out_channels=last)


class ElicSynthesis(Transform):
    """y [B, h, w, latents] -> image [B, 16 h, 16 w, channels[-1]].

    Args:
      channels: outputs of the four strided layers.
      latents: channels of y, which the first attention keeps.
    """

    stride = 16

    def __init__(self, channels: Sequence[int] = (192, 192, 192, 3), latents: int = 320):
        first, second, third, last = channels
        super().__init__([
            _attention(latents), deconv(first, 5, stride=2),
            *_bottlenecks(first), deconv(second, 5, stride=2),
            _attention(second), *_bottlenecks(second), deconv(third, 5, stride=2),
            *_bottlenecks(third), deconv(last, 5, stride=2),
        ], out_channels=last)


def _bottlenecks(channels):
    return [Residual([conv(channels // 2, 1, activation="relu"),
                      conv(channels // 2, 3, activation="relu"),
                      conv(channels, 1)]) for _ in range(3)]


def _attention(channels):
    mask = [*_bottlenecks(channels), conv(channels, 1, activation="sigmoid")]
    return Residual([Gated(_bottlenecks(channels), mask)])
