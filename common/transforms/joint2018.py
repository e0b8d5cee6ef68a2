"""Context and entropy-parameter networks of Minnen et al. 2018 (table 1).

    context              decoded y   masked 5x5, linear                    phi
    entropy parameters   [phi, psi]  1x1   1x1   1x1, leaky ReLU between   parameters of p(y)

psi is what the hyper-synthesis makes of z. With M channels of y, phi and psi have 2 M.
"""

from common.transforms.layers import ShiftedConv, Transform, conv


class MaskedContext(Transform):
    """y [B, h, w, M] -> phi [B, h, w, channels]; at each position of those before it only.

    Args:
      channels: outputs, 2 M in the paper.
      kernel: rows and columns of the kernel, odd. The taps from the centre on are masked.
    """

    stride = 1

    def __init__(self, channels=384, kernel=5):
        super().__init__([
            ShiftedConv(channels, (kernel, kernel), (-(kernel // 2), -(kernel // 2)),
                        last=(0, -1)),
        ], out_channels=channels)


class EntropyParameters(Transform):
    """[phi, psi] [B, h, w, C] -> parameters of y [B, h, w, channels[-1]], position by position.

    Args:
      channels: outputs of the layers; (10/3 M, 8/3 M, 2 M) in the paper.
      activation: name of the activation between them.
    """

    stride = 1

    def __init__(self, channels=(640, 512, 384), activation="leaky_relu"):
        *inner, last = channels
        super().__init__(
            [conv(c, 1, activation=activation) for c in inner] + [conv(last, 1)],
            out_channels=last)
