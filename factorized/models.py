"""Factorised prior (Ballé et al. 2017).

                ┌──────────┐  y   ┌───┐ ŷ  ┌───────────┐
          x ───►│ analysis │─────►│ Q │───►│ synthesis │───► x̂
                └──────────┘      └─┬─┘    └───────────┘
                                    │ bits: y ~ p(y), one learned density a channel
"""

from collections.abc import Mapping

import tensorflow as tf

from common import arguments, model, priors
from common.coders import Decoder, Encoder
from common.quantizers import Quantizer
from common.timing import stage


class FactorizedPrior(model.Codec):
    """Analysis and synthesis around one latent y, whose channels are independent.

    Args:
      analysis, synthesis: transforms as in `transforms.build`.
      use_offset: centre the integer grid of each channel on its median; or "stored", as of
        `priors.DeepFactorized`.
      density: further arguments of `priors.DeepFactorized`.
      levels, pixel_range: as of `model.Codec`.
    """

    def __init__(self, analysis: Mapping, synthesis: Mapping, use_offset: bool | str = True,
                 density: dict | None = None, levels: dict | None = None,
                 pixel_range: tuple[float, float] = model.PIXEL_RANGE):
        super().__init__(analysis, synthesis, levels, pixel_range)
        self.prior = arguments.construct(
            "density", priors.DeepFactorized, self.analysis.out_channels, use_offset,
            **(density or {}))

    @property
    def _priors(self):
        return [self.prior]

    def _infer_hyper(self, y, training):
        return {}

    def generate(self, latents: model.Latents, quantizer: Quantizer, training: bool = False
                 ) -> model.Generated:
        y_rate, y_hat = quantizer(latents["y"], self.prior.offset, "y")
        latents = {**latents, "y": y_hat}
        bits = {**self._level_bits(latents), "y": self.prior.bits(y_rate)}
        return model.Generated(
            self.to_image(y_hat, training, level=latents.get("level")), latents, bits,
            {"y": self.prior.offset})

    def encode(self, latents: model.Latents, coder: Encoder) -> None:
        with stage("coding"):
            self._encode_level(latents, coder)
            symbols = tf.round(latents["y"] - self.prior.offset)
            coder.encode(symbols, self.channel_numbers(self.prior, *symbols.shape[1:3]))

    def decode(self, coder: Decoder, height: int, width: int) -> model.Latents:
        with stage("coding"):
            level = self._decode_level(coder)
            symbols = coder.decode(
                self.channel_numbers(self.prior, *self.latent_size(height, width)))
            return {**level, "y": tf.cast(symbols, tf.float32) + self.prior.offset}
