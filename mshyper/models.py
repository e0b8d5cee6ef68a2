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

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from common import (
    arguments,
    conditional,
    model,
    padding,
    priors,
    tiles,
    transforms,
)
from common.coders import StreamDecoder, StreamEncoder
from common.integer_builder import Builder
from common.integer_networks import Network
from common.quantizers import Quantizer
from common.timing import stage
from common.transforms import contract

# Integer networks see larger symbols of z clipped. On Kodak the zoo's models stay below 2^5.
_LARGEST_Z = 2**12


class Hyperprior(model.Codec):
    """Latents y whose distribution is decoded from hyper-latents z.

    Subclasses set `z_prior` and `y_prior`.

    Args:
      analysis, synthesis, hyper_analysis, hyper_synthesis: transforms as in `transforms.build`.
      levels, pixel_range: as of `model.Codec`.

    Attributes:
      z_prior: of z.
      y_prior: of y, by what the hyper-synthesis predicts.
    """

    z_prior: priors.DeepFactorized
    y_prior: conditional.ConditionalPrior

    def __init__(self, analysis: Mapping, synthesis: Mapping, hyper_analysis: Mapping,
                 hyper_synthesis: Mapping, levels: dict | None = None,
                 pixel_range: tuple[float, float] = model.PIXEL_RANGE):
        super().__init__(analysis, synthesis, levels, pixel_range)
        self.hyper_analysis = transforms.build(hyper_analysis)
        self.hyper_synthesis = transforms.build(hyper_synthesis)

    @property
    def _priors(self):
        return [self.z_prior, self.y_prior.table]

    @property
    def _y_numbers(self):
        return self.numbers_of(self.y_prior.table)

    @property
    def strides(self) -> dict[str, int]:
        return {**super().strides, "z": self.analysis.stride * self.hyper_analysis.stride}

    @property
    def tiled(self) -> list[transforms.AnyTransform]:
        return [*super().tiled, self.hyper_analysis, self.hyper_synthesis]

    def initialize(self) -> None:
        here, there = self.hyper_analysis.stride, self.hyper_synthesis.stride
        if here != there:
            raise ValueError(f"the hyper-synthesis has a stride of {there}; the hyper-analysis has "
                             f"{here}")
        super().initialize()

    def _infer_hyper(self, y, training):
        stride = self.hyper_analysis.stride

        def prepared(y):
            return padding.pad_to_multiple(tf.abs(y) if self.y_prior.symmetric else y, stride)

        return {"z": tiles.run(self.hyper_analysis, y, down=stride, before=prepared,
                               side=tiles.LATENT_SIDE, training=training)}

    def generate(self, latents: model.Latents, quantizer: Quantizer, training: bool = False
                 ) -> model.Generated:
        z, z_hat = quantizer(latents["z"], self.z_prior.offset, "z")
        # It is for y padded to a whole number of z.
        psi = padding.crop_to(self.hyper_synthesis(z_hat, training=training), latents["y"])
        y, y_hat, offset, p_y = self._quantize(latents["y"], psi, quantizer)
        latents = {**latents, "y": y_hat, "z": z_hat}
        bits = {**self._level_bits(latents), "y": p_y.bits(y), "z": self.z_prior.bits(z)}
        return model.Generated(
            self.to_image(y_hat, training, level=latents.get("level")), latents, bits,
            {"y": offset, "z": self.z_prior.offset}, p_y.prediction)

    def _quantize(self, y, psi, quantizer: Quantizer):
        """The two values of y that a quantizer returns, its grid's offset, and y's distribution.

        `psi` [B, h, w, C] is what the hyper-synthesis says of y [B, h, w, M].
        """
        p_y = self.y_prior.given(psi, quantizer.differentiable)
        return *quantizer(y, p_y.offset, "y"), p_y.offset, p_y

    def integer_networks(self) -> dict[str, Network]:
        builder = Builder()
        psi = self._integer_psi(builder)
        return {"hyper_synthesis": builder.network(*self.y_prior.integers(builder, psi))}

    def _integer_psi(self, builder):
        """The hyper-synthesis of the symbols of z, which are the network's argument 0."""
        z = builder.input(0, self.z_prior.channels, bits=0, bound=_LARGEST_Z)
        z_hat = builder.affine("z_prior", z, 1.0, self.z_prior.offset.numpy())
        return contract.integers(self.hyper_synthesis, builder, z_hat)

    def encode(self, latents: model.Latents, coder: StreamEncoder) -> None:
        with stage("coding"):
            self._encode_level(latents, coder)
            z_symbols = tf.round(latents["z"] - self.z_prior.offset).numpy()
            coder.encode(z_symbols, self.channel_numbers(self.z_prior, *z_symbols.shape[1:3]))
        with stage("hyper"):
            outputs = self._hyper_synthesis_in_integers(z_symbols, *latents["y"].shape[1:3])
        self._encode_y(latents["y"], outputs, coder)

    def decode(self, coder: StreamDecoder, height: int, width: int) -> model.Latents:
        with stage("coding"):
            level = self._decode_level(coder)
            z_symbols = coder.decode(
                self.channel_numbers(self.z_prior, *self.latent_size(height, width, "z")))
        with stage("hyper"):
            outputs = self._hyper_synthesis_in_integers(
                z_symbols, *self.latent_size(height, width))
        y = self._decode_y(outputs, coder)
        return {**level, "y": y, "z": tf.cast(z_symbols, tf.float32) + self.z_prior.offset}

    def _hyper_synthesis_in_integers(self, z_symbols, height, width):
        """The network's outputs for y of this size, int16 or int32 each."""
        network = self.networks["hyper_synthesis"]

        def narrowed(outputs):
            return [tf.cast(x, tf.int16 if value.bound < 2**15 else tf.int32)
                    for x, value in zip(outputs, network.outputs)]

        outputs = tiles.run(network, z_symbols, up=self.hyper_synthesis.stride, after=narrowed,
                            side=tiles.LATENT_SIDE)
        return [np.asarray(x)[:, :height, :width] for x in outputs]

    def _encode_y(self, y, outputs, coder: StreamEncoder):
        with stage("coding"):
            self.y_prior.encode(y, outputs, coder, first=self._y_numbers.start)

    def _decode_y(self, outputs, coder: StreamDecoder):
        with stage("coding"):
            return self.y_prior.decode(outputs, coder, first=self._y_numbers.start)


class MeanScaleHyperprior(Hyperprior):
    """Latents y whose means and scales are decoded from hyper-latents z.

    Args:
      analysis, synthesis, hyper_analysis, hyper_synthesis: transforms as in `transforms.build`.
      predict_mean: True for Minnen et al. 2018; False for Ballé et al. 2018, where means are zero
        and the hyper-analysis sees |y|.
      likelihood: of y, "normal" as in these papers, or "logistic".
      use_offset: centre the integer grid of each channel of z on its median; or "stored", as of
        `priors.DeepFactorized`.
      density: of z; further arguments of `priors.DeepFactorized`.
      scale_output: what the hyper-synthesis predicts of scales; see `priors.ScaleTable`.
      levels, pixel_range: as of `model.Codec`.
    """

    def __init__(self, analysis: Mapping, synthesis: Mapping, hyper_analysis: Mapping,
                 hyper_synthesis: Mapping, predict_mean: bool = True, likelihood: str = "normal",
                 use_offset: bool | str = True, density: dict | None = None,
                 scale_output: str = "log_scale", levels: dict | None = None,
                 pixel_range: tuple[float, float] = model.PIXEL_RANGE):
        super().__init__(
            analysis, synthesis, hyper_analysis, hyper_synthesis, levels, pixel_range)
        self.z_prior = arguments.construct(
            "density", priors.DeepFactorized, self.hyper_analysis.out_channels, use_offset,
            **(density or {}))
        self.y_prior = conditional.MeanScale(
            priors.scale_table(likelihood, output=scale_output), predict_mean)
