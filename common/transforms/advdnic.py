"""Transforms of advDNIC (github.com/fl0wbar/advDNIC): mobile blocks, sub-pixels, attention.

Between image and y, all with a stride of 16:

    base   that of Ballé et al. 2018, `MBT2018Analysis` and `MBT2018Synthesis`
    Mod1   base, and an MBConv block after each of its GDNs
    Mod2   a chain of MBConv blocks in the widths of EfficientNet-B0, with GDN
    Mod3   the same with swish, batch normalisation and sub-pixel up-sampling
    Mod4   base's analysis; sub-pixel convolutions with IGDN for the synthesis
    Nlaic  strided skips from every scale to y, non-local attention, a dual path; Mish in the
           hyper transforms

`variant 1` to `4` of advDNIC are these with one of its entropy models:

    variant 1      base, scale hyperprior   mshyper/configs/advdnic_variant1.py
    mod 1 to 4     the others with it       mshyper/configs/advdnic_mod1.py to advdnic_mod4.py
    variant 2      base, mean and scale     mshyper/configs/advdnic_variant2.py
    variant 3      base, deep context       joint_ar/configs/advdnic_variant3.py
    variant 3_old  base, plain PixelCNN     joint_ar/configs/advdnic_variant3_old.py
    variant 4      Nlaic, deep context      joint_ar/configs/advdnic_variant4.py

The published code does not run as it is (layers made in every call, contexts that see the symbol
they predict, batch normalisation that never uses its averages, paths that fit for one width only).
These classes are what it describes, for any width and image size. They depart from the code in
that

* attention works within windows, and all padding is with zeros (Mod4 and Nlaic's hyper-analysis
  reflect at the border);
* batch normalisation comes before the activation, and GDN instead of its inverse in Mod2's
  analysis; its depthwise convolutions have no bias;
* the hyper-analysis sees y, not |y|, wherever means are predicted;
* variants 3 and 4 predict means and scales with one linear layer, from contexts that are causal,
  in one pass.
"""

import functools
from collections.abc import Sequence

import tensorflow as tf

from common.transforms.attention import DualPath, nlam, non_local
from common.transforms.composites import Branches, Transform
from common.transforms.layers import GDN, EverySecondChannel, conv, deconv, subpixel
from common.transforms.mbconv import batch_norm, mbconv

# Channels, kernel and stride of the blocks, for y of 192 channels; EfficientNet-B0's first five
# stages, twice a stage.
_DOWN = ((16, 3, 1), (16, 3, 1), (24, 3, 2), (24, 3, 1), (40, 5, 2), (40, 5, 1),
         (80, 3, 2), (80, 3, 1), (112, 5, 1), (112, 5, 1), (192, 3, 1))
_UP = ((112, 3, 1), (112, 5, 1), (80, 5, 1), (80, 3, 1), (40, 3, 2), (40, 5, 1),
       (24, 3, 2), (24, 3, 1), (16, 3, 2), (16, 3, 1), (32, 3, 1))
_STEM = 32


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


def _chain(inputs, stages, width, block):
    """block(inputs, filters, kernel, stride) of every stage, widths scaled."""
    layers = []
    for filters, kernel, stride in stages:
        filters = _scaled(filters, width)
        layers.append(block(inputs, filters, kernel, stride))
        inputs = filters
    return layers


def _quarter(channels: int) -> int:
    if channels < 4:
        raise ValueError(f"channels are {channels}; need at least 4")
    return channels // 4


class AdvDNICMod1Analysis(Transform):
    """Image [B, H, W, 3] -> y [B, H/16, W/16, channels[-1]].

    Args:
      channels: outputs of the four strided layers, all N in advDNIC.
    """

    stride = 16

    def __init__(self, channels: Sequence[int] = (192, 192, 192, 192)):
        *inner, last = channels
        layers = []
        for c in inner:
            layers += [conv(c, 5, stride=2, activation="gdn"), mbconv(c, c)]
        super().__init__([*layers, conv(last, 5, stride=2)], out_channels=last)


class AdvDNICMod1Synthesis(Transform):
    """y [B, h, w, C] -> image [B, 16 h, 16 w, channels[-1]].

    Args:
      channels: outputs of the four strided layers, (N, N, N, 3) in advDNIC.
    """

    stride = 16

    def __init__(self, channels: Sequence[int] = (192, 192, 192, 3)):
        *inner, last = channels
        layers = []
        for c in inner:
            layers += [deconv(c, 5, stride=2, activation="igdn"), mbconv(c, c)]
        super().__init__([*layers, deconv(last, 5, stride=2)], out_channels=last)


class AdvDNICMod2Analysis(Transform):
    """Image [B, H, W, 3] -> y [B, H/16, W/16, channels].

    Blocks that down-sample do so with full 2x2 convolutions.

    Args:
      channels: of y; the widths before grow with it, and are advDNIC's at 192.
    """

    stride = 16

    def __init__(self, channels: int = 192):
        def block(inputs, filters, kernel, stride):
            return mbconv(
                inputs, filters, kernel, activation="gdn", normalize=True,
                spatial=tf.keras.layers.Conv2D(inputs, 2, 2, "same") if stride > 1 else None)

        width = channels / 192
        stem = _scaled(_STEM, width)
        super().__init__([
            conv(_scaled(16, width), 3, activation="gdn"),
            conv(stem, 3, stride=2, activation="gdn"),
            *_chain(stem, _DOWN, width, block),
            conv(channels, 5),
        ], out_channels=channels)


class AdvDNICMod2Synthesis(Transform):
    """y [B, h, w, C] -> image [B, 16 h, 16 w, 3].

    IGDN follows up-sampling, GDN the other convolutions. (In advDNIC it is IGDN everywhere. It
    squares large values, and ten in a row overflow.)

    Args:
      channels: of y; the widths after grow with it, and are advDNIC's at 192.
    """

    stride = 16

    def __init__(self, channels: int = 192):
        def block(inputs, filters, kernel, up):
            own = (dict(activation="igdn", spatial=deconv(inputs, 2, stride=2)) if up > 1
                   else dict(activation="gdn"))
            return mbconv(inputs, filters, kernel, gate_activation="gdn", normalize=True, **own)

        width = channels / 192
        super().__init__([
            conv(channels, 5), *_chain(channels, _UP, width, block),
            deconv(_scaled(_STEM, width), 3, stride=2, activation="igdn"),
            deconv(_scaled(16, width), 3, activation="igdn"),
            deconv(3, 3),
        ], out_channels=3)


class AdvDNICMod3Analysis(Transform):
    """Image [B, H, W, 3] -> y [B, H/16, W/16, channels].

    Args:
      channels: of y; the widths before grow with it, and are advDNIC's at 192.
    """

    stride = 16

    def __init__(self, channels: int = 192):
        width = channels / 192
        stem = _scaled(_STEM, width)
        super().__init__([
            conv(stem, 3, stride=2, use_bias=False), *batch_norm(),
            tf.keras.layers.Activation("swish"),
            *_chain(stem, _DOWN, width, functools.partial(mbconv, normalize=True)),
            conv(channels, 5),
        ], out_channels=channels)


class AdvDNICMod3Synthesis(Transform):
    """y [B, h, w, C] -> image [B, 16 h, 16 w, 3].

    Args:
      channels: of y; the widths after grow with it, and are advDNIC's at 192.
    """

    stride = 16

    def __init__(self, channels: int = 192):
        def block(inputs, filters, kernel, up):
            return mbconv(
                inputs, filters, kernel, normalize=True,
                spatial=subpixel(inputs, activation="leaky_relu") if up > 1 else None)

        width = channels / 192
        super().__init__([
            conv(channels, 5), *_chain(channels, _UP, width, block),
            subpixel(_scaled(_UP[-1][0], width), activation="leaky_relu"),
            conv(_scaled(_STEM, width), 3, use_bias=False), *batch_norm(),
            tf.keras.layers.Activation("swish"), conv(3, 3),
        ], out_channels=3)


class AdvDNICMod4Synthesis(Transform):
    """y [B, h, w, C] -> image [B, 16 h, 16 w, channels[-1]]; its analysis is `MBT2018Analysis`.

    Args:
      channels: outputs of the four layers, (N, N, N, 3) in advDNIC.
    """

    stride = 16

    def __init__(self, channels: Sequence[int] = (192, 192, 192, 3)):
        *inner, last = channels
        layers = []
        for c in inner:
            layers += [subpixel(c, 3), GDN(inverse=True)]
        super().__init__([*layers, subpixel(last, 3)], out_channels=last)


class AdvDNICNlaicAnalysis(Transform):
    """Image [B, H, W, 3] -> y [B, H/16, W/16, channels].

                    ┌──────── 3x3 /8 ──────────────────────────────────┐
        3x3 /2, GDN ┤                ┌──────── 3x3 /4 ─────────────────┤
                    └── 3x3 /2, GDN ─┤                     ┌── 3x3 /2 ─┤ concatenated,
                                     └ NLAM, 3x3 /2, GDN ──┤           │ non-local, 1x1   y
                                                           └── 3x3 /2 ─┘
                                                               NLAM

    Args:
      channels: N.
      window: side of the attention's windows.
    """

    stride = 16

    def __init__(self, channels: int = 128, window: int = 16):
        half, wide = channels // 2, 3 * channels // 4
        skip_8, skip_4, skip_2 = half, half, _quarter(channels)
        deepest = [conv(channels, 3, stride=2), nlam(channels, window)]
        deeper = [nlam(half, window), conv(wide, 3, stride=2, activation="gdn"),
                  Branches([conv(skip_2, 3, stride=2)], deepest)]
        deep = [conv(half, 3, stride=2, activation="gdn"),
                Branches([conv(skip_4, 3, stride=4)], deeper)]
        super().__init__([
            conv(half, 3, stride=2, activation="gdn"),
            Branches([conv(skip_8, 3, stride=8)], deep),
            non_local(skip_8 + skip_4 + skip_2 + channels, window),
            conv(channels, 1),
        ], out_channels=channels)


class AdvDNICNlaicSynthesis(Transform):
    """y [B, h, w, C] -> image [B, 16 h, 16 w, 3].

    advDNIC multiplies the two paths of the dual path block, which only fits N = 128; here a 1x1
    convolution combines them, as in the published networks.

    Args:
      channels: N.
      window: side of the attention's windows.
    """

    stride = 16

    def __init__(self, channels: int = 128, window: int = 16):
        wide = 3 * channels // 4
        super().__init__([
            DualPath(channels), conv(channels, 1),
            non_local(channels, window), nlam(channels, window),
            deconv(channels, 3, stride=2, activation="igdn"),
            deconv(wide, 3, stride=2, activation="igdn"),
            nlam(wide, window),
            deconv(channels // 2, 3, stride=2, activation="igdn"),
            deconv(3, 3, stride=2),
        ], out_channels=3)


class AdvDNICNlaicHyperAnalysis(Transform):
    """y [B, h, w, C] -> z [B, h/4, w/4, channels], with a skip from each of its layers.

    Args:
      channels: N.
    """

    stride = 4

    def __init__(self, channels: int = 128):
        quarter, half, wide = _quarter(channels), channels // 2, 3 * channels // 4
        third = [mbconv(half, half, activation="mish"), Branches(
            [EverySecondChannel(), conv(half, 3, stride=2)],
            [conv(wide, 3, stride=2)])]
        second = [mbconv(quarter, half, stride=2, activation="mish"),
                  tf.keras.layers.Activation("mish"), Branches([conv(half, 3, stride=2)], third)]
        super().__init__([
            conv(quarter, 3, use_bias=False, activation="mish"),
            Branches([conv(half, 3, stride=4)], second),
            conv(channels, 3, use_bias=False),
        ], out_channels=channels)


class AdvDNICNlaicHyperSynthesis(Transform):
    """z [B, h, w, C] -> psi [B, 4 h, 4 w, 2 channels].

    Args:
      channels: N.
    """

    stride = 4

    def __init__(self, channels: int = 128):
        more = 3 * channels // 2
        super().__init__([
            conv(channels, 3),
            subpixel(channels, activation="leaky_relu"), tf.keras.layers.Activation("mish"),
            mbconv(channels, more, activation="mish"),
            mbconv(more, 2 * channels, activation="mish",
                   spatial=subpixel(more, activation="leaky_relu")),
            conv(2 * channels, 3),
        ], out_channels=2 * channels)
