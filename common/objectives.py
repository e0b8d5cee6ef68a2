"""Losses of training and of refinement."""

import dataclasses
import math

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

from common import arguments, images, lpips, metrics, padding
from common.errors import UserError
from common.model import Codec, Generated

DISTORTIONS = ("mse", "ms_ssim")

# Wang, Simoncelli, Bovik 2003: weights of the five scales, the window, the constants (for 0..1).
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
_C1, _C2 = 0.01**2, 0.03**2

# Similarities may be negative, and near 0 their powers have gradients without bound.
_LEAST_SIMILARITY = 1e-3


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss of a training; called, it is `rate_distortion`.

    Attributes:
      rd_lambda: that of a model of one rate; one with levels has its own.
      distortion, lpips_weight: as in `per_image`.
    """

    rd_lambda: float | None
    distortion: str = "mse"
    lpips_weight: float = 0.0

    def __call__(self, x: tf.Tensor, generated: Generated, rd_lambda: float | tf.Tensor, **options
                 ) -> dict[str, tf.Tensor]:
        return rate_distortion(x, generated, rd_lambda, distortion=self.distortion,
                               lpips_weight=self.lpips_weight, **options)

    def weights(self, codec: Codec, level: tf.Tensor | None) -> tuple:
        """Lambda, and the weight of an image among others, of images at levels [B] or None."""
        if level is None or codec.levels is None:
            return self.rd_lambda, 1.0
        return codec.levels.rd_lambda(level), codec.levels.weight(level)

    def metrics(self, codec: Codec) -> list[str]:
        """The names of what is measured of a codec."""
        blank = tf.zeros([1, metrics.MS_SSIM_MIN_SIDE, metrics.MS_SSIM_MIN_SIDE, 3])
        generated = codec(blank[:, :64, :64])._replace(x_hat=blank)
        return list(self(blank, generated, 1.0))


def rate_distortion(x: tf.Tensor, generated: Generated, rd_lambda: float | tf.Tensor, **options
                    ) -> dict[str, tf.Tensor]:
    """Means over the batch of what `per_image` returns."""
    return {name: tf.reduce_mean(value)
            for name, value in per_image(x, generated, rd_lambda, **options).items()}


def per_image(x: tf.Tensor, generated: Generated, rd_lambda: float | tf.Tensor, *,
              distortion: str = "mse", rate_weight: float | tf.Tensor = 1.0,
              lpips_weight: float = 0.0, weight: float | tf.Tensor = 1.0, eight_bit: bool = False
              ) -> dict[str, tf.Tensor]:
    """The loss and its parts,

        weight * (rate_weight * bpp + rd_lambda * distortion + lpips_weight * LPIPS).

    Rates are in bits per pixel of `x`, MSE is on the 0..255 scale, everything in float32.

    Args:
      x: original, float32 [B, H, W, 3] in [0, 1].
      generated: from `Codec.generate`; its image may be larger than `x` and is cropped.
      rd_lambda: weight of the distortion; a float, or a tensor [] or [B].
      distortion: "mse", or "ms_ssim" for 1 - MS-SSIM.
      rate_weight: see above; float or scalar tensor.
      lpips_weight: see above. If it is 0, LPIPS is not measured.
      weight: of an image among others; a float, or a tensor [B].
      eight_bit: measure on images rounded to 8 bits, as in evaluation. Has no gradient.

    Returns:
      [B] each: rd_loss, bpp, bpp_<latent> for each latent, mse, psnr in dB, and ms_ssim and lpips
      if they are parts of the loss.

    Raises:
      UserError: there is no such distortion, or LPIPS has no weights here.
    """
    if distortion not in DISTORTIONS:
        raise arguments.unknown("distortion", distortion, DISTORTIONS)
    x_hat = padding.crop_to(generated.x_hat, x)
    if eight_bit:
        x, x_hat = (tf.cast(images.to_uint8(image), tf.float32) / 255.0 for image in (x, x_hat))
    x_hat = tf.cast(x_hat, tf.float32)
    rates = bits_per_pixel(x, generated.bits)
    mse = tf.reduce_mean(tf.square(x_hat - x), axis=(1, 2, 3)) * 255.0**2
    measured = {"bpp": tf.add_n(list(rates.values())), **rates, "mse": mse, "psnr": _psnr(mse)}
    loss = rate_weight * measured["bpp"]
    if distortion == "mse":
        loss += rd_lambda * mse
    else:
        measured["ms_ssim"] = ms_ssim(x, x_hat)
        loss += rd_lambda * (1 - measured["ms_ssim"])
    if lpips_weight:
        measured["lpips"] = lpips.network()(x, x_hat)
        loss += lpips_weight * measured["lpips"]
    return {"rd_loss": weight * loss, **measured}


def check_side(side: int, name: str, distortion: str, lpips_weight: float) -> None:
    """Raises UserError if image `name`, whose shorter side is `side`, is too small for the loss."""
    for wanted, metric, least in (
            (distortion == "ms_ssim", "MS-SSIM", metrics.MS_SSIM_MIN_SIDE),
            (lpips_weight, "LPIPS", lpips.MIN_SIDE)):
        if wanted and side < least:
            raise UserError(
                f"{metric} needs sides of at least {least} pixels; {name} has {side}")


def bits_per_pixel(x: tf.Tensor, bits: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Bits [B] of each latent -> bpp_<latent> [B] of the images `x` [B, H, W, 3], float32."""
    pixels = tf.cast(tf.shape(x)[1] * tf.shape(x)[2], tf.float32)
    return {f"bpp_{name}": tf.cast(value, tf.float32) / pixels for name, value in bits.items()}


def _psnr(mse):
    return 10 / math.log(10) * tf.math.log(255.0**2 / tf.maximum(mse, 1e-12))


def ms_ssim(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """MS-SSIM (Wang et al. 2003) with finite gradients: float32 [B].

    The same as tf.image.ssim_multiscale, whose gradient is NaN where a contrast term is not
    positive, as of a model that is not trained yet.

    Args:
      a, b: float32 [B, H, W, C] in [0, 1], with H and W of at least 161.
    """
    shape = tf.shape(a)
    # Channels are images of their own.
    a, b = (tf.reshape(tf.transpose(image, [0, 3, 1, 2]), [-1, shape[1], shape[2], 1])
            for image in (a, b))
    result = 1.0
    for scale, weight in enumerate(_SCALES):
        if scale:
            # Beyond an odd side, SAME averages what is there.
            a, b = (tf.nn.avg_pool2d(image, 2, 2, "SAME") for image in (a, b))
        similarity = _similarity(a, b, with_luminance=scale == len(_SCALES) - 1)
        # Below the bound the gradient is that of the similarity's sign, and leads out.
        result *= tfc.lower_bound(similarity, _LEAST_SIMILARITY) ** weight
    return tf.reduce_mean(tf.reshape(result, [shape[0], -1]), axis=1)


def _similarity(a, b, with_luminance):
    """Mean over the image of contrast * structure [* luminance]: [N] of [N, H, W, 1]."""
    mean_a, mean_b, square, product = tf.split(
        _blur(tf.concat([a, b, a * a + b * b, a * b], axis=0)), 4)
    means = mean_a * mean_b
    squared_means = mean_a * mean_a + mean_b * mean_b
    value = (2 * (product - means) + _C2) / (square - squared_means + _C2)
    if with_luminance:
        value *= (2 * means + _C1) / (squared_means + _C1)
    return tf.reduce_mean(value, axis=(1, 2, 3))


def _blur(x):
    """The Gaussian window's mean at every position where it lies within the image."""
    window = tf.constant(_WINDOW / np.sum(_WINDOW), tf.float32)
    x = tf.nn.conv2d(x, tf.reshape(window, [-1, 1, 1, 1]), 1, "VALID")
    return tf.nn.conv2d(x, tf.reshape(window, [1, -1, 1, 1]), 1, "VALID")
