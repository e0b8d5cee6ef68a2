"""Transforms of Ballé et al. 2017, "End-to-end optimized image compression": 9x9 and 5x5 GDN.

    analysis    image  9x9 /4, GDN   5x5 /2, GDN   5x5 /2   y  (1/16 of the image's sides)
    synthesis   y   5x5 x2, IGDN   5x5 x2, IGDN   9x9 x4    image

As in tensorflow-compression's bls2017 example: the paper has a GDN at y on either side too.
"""

from collections.abc import Sequence

from common.transforms.composites import Transform
from common.transforms.layers import conv, deconv


class BLS2017Analysis(Transform):
    """Image [B, H, W, 3] -> y [B, H/16, W/16, channels[-1]].

    Args:
      channels: outputs of the three layers; the paper uses (256, 256, 256) at high rates.
    """

    stride = 16

    def __init__(self, channels: Sequence[int] = (256, 256, 256)):
        first, second, last = channels
        super().__init__([
            conv(first, 9, stride=4, activation="gdn"),
            conv(second, 5, stride=2, activation="gdn"),
            conv(last, 5, stride=2, use_bias=False),
        ], out_channels=last)


class BLS2017Synthesis(Transform):
    """y [B, h, w, C] -> image [B, 16 h, 16 w, 3].

    Args:
      channels: outputs of the three layers.
    """

    stride = 16

    def __init__(self, channels: Sequence[int] = (256, 256, 3)):
        first, second, last = channels
        super().__init__([
            deconv(first, 5, stride=2, activation="igdn"),
            deconv(second, 5, stride=2, activation="igdn"),
            deconv(last, 9, stride=4),
        ], out_channels=last)
