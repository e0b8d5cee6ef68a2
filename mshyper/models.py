"""Scale hyperprior (Ballé et al. 2018) and mean-scale hyperprior (Minnen et al. 2018).

                ┌──────────┐  y            ┌───┐ ŷ          ┌───────────┐
          x ───►│ analysis │──┬───────────►│ Q │───────────►│ synthesis │───► x̂
                └──────────┘  │            └─▲─┘            └───────────┘
                              ▼              │ mean, scale: y ~ N(mean, scale²)
                    ┌────────────────┐       │
                    │ hyper-analysis │   ┌───┴─────────────┐
                    └───────┬────────┘   │ hyper-synthesis │
                            │ z          └───▲─────────────┘
                            ▼      ẑ         │
                          ┌───┐──────────────┘
                          │ Q │  bits: z ~ p(z), one learned density a channel
                          └───┘
"""

import numpy as np
import tensorflow as tf

from common import entropy, images, model, transforms
from common.timing import stage


class Model(model.Model):
    """Gaussian latents y whose means and scales are decoded from hyper-latents z.

    Args:
      analysis, synthesis, hyper_analysis, hyper_synthesis: transforms as in `transforms.build`.
      predict_mean: True for Minnen et al. 2018; False for Ballé et al. 2018, where means are zero
        and the hyper-analysis sees |y|.
      use_offset: centre the integer grid of each channel of z on its median.
    """

    def __init__(self, analysis, synthesis, hyper_analysis, hyper_synthesis,
                 predict_mean: bool = True, use_offset: bool = True):
        super().__init__()
        self.analysis = transforms.build(analysis)
        self.synthesis = transforms.build(synthesis)
        self.hyper_analysis = transforms.build(hyper_analysis)
        self.hyper_synthesis = transforms.build(hyper_synthesis)
        self.predict_mean = predict_mean
        self.y_prior = entropy.ScaleTable()
        self.z_prior = entropy.DeepFactorized(self.hyper_analysis.out_channels, use_offset)

    @property
    def priors(self):
        return [self.z_prior, self.y_prior]

    def infer(self, x):
        y = self.to_latent(x)
        z = self.hyper_analysis(images.pad_to_multiple(
            y if self.predict_mean else tf.abs(y), self.hyper_analysis.stride))
        return {"y": y, "z": z}

    def generate(self, latents, quantizer, training=False):
        z_rate, z_hat = quantizer(latents["z"], self.z_prior.offset, "z")
        mean, index = self._parameters(z_hat, tf.shape(latents["y"]))
        y_rate, y_hat = quantizer(latents["y"], mean, "y")
        bits = {
            "y": self.y_prior.bits(y_rate - mean, index if training else tf.round(index)),
            "z": self.z_prior.bits(z_rate),
        }
        bits = {name: tf.reduce_sum(b, axis=(1, 2, 3)) for name, b in bits.items()}
        return model.Generated(self.to_image(y_hat), bits)

    def _parameters(self, z_hat, shape):
        """Mean and position in the scale table of every element of y, which is [B, h, w, M]."""
        parameters = self.hyper_synthesis(z_hat)[:, :shape[1], :shape[2]]
        if not self.predict_mean:
            return tf.zeros_like(parameters), self.y_prior.index(parameters)
        mean, log_scale = tf.split(parameters, 2, axis=-1)
        return mean, self.y_prior.index(log_scale)

    def encode(self, latents, coder):
        with stage("coding"):
            z_symbols = tf.round(latents["z"] - self.z_prior.offset)
            coder.encode(z_symbols, self._z_distributions(z_symbols.shape))
        with stage("hyper"):
            z_hat = z_symbols + self.z_prior.offset
            mean, index = self._parameters(z_hat, latents["y"].shape)
            y_symbols = tf.round(latents["y"] - mean).numpy()
            index = tf.round(index).numpy()
        with stage("coding"):
            coder.encode(y_symbols, self._y_distributions(index))

    def decode(self, coder, height, width):
        with stage("coding"):
            h, w = (-(-side // self.analysis.stride) for side in (height, width))
            hyper = self.hyper_analysis
            shape = (1, -(-h // hyper.stride), -(-w // hyper.stride), hyper.out_channels)
            z_hat = tf.cast(coder.decode(self._z_distributions(shape)), tf.float32)
            z_hat += self.z_prior.offset
        with stage("hyper"):
            mean, index = self._parameters(z_hat, (1, h, w))
            index = tf.round(index).numpy()
        with stage("coding"):
            return {"y": coder.decode(self._y_distributions(index)) + mean, "z": z_hat}

    def _z_distributions(self, shape):
        """In the tables, the channels of z come first, then the scales of y."""
        return np.broadcast_to(np.arange(shape[-1]), shape)

    def _y_distributions(self, index):
        return index.astype(np.int32) + self.z_prior.channels
