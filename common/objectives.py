"""Losses of training and of refinement."""

import dataclasses
from typing import Any

import tensorflow as tf
from ml_collections import config_dict

from common import images, lpips, metrics, padding
from common.errors import UserError
from common.model import Codec, Generated


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss of a training or a refinement,

        weight * (rate_weight * bpp + rd_lambda * distortion + lpips_weight * LPIPS).

    Rates are in bits per pixel of the original; distortions are those of common/metrics.py in
    training; everything is in float32.

    Attributes:
      rd_lambda: weight of the distortion, the same for all images; None for that of the level, in
        a model with levels.
      distortion: one of `metrics.DISTORTIONS`.
      rate_weight: see above.
      lpips_weight: see above. If it is 0, LPIPS is not measured.
    """

    rd_lambda: float | None
    distortion: str = "mse"
    rate_weight: float = 1.0
    lpips_weight: float = 0.0

    def __call__(self, x: tf.Tensor, generated: Generated,
                 rd_lambda: float | tf.Tensor | None = None, **options: Any
                 ) -> dict[str, tf.Tensor]:
        """Means over the batch of what `per_image` returns for the same arguments."""
        return {name: tf.reduce_mean(value)
                for name, value in self.per_image(x, generated, rd_lambda, **options).items()}

    def per_image(self, x: tf.Tensor, generated: Generated,
                  rd_lambda: float | tf.Tensor | None = None, *,
                  rate_weight: float | tf.Tensor | None = None, weight: float | tf.Tensor = 1.0,
                  eight_bit: bool = False) -> dict[str, tf.Tensor]:
        """The loss of each image, and its parts.

        Args:
          x: original, float32 [B, H, W, 3] in [0, 1].
          generated: from `Codec.generate`; its image may be larger than `x` and is cropped.
          rd_lambda: in place of the attribute, which has to be there else; a float, or a tensor []
            or [B].
          rate_weight: in place of the attribute; float or scalar tensor.
          weight: of an image among others; a float, or a tensor [B].
          eight_bit: measure on images rounded to 8 bits, as in evaluation. Has no gradient.

        Returns:
          [B] each: rd_loss, bpp, bpp_<latent> for each latent, mse, psnr in dB, and what else is a
          part of the loss.

        Raises:
          UserError: there is no such distortion, or LPIPS has no weights here.
        """
        rd_lambda = self.rd_lambda if rd_lambda is None else rd_lambda
        rate_weight = self.rate_weight if rate_weight is None else rate_weight
        chosen = metrics.distortion(self.distortion)
        x_hat = padding.crop_to(generated.x_hat, x)
        if eight_bit:
            x, x_hat = (tf.cast(images.to_uint8(image), tf.float32) / 255.0
                        for image in (x, x_hat))
        x_hat = tf.cast(x_hat, tf.float32)
        rates = bits_per_pixel(x, generated.bits)
        mse = metrics.batch_mse(x, x_hat)
        measured = {"bpp": tf.add_n(list(rates.values())), **rates,
                    "mse": mse, "psnr": metrics.batch_psnr(mse)}
        if self.distortion not in measured:  # MSE is, in any case
            measured[self.distortion] = chosen.measure(x, x_hat)
        loss = (rate_weight * measured["bpp"]
                + rd_lambda * chosen.loss(measured[self.distortion]))
        if self.lpips_weight:
            measured["lpips"] = lpips.network()(x, x_hat)
            loss += self.lpips_weight * measured["lpips"]
        return {"rd_loss": weight * loss, **measured}

    def weights(self, codec: Codec, level: tf.Tensor | None
                ) -> tuple[float | tf.Tensor | None, float | tf.Tensor]:
        """Lambda, and the weight of an image among others, of images at levels [B] or None."""
        if level is None or codec.levels is None:
            return self.rd_lambda, 1.0
        return codec.levels.rd_lambda(level), codec.levels.weight(level)

    def names(self, codec: Codec) -> list[str]:
        """The names of what is measured of a codec."""
        side = max(64, metrics.distortion(self.distortion).min_side)
        blank = tf.zeros([1, side, side, 3])
        generated = codec(blank[:, :64, :64])._replace(x_hat=blank)
        return list(self(blank, generated, 1.0))

    def check_side(self, side: int, name: str) -> None:
        """Raises UserError if image `name`, whose shorter side is `side`, is too small."""
        chosen = metrics.distortion(self.distortion)
        needed = [(chosen.title, chosen.min_side),
                  *[("LPIPS", lpips.MIN_SIDE)] * bool(self.lpips_weight)]
        for metric, least in needed:
            if side < least:
                raise UserError(
                    f"{metric} needs sides of at least {least} pixels; {name} has {side}")


def of_training(train: config_dict.ConfigDict) -> Objective:
    """The objective that the section `train` of a config describes.

    With a rate target, the rate control sets the weight of the rate at each step.
    """
    return Objective(train.rd_lambda, train.distortion, lpips_weight=train.lpips_weight)


def bits_per_pixel(x: tf.Tensor, bits: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Bits [B] of each latent -> bpp_<latent> [B] of the images `x` [B, H, W, 3], float32."""
    pixels = tf.cast(tf.shape(x)[1] * tf.shape(x)[2], tf.float32)
    return {f"bpp_{name}": tf.cast(value, tf.float32) / pixels for name, value in bits.items()}
