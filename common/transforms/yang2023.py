"""Shallow decoders of Yang & Mandt 2023, "Computationally-efficient neural image compression".

A strong analysis (ELIC's) makes up for a synthesis of one or two layers, which costs 50 to 200
times less:

    JPEGLikeSynthesis      y   18x18 x16                                             image
    TwoLayerSynthesis      y   13x13 x8, IGDN                              5x5 x2    image
    TwoLayerResSynthesis   y   13x13 x8, IGDN  +  (13x13 x8, or 1x1 and    5x5 x2    image
                                                   depth to space)

The paper compares with the four 5x5 layers of Minnen et al. 2018 with other activations, which are
CNNAnalysis and CNNSynthesis of mbt2018.py.
"""

from collections.abc import Sequence

from common.transforms.composites import Sum, Transform
from common.transforms.dct import InverseDCT
from common.transforms.layers import AppendOnes, DepthToSpace, conv, deconv


class JPEGLikeSynthesis(Transform):
    """y [B, h, w, C] -> image [B, stride h, stride w, channels]: blocks that overlap a little.

    A linear combination of C basis images, as the inverse DCT of JPEG is.

    Args:
      channels: of the image.
      kernel: rows and columns of a basis image.
      stride: distance of the blocks.
      use_offset: give the sum a constant basis image too, in place of one bias a channel.
    """

    def __init__(self, channels: int = 3, kernel: int = 18, stride: int = 16,
                 use_offset: bool = False):
        basis = deconv(channels, kernel, stride=stride, use_bias=not use_offset)
        super().__init__([AppendOnes(), basis] if use_offset else [basis], out_channels=channels)
        self.stride = stride


class TwoLayerSynthesis(Transform):
    """y [B, h, w, C] -> image [B, s h, s w, channels[-1]], with s the product of the strides.

    Args:
      channels: outputs of both layers; the first is 12, 24 or 48 in the paper.
      strides, kernels: of both layers.
      activation: between them.
      align: how the kernels lie, see `layers.deconv`.
    """

    def __init__(self, channels: Sequence[int] = (12, 3), strides: Sequence[int] = (8, 2),
                 kernels: Sequence[int] = (13, 5), activation: str = "igdn",
                 align: str = "centre"):
        (hidden, last), (first, second) = channels, strides
        super().__init__([
            deconv(hidden, kernels[0], stride=first, activation=activation, align=align),
            deconv(last, kernels[1], stride=second, align=align),
        ], out_channels=last)
        self.stride = first * second


class TwoLayerResSynthesis(Transform):
    """`TwoLayerSynthesis` whose hidden layer has a linear path around the activation.

    Args:
      channels: outputs of both layers.
      strides, kernels: of both layers; residual "d2s" needs strides[0] = 8.
      activation: of the first layer.
      residual: "conv", another transposed convolution; or "d2s", three times depth to space with
        1x1 convolutions between, for y of 4 n channels.
      align: how the kernels lie, see `layers.deconv`.
      dct: whether the inverse of the cosine transform is added (common/transforms/dct.py), for an
        analysis that has it.
    """

    def __init__(self, channels: Sequence[int] = (12, 3), strides: Sequence[int] = (8, 2),
                 kernels: Sequence[int] = (13, 5), activation: str = "igdn",
                 residual: str = "conv", align: str = "centre", dct: bool = False):
        (hidden, last), (first, second) = channels, strides
        if residual == "conv":
            linear = [deconv(hidden, kernels[0], stride=first, align=align)]
        elif residual == "d2s" and first == 8:
            linear = [DepthToSpace(2), conv(16 * hidden, 1),
                      DepthToSpace(2), conv(4 * hidden, 1), DepthToSpace(2)]
        else:
            raise ValueError(f"residual '{residual}' with stride {first}; use 'conv', or 'd2s' "
                             "with stride 8")
        super().__init__([
            Sum([deconv(hidden, kernels[0], stride=first, activation=activation, align=align)],
                linear),
            deconv(last, kernels[1], stride=second, align=align,
                   kernel_initializer="zeros" if dct else "variance_scaling"),
        ], out_channels=last, linear=InverseDCT() if dct else None)
        self.stride = first * second


class HyperAnalysisSmall(Transform):
    """y [B, h, w, M] -> z [B, h/2, w/2, channels[-1]], for images of 32 x 32 pixels.

    Args:
      channels: outputs of the two layers.
      activation: between them.
    """

    stride = 2

    def __init__(self, channels: Sequence[int] = (192, 192), activation: str = "relu"):
        first, last = channels
        super().__init__([
            conv(first, 3, activation=activation),
            conv(last, 5, stride=2, use_bias=False),
        ], out_channels=last)


class HyperSynthesisSmall(Transform):
    """z [B, h, w, C] -> parameters of y [B, 2 h, 2 w, channels[-1]], for images of 32 x 32 pixels.

    Args:
      channels: outputs of the two layers; (3/2 M, 2 M) in the paper's code.
      activation: between them.
    """

    stride = 2

    def __init__(self, channels: Sequence[int] = (288, 384), activation: str = "relu"):
        first, last = channels
        super().__init__([
            deconv(first, 5, stride=2, activation=activation),
            deconv(last, 3),
        ], out_channels=last)


class JPEGLikeHyperSynthesis(Transform):
    """z [B, h, w, C] -> parameters of y [B, 4 h, 4 w, channels]: one linear layer.

    An eighth of the cost of the three layers of `HyperSynthesis`, which is the larger part of
    decoding with the syntheses above.

    Args:
      channels: 2 M for means and scales.
      kernel: rows and columns of the kernel.
    """

    stride = 4

    def __init__(self, channels: int = 640, kernel: int = 6):
        super().__init__([deconv(channels, kernel, stride=4)], out_channels=channels)
