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

from common import conversion, entropy, exact, images, model, tiles, transforms
from common.timing import stage

# In coding, means are multiples of 2^-MEAN_BITS, and so is y.
MEAN_BITS = 12

# Integer networks see larger symbols of z clipped. On Kodak the zoo's models stay below 2^5.
_LARGEST_Z = 2**12


class MeanScaleHyperprior(model.Codec):
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

    @property
    def strides(self):
        return {**super().strides, "z": self.analysis.stride * self.hyper_analysis.stride}

    @property
    def tiled(self):
        return [*super().tiled, self.hyper_analysis, self.hyper_synthesis]

    def infer(self, x, training=False):
        y, stride = self.to_latent(x, training), self.hyper_analysis.stride

        def prepared(y):
            return images.pad_to_multiple(y if self.predict_mean else tf.abs(y), stride)

        z = tiles.run(self.hyper_analysis, y, down=stride, before=prepared,
                      side=tiles.LATENT_SIDE, training=training)
        return {"y": y, "z": z}

    def generate(self, latents, quantizer, training=False):
        z_rate, z_hat = quantizer(latents["z"], self.z_prior.offset, "z")
        # It is for y padded to a whole number of z.
        psi = images.crop_to(self.hyper_synthesis(z_hat, training=training), latents["y"])
        offset, y_rate, y_hat, *parameters, index = self._quantize(latents["y"], psi, quantizer)
        parameters.append(index if quantizer.differentiable else tf.round(index))
        return model.Generated(
            self.to_image(y_hat, training), {"y": y_hat, "z": z_hat},
            {"y": self._y_bits(y_rate, *parameters), "z": self.z_prior.bits(z_rate)},
            {"y": offset, "z": self.z_prior.offset}, self._prediction(*parameters))

    def _quantize(self, y, psi, quantizer):
        """The grid's offset, both values of y, their mean and position in the scale table.

        `psi` [B, h, w, C] is the output of the hyper-synthesis; the others are [B, h, w, M].
        """
        mean, index = self._parameters(psi)
        return mean, *quantizer(y, mean, "y"), mean, index

    def _y_bits(self, y, mean, index):
        return self.y_prior.bits(y - mean, index)

    def _prediction(self, mean, index):
        return model.Prediction(mean, self.y_prior.deviation(index))

    def _parameters(self, parameters):
        """Means and positions in the scale table from a network's output."""
        if not self.predict_mean:
            return tf.zeros_like(parameters), self.y_prior.index(parameters)
        mean, log_scale = tf.split(parameters, 2, axis=-1)
        return mean, self.y_prior.index(log_scale)

    def integer_networks(self):
        builder = exact.Builder()
        z = builder.input(0, self.z_prior.channels, bits=0, bound=_LARGEST_Z)
        z_hat = builder.affine("z_prior", z, 1.0, self.z_prior.offset.numpy())
        psi = conversion.convert(builder, self.hyper_synthesis, z_hat)
        return {"hyper_synthesis": builder.network(*self._exact_parameters(builder, psi))}

    def _exact_parameters(self, builder, parameters):
        """`_parameters` in integers: the means in units of 2^-12, if any, and the positions."""
        if not self.predict_mean:
            return [self.y_prior.exact_index(builder, parameters)]
        half = parameters.channels // 2
        mean = builder.requantize(builder.slice(parameters, 0, half), MEAN_BITS)
        log_scale = builder.slice(parameters, half, 2 * half)
        return [mean, self.y_prior.exact_index(builder, log_scale)]

    def encode(self, latents, coder):
        with stage("coding"):
            z_symbols = tf.round(latents["z"] - self.z_prior.offset).numpy()
            coder.encode(z_symbols, self._z_distributions(z_symbols.shape))
        with stage("hyper"):
            psi = self._integer_psi(z_symbols, latents["y"].shape)
        self._encode_y(latents["y"], psi, coder)

    def decode(self, coder, height, width):
        with stage("coding"):
            h, w = (-(-side // self.analysis.stride) for side in (height, width))
            hyper = self.hyper_analysis
            shape = (1, -(-h // hyper.stride), -(-w // hyper.stride), hyper.out_channels)
            z_symbols = coder.decode(self._z_distributions(shape))
        with stage("hyper"):
            psi = self._integer_psi(z_symbols, (1, h, w))
        y = self._decode_y(psi, coder)
        return {"y": y, "z": tf.cast(z_symbols, tf.float32) + self.z_prior.offset}

    def _integer_psi(self, z_symbols, shape):
        """What the integer hyper-synthesis says of y of this shape, int16 or int32 each."""
        network = self.networks["hyper_synthesis"]

        def narrowed(outputs):
            return [tf.cast(x, tf.int16 if value.bound < 2**15 else tf.int32)
                    for x, value in zip(outputs, network.outputs)]

        psi = tiles.run(network, z_symbols, up=self.hyper_synthesis.stride, after=narrowed,
                        side=tiles.LATENT_SIDE)
        return [np.asarray(x)[:, :shape[1], :shape[2]] for x in psi]

    def _encode_y(self, y, psi, coder):
        *mean, index = psi
        with stage("coding"):
            y = entropy.require_codable(y)
            symbols = np.empty(y.shape, np.int32)
            for row in range(y.shape[1]):
                symbols[:, row] = np.round(y[:, row] - self._row(mean, row))
            coder.encode(symbols, self._y_distributions(index))

    def _decode_y(self, psi, coder):
        *mean, index = psi
        with stage("coding"):
            symbols = coder.decode(self._y_distributions(index))
        y = np.empty(symbols.shape, np.float32)
        for row in range(y.shape[1]):
            y[:, row] = symbols[:, row] + self._row(mean, row)
        return tf.convert_to_tensor(y)

    def _row(self, mean, row):
        """A row of the mean, if there is any, in float64: y of large images has few such copies."""
        return sum(x[:, row] for x in mean) * 2.0**-MEAN_BITS

    def _z_distributions(self, shape):
        """In the tables, the channels of z come first, then the scales of y."""
        return np.broadcast_to(np.arange(shape[-1]), shape)

    def _y_distributions(self, index):
        return index + np.int16(self.z_prior.channels)
