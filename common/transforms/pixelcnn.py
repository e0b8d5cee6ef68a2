"""Deep context networks: more of the decoded latent than one masked convolution sees.

    MaskedStack     van den Oord et al. 2016: masked convolutions, the first without its centre
    GatedContext    Salimans et al. 2017 (PixelCNN++): two streams of gated residual blocks

The two streams are made of shifted convolutions, which need no masks:

    down          sees the rows above         kernels 2x3: this row of the layer before, to both
                                              sides, and the row above
    down-right    sees all that is before     kernels 2x2: to the left and above

                  down    ── first ──► block ───────► block ─── ...
             ŷ ──►                      │              │
                  d.-r.   ── first ──► block ───────► block ─── ... ──► ELU, 1x1 ──► phi

Here every layer keeps the size of y, and no output depends on its own position: only the first
layers see y, and their taps exclude it.
"""

from collections.abc import Sequence

import tensorflow as tf

from common.transforms.composites import Transform
from common.transforms.layers import ConcatElu, ShiftedConv


class MaskedStack(Transform):
    """y [B, h, w, M] -> phi [B, h, w, channels[-1]], from earlier positions.

    Args:
      channels: outputs of the layers.
      first_kernel: rows and columns of the first kernel, odd; its centre is masked.
      kernel: of the other layers, whose centre is not.
      activation: name of the activation between them.
    """

    stride = 1

    def __init__(self, channels: Sequence[int] = (192, 192, 384), first_kernel: int = 5,
                 kernel: int = 3, activation: str = "elu"):
        def masked(filters, size, last, activation):
            return ShiftedConv(
                filters, (size, size), (-(size // 2), -(size // 2)), last, activation)

        first, *middle, final = channels
        super().__init__([
            masked(first, first_kernel, (0, -1), activation),
            *(masked(c, kernel, (0, 0), activation) for c in middle),
            masked(final, kernel, (0, 0), None),
        ], out_channels=final)


class GatedContext(tf.keras.Model):
    """y [B, h, w, latents] -> phi [B, h, w, channels], from earlier positions.

    Args:
      latents: channels of y.
      width: channels of both streams.
      blocks: gated residual blocks in each stream.
      channels: outputs.
    """

    stride = 1

    def __init__(self, latents: int = 192, width: int = 96, blocks: int = 2, channels: int = 384):
        y = tf.keras.Input([None, None, latents])
        down = ShiftedConv(width, (2, 3), (-2, -1))(y)
        right = tf.keras.layers.Add()([
            ShiftedConv(width, (1, 3), (-1, -1))(y),
            ShiftedConv(width, (2, 1), (-1, -1))(y)])
        for _ in range(blocks):
            down = _gated_residual(down, None, (2, 3), (-1, -1))
            right = _gated_residual(right, down, (2, 2), (-1, -1))
        phi = _pointwise(channels)(tf.keras.layers.Activation("elu")(right))
        # In float32 under mixed precision, as the outputs of all transforms.
        super().__init__(y, tf.keras.layers.Activation("linear", dtype="float32")(phi))
        self.out_channels = channels


def _gated_residual(x, other, kernel, origin):
    """x + a * sigmoid(b), where a and b see x through two convolutions, and `other` by 1x1."""
    width = x.shape[-1]

    def shifted():
        return ShiftedConv(width, kernel, origin)

    hidden = shifted()(ConcatElu()(x))
    if other is not None:
        hidden = tf.keras.layers.Add()([hidden, _pointwise(width)(ConcatElu()(other))])
    hidden = ConcatElu()(hidden)
    gate = tf.keras.layers.Activation("sigmoid")(shifted()(hidden))
    return tf.keras.layers.Add()([x, tf.keras.layers.Multiply()([shifted()(hidden), gate])])


def _pointwise(filters):
    return ShiftedConv(filters, (1, 1), (0, 0))
