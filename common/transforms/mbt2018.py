"""Transforms of Ballé et al. 2018 (section 4) and of Minnen et al. 2018 (table 1), alike in most.

    analysis             image       4 x [5x5 /2], GDN between             y  (1/16 of its sides)
    synthesis            y           4 x [5x5 x2], IGDN between            image
    hyper-analysis       y           3x3   5x5 /2   5x5 /2                 z  (1/4 of y's sides)
    hyper-synthesis      z           5x5 x2   5x5 x2   3x3                 psi
    context              decoded y   masked 5x5, linear                    phi
    entropy parameters   [phi, psi]  1x1   1x1   1x1, leaky ReLU between   parameters of p(y)

Without a context, which only Minnen et al. have, psi is the parameters of p(y | z). With M channels
of y, phi and psi have 2 M.

Ballé et al. write N for the inner widths and M for the latent's. In the hyper transforms they use
ReLU and N channels throughout, and predict scales; Minnen et al. use leaky ReLU and widths M, 3M/2,
2M in the hyper-synthesis, which predicts means and scales. Yang & Mandt 2023 compare with the same
layers of the image transforms and other activations.
"""

from collections.abc import Sequence
from typing import Any

from common.transforms.composites import Transform
from common.transforms.layers import LastChannels, ShiftedConv, conv, deconv


class CNNAnalysis(Transform):
    """Image [B, H, W, 3] -> y [B, H/s, W/s, channels[-1]], with s = 2^len(channels).

    Args:
      channels: outputs of the layers.
      activation: name of the activation between them; each layer has its own.
      align: how the kernels lie, see `layers.conv`.
    """

    def __init__(self, channels: Sequence[int] = (192, 192, 192, 320),
                 activation: str = "leaky_relu", align: str = "centre"):
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

    def __init__(self, channels: Sequence[int] = (192, 192, 192, 3),
                 activation: str = "leaky_relu", align: str = "centre"):
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

    def __init__(self, channels: Sequence[int] = (192, 192, 192, 192)):
        super().__init__(channels, activation="gdn")


class MBT2018Synthesis(CNNSynthesis):
    """y [B, h, w, M] -> image [B, s h, s w, 3], with s = 2^len(channels).

    Args:
      channels: outputs of the layers, (N, N, N, 3) in the papers.
    """

    def __init__(self, channels: Sequence[int] = (192, 192, 192, 3)):
        super().__init__(channels, activation="igdn")


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
    float32 = (-1,)

    def __init__(self, channels: Sequence[int] = (192, 192, 192), activation: str = "relu",
                 last_bias: bool = True, align: str = "centre", padding: str = "zeros"):
        first, second, last = channels
        strided: dict[str, Any] = dict(stride=2, align=align, padding=padding)
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
    float32 = ()

    def __init__(self, channels: Sequence[int] = (192, 288, 384), activation: str = "relu",
                 align: str = "centre"):
        first, second, last = channels
        super().__init__([
            deconv(first, 5, stride=2, activation=activation, align=align),
            deconv(second, 5, stride=2, activation=activation, align=align),
            deconv(last, 3, align=align),
        ], out_channels=last)


class MaskedContext(Transform):
    """y [B, h, w, M] -> phi [B, h, w, channels]; at each position of those before it only.

    Args:
      channels: outputs, 2 M in the paper.
      kernel: rows and columns of the kernel, odd. The taps from the centre on are masked.
    """

    stride = 1
    float32 = ()

    def __init__(self, channels: int = 384, kernel: int = 5):
        super().__init__([
            ShiftedConv(channels, (kernel, kernel), (-(kernel // 2), -(kernel // 2)),
                        last=(0, -1)),
        ], out_channels=channels)


class EntropyParameters(Transform):
    """[phi, psi] [B, h, w, C] -> parameters of y [B, h, w, channels[-1]], position by position.

    Args:
      channels: outputs of the layers; (10/3 M, 8/3 M, 2 M) in the paper.
      activation: name of the activation between them.
      add_psi: add psi, which then has channels[-1] channels, to the output. The last layer starts
        at zero, so a model warm-started from a mean-scale hyperprior begins with its parameters.
    """

    stride = 1
    float32 = ()

    def __init__(self, channels: Sequence[int] = (640, 512, 384), activation: str = "leaky_relu",
                 add_psi: bool = False):
        *inner, last = channels
        super().__init__(
            [*(conv(c, 1, activation=activation) for c in inner),
             conv(last, 1, kernel_initializer="zeros" if add_psi else "variance_scaling")],
            out_channels=last, linear=LastChannels(last) if add_psi else None)
