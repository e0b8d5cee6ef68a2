"""Factorised prior (Ballé et al. 2017).

                ┌──────────┐  y   ┌───┐ ŷ  ┌───────────┐
          x ───►│ analysis │─────►│ Q │───►│ synthesis │───► x̂
                └──────────┘      └─┬─┘    └───────────┘
                                    │ bits: y ~ p(y), one learned density a channel
"""

import tensorflow as tf

from common import entropy, model, transforms
from common.timing import stage


class FactorizedPrior(model.Codec):
    """Analysis and synthesis around one latent y, whose channels are independent.

    Args:
      analysis, synthesis: transforms as in `transforms.build`.
      use_offset: centre the integer grid of each channel on its median.
    """

    def __init__(self, analysis, synthesis, use_offset: bool = True):
        super().__init__()
        self.analysis = transforms.build(analysis)
        self.synthesis = transforms.build(synthesis)
        self.prior = entropy.DeepFactorized(self.analysis.out_channels, use_offset)

    @property
    def priors(self):
        return [self.prior]

    def infer(self, x, training=False):
        return {"y": self.to_latent(x, training)}

    def generate(self, latents, quantizer, training=False):
        y_rate, y_hat = quantizer(latents["y"], self.prior.offset, "y")
        return model.Generated(self.to_image(y_hat, training), {"y": y_hat},
                               {"y": self.prior.bits(y_rate)}, {"y": self.prior.offset})

    def encode(self, latents, coder):
        with stage("coding"):
            symbols = tf.round(latents["y"] - self.prior.offset)
            coder.encode(symbols, self.prior.numbers(*symbols.shape[1:3]))

    def decode(self, coder, height, width):
        with stage("coding"):
            symbols = coder.decode(self.prior.numbers(*self.latent_size(height, width)))
            return {"y": tf.cast(symbols, tf.float32) + self.prior.offset}
