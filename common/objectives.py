"""What training and iterative inference minimise."""

import math

import tensorflow as tf

from common import images
from common.model import Generated


def rate_distortion(x: tf.Tensor, generated: Generated, rd_lambda, *,
                    eight_bit: bool = False) -> dict[str, tf.Tensor]:
    """The loss  bpp + rd_lambda * MSE  and its parts, means over the batch.

    Rates are in bits per pixel of `x`, MSE is on the 0..255 scale, everything in float32.

    Args:
      x: original, float32 [B, H, W, 3] in [0, 1].
      generated: from `Model.generate`; its image may be larger than `x` and is cropped.
      rd_lambda: weight of the distortion; float or scalar tensor.
      eight_bit: measure on images rounded to 8 bits, as in evaluation. Has no gradient.

    Returns:
      Scalars: rd_loss, bpp, bpp_<latent> for each latent, mse, psnr (of the mean MSE, in dB).
    """
    x_hat = images.crop_to(generated.x_hat, x)
    if eight_bit:
        x, x_hat = (tf.cast(images.to_uint8(image), tf.float32) / 255.0 for image in (x, x_hat))
    pixels = tf.cast(tf.shape(x)[1] * tf.shape(x)[2], tf.float32)
    mse = tf.reduce_mean(tf.square(tf.cast(x_hat, tf.float32) - x)) * 255.0**2
    rates = {f"bpp_{name}": tf.reduce_mean(tf.cast(bits, tf.float32)) / pixels
             for name, bits in generated.bits.items()}
    bpp = tf.add_n(list(rates.values()))
    psnr = 10 / math.log(10) * tf.math.log(255.0**2 / tf.maximum(mse, 1e-12))
    return {"rd_loss": bpp + rd_lambda * mse, "bpp": bpp, **rates, "mse": mse, "psnr": psnr}
