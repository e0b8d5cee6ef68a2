"""Image transforms of Ballé et al. 2018 (section 4) and Minnen et al. 2018 (table 1).

    analysis    image   4 x [5x5 /2], GDN between    y  (1/16 of the image's sides)
    synthesis   y       4 x [5x5 x2], IGDN between   image

Both papers use these; Ballé et al. write N for the inner widths and M for the latent's. Yang &
Mandt 2023 compare with the same layers and other activations.
"""

from common.transforms.layers import Transform, conv, deconv


class CNNAnalysis(Transform):
    """Image [B, H, W, 3] -> y [B, H/s, W/s, channels[-1]], with s = 2^len(channels).

    Args:
      channels: outputs of the layers.
      activation: name of the activation between them; each layer has its own.
      align: how the kernels lie, see `layers.conv`.
    """

    def __init__(self, channels=(192, 192, 192, 320), activation="leaky_relu", align="centre"):
        *inner, last = channels
        super().__init__(
            [conv(c, 5, stride=2, activation=activation, align=align) for c in inner]
            + [conv(last, 5, stride=2, align=align)], out_channels=last)
        self.stride = 2**len(channels)


class CNNSynthesis(Transform):
    """y [B, h, w, C] -> image [B, s h, s w, channels[-1]], with s = 2^len(channels).

    Args:
      channels: outputs of the layers.
      activation: name of the activation between them; each layer has its own.
      align: how the kernels lie, see `layers.deconv`.
    """

    def __init__(self, channels=(192, 192, 192, 3), activation="leaky_relu", align="centre"):
        *inner, last = channels
        super().__init__(
            [deconv(c, 5, stride=2, activation=activation, align=align) for c in inner]
            + [deconv(last, 5, stride=2, align=align)], out_channels=last)
        self.stride = 2**len(channels)


class MBT2018Analysis(CNNAnalysis):
    """Image [B, H, W, 3] -> y [B, H/s, W/s, channels[-1]], with s = 2^len(channels).

    Args:
      channels: outputs of the layers, (N, N, N, M) in the papers.
    """

    def __init__(self, channels=(192, 192, 192, 192)):
        super().__init__(channels, activation="gdn")


class MBT2018Synthesis(CNNSynthesis):
    """y [B, h, w, M] -> image [B, s h, s w, 3], with s = 2^len(channels).

    Args:
      channels: outputs of the layers, (N, N, N, 3) in the papers.
    """

    def __init__(self, channels=(192, 192, 192, 3)):
        super().__init__(channels, activation="igdn")
