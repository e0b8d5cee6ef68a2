"""Mean-scale hyperprior with bits-back coding of z (Yang, Bamler & Mandt 2020, section 3.3).

                ┌──────────┐  y         ┌───┐      ŷ                  ┌───────────┐
          x ───►│ analysis ├───────────►│ Q │──┬───────────┬─────────►│ synthesis │───► x̂
                └──────────┘            └───┘  ▼           │          └───────────┘
                               ┌────────────────┐          │ bits: y ~ N(mean, scale²)
                               │ hyper-analysis │      ┌───┴─────────────┐
                               └───────┬────────┘      │ hyper-synthesis │
                  posterior q(z | ŷ)   │               └───▲─────────────┘
                                       ▼                   │
                         bits taken ─► z ──────────────────┘  bits: z ~ p(z)

z is not quantised: it is drawn from a Gaussian posterior. The encoder draws it with bits that it
has to send anyway, those of the image before or of the user, and the decoder, which knows the
posterior as soon as it has ŷ, gets these bits back. What z costs is the net rate

    - log2 p(ŷ | z) - log2 p(z) + log2 q(z | ŷ).

The grid of ŷ has to be known before z is: unlike that of mshyper/models.py, it is not centred on
the predicted means, but that of the integers.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

import mshyper.models
from common import (
    arguments,
    conditional,
    escapes,
    model,
    padding,
    priors,
    quantizers,
)
from common.ans import AnsStack
from common.conditional import MEAN_BITS
from common.errors import CodingError
from common.integer_builder import Builder
from common.integer_networks import Network
from common.transforms import contract
from mshyper.posterior_search import PosteriorSearch

# Grid of z in coding. With finer ones more bits are taken and given back.
_Z_BITS = 4
Z_STEP = 2.0**-_Z_BITS

# Fractions of an integer to which the means of y are rounded in coding.
_SHIFT_BITS = 4

# Integer networks see larger values of z and symbols of y clipped.
_LARGEST_Z, _LARGEST_Y = 2**12, 2**13

# Bound on the posterior's variance. (Yang et al. 2020's code has it for p(y | z), in training.)
_LARGEST_LOG_SCALE = math.log(10.0) / 2


class BitsBackHyperprior(mshyper.models.Hyperprior):
    """Gaussian latents y as in mshyper/models.py, and a Gaussian posterior over z.

    Latents are y, and the posterior's "z" (mean) and "z_log_scale" (natural logarithm of its
    standard deviation), each float32 [B, h, w, C]. The information content of latent "z" is
    - log2 p(z), that of "z_log_scale" is log2 q(z | ŷ), which is what comes back: mostly negative.

    Args:
      analysis, synthesis, hyper_synthesis: transforms as in `transforms.build`.
      hyper_analysis: transform to 2 C channels, the posterior's mean and logarithm of scale.
      replay_steps: steps of optimisation of the posterior in coding, as of
        mshyper/posterior_search.py.
      density: of z; further arguments of `priors.FineFactorized`.
      levels, pixel_range: as of `model.Codec`.
    """

    def __init__(self, analysis: Mapping, synthesis: Mapping, hyper_analysis: Mapping,
                 hyper_synthesis: Mapping, replay_steps: int = 20, density: dict | None = None,
                 levels: dict | None = None,
                 pixel_range: tuple[float, float] = model.PIXEL_RANGE):
        super().__init__(
            analysis, synthesis, hyper_analysis, hyper_synthesis, levels, pixel_range)
        self.z_prior = arguments.construct(
            "density", priors.FineFactorized, self.hyper_analysis.out_channels // 2, Z_STEP,
            **(density or {}))
        self.y_prior = conditional.MeanScale(priors.ShiftedScaleTable(2**_SHIFT_BITS))
        self.replay_steps = replay_steps  # of the search; configs have it under this name
        self._cached: tuple[Any, PosteriorSearch] | None = None
        self._memo: tuple[Any, Any] = None, None

    def prepare_coding(self) -> None:
        super().prepare_coding()
        self._memo = None, None
        if self.replay_steps:  # are there gradients of the integer networks? The search needs them
            self.coded_posterior(np.zeros([1, 1, 1, self.analysis.out_channels], np.int32), 1)

    def _infer_hyper(self, y, training):
        # From y itself, as in the paper, the decoder's posterior would be another one than that
        # which was trained, and cost more.
        y_hat, _ = quantizers.StraightThrough()(y, 0.0, "y")
        return self.posterior(y_hat, training)

    def posterior(self, y: tf.Tensor, training: bool = False) -> model.Latents:
        """Mean "z" and "z_log_scale" of q(z | y), by the hyper-analysis, for y that is rounded."""
        hyper = self.hyper_analysis
        mean, log_scale = tf.split(
            hyper(padding.pad_to_multiple(y, hyper.stride), training=training), 2, axis=-1)
        return {"z": mean, "z_log_scale": tfc.upper_bound(log_scale, _LARGEST_LOG_SCALE)}

    def generate(self, latents: model.Latents, quantizer: quantizers.Quantizer,
                 training: bool = False) -> model.Generated:
        y_rate, y_hat = quantizer(latents["y"], tf.zeros([]), "y")
        # A decoder has the posterior that follows from ŷ. What coding gains by optimising that is
        # not part of this estimate.
        posterior = latents if quantizer.differentiable else self.posterior(y_hat)
        noise = quantizers.normal_noise(quantizer, posterior["z"], "z")
        z = posterior["z"] + tf.exp(posterior["z_log_scale"]) * noise
        psi = padding.crop_to(self.hyper_synthesis(z, training=training), y_hat)
        p_y = self.y_prior.given(psi, quantizer.differentiable)
        log_q = -(noise**2 / 2 + posterior["z_log_scale"]) - math.log(2 * math.pi) / 2
        latents = {**latents, "y": y_hat}
        bits = {
            **self._level_bits(latents),
            "y": p_y.bits(y_rate),
            "z": self.z_prior.bits(z),
            "z_log_scale": log_q / math.log(2.0),
        }
        return model.Generated(
            self.to_image(y_hat, training, level=latents.get("level")), latents, bits,
            {"y": tf.zeros([])}, p_y.prediction)

    def integer_networks(self) -> dict[str, Network]:
        builder = Builder()
        z = builder.input(0, self.z_prior.channels, _Z_BITS, _LARGEST_Z * 2**_Z_BITS)
        psi = contract.integers(self.hyper_synthesis, builder, z)
        networks = {"hyper_synthesis": builder.network(*self.y_prior.integers(builder, psi))}
        builder = Builder()
        y = builder.input(0, self.analysis.out_channels, bits=0, bound=_LARGEST_Y)
        posterior = contract.integers(self.hyper_analysis, builder, y)
        half = posterior.channels // 2
        # Scales in units of Z_STEP are looked up in the same table as those of y.
        scale_in_steps = builder.affine(
            "posterior", builder.slice(posterior, half, 2 * half), 1.0, -math.log(Z_STEP))
        index = self.y_prior.table.integer_index(builder, scale_in_steps)
        largest = self.y_prior.table.index(_LARGEST_LOG_SCALE - math.log(Z_STEP))
        networks["hyper_analysis"] = builder.network(
            builder.requantize(builder.slice(posterior, 0, half), _Z_BITS),
            builder.requantize(index, 0, low=0, high=round(float(largest))))
        return networks

    def encode(self, latents: model.Latents,  # type: ignore[override]  # refuses others
               coder: AnsStack) -> None:
        """Takes bits from an `AnsStack`, and puts more on it, the level last.

        Of the others only y is coded. The posterior is the one that follows from it.

        Raises:
          CodingError: `coder` is not a stack, or holds too few bits to draw z with.
        """
        if not isinstance(coder, AnsStack):
            raise CodingError(
                "a bits-back model needs bits to take: code with `chain`, not `codec`")
        y = np.round(escapes.require_codable(latents["y"])).astype(np.int32)
        self.encode_with(y, self.coded_posterior(y, self.replay_steps), coder)
        self._encode_level(latents, coder)

    def encode_with(self, y: np.ndarray, posterior: tuple[np.ndarray, np.ndarray], coder: AnsStack
                    ) -> None:
        """`encode` of int32 y by any posterior, as `coded_posterior` returns it."""
        mean, scales = posterior
        z = mean + coder.sample(scales)
        integers, distributions = self._coded_prior(z, *y.shape[1:3])
        coder.encode(y - integers, distributions)
        coder.encode(z, self.channel_numbers(self.z_prior, *z.shape[1:3]))

    def decode(self, coder: AnsStack, height: int, width: int  # type: ignore[override]
               ) -> model.Latents:
        """The inverse of `encode`: y, and the posterior's mean as "z"."""
        level = self._decode_level(coder)
        z = coder.decode(self.channel_numbers(self.z_prior, *self.latent_size(height, width, "z")))
        integers, distributions = self._coded_prior(z, *self.latent_size(height, width))
        y = integers + coder.decode(distributions)
        mean, scales = self.coded_posterior(y, self.replay_steps)
        coder.unsample(z - mean, scales)
        return {**level, "y": tf.cast(y, tf.float32),
                "z": tf.cast(mean * Z_STEP, tf.float32)}

    def _coded_prior(self, z, height, width):
        """Where the tables of y lie on the integers, and which they are: int32 of y's shape."""
        mean, index = (x.astype(np.int64)
                       for x in self._hyper_synthesis_in_integers(z, height, width))
        # To the nearest fraction of an integer.
        fractions = (mean + 2**(MEAN_BITS - _SHIFT_BITS - 1)) >> (MEAN_BITS - _SHIFT_BITS)
        integers, shift = fractions >> _SHIFT_BITS, fractions & (2**_SHIFT_BITS - 1)
        numbers = self._y_numbers.start + priors.ShiftedScaleTable.number(shift, index)
        return integers.astype(np.int32), numbers.astype(np.int32)

    def coded_posterior(self, y: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """The posterior that encoder and decoder have, the same bits on every machine.

        Args:
          y: int32 [1, h, w, M].
          steps: of optimisation.

        Returns:
          Means on z's grid, and which tables of y are those of z - mean: int32 [1, h', w', C].
        """
        key = y.tobytes(), y.shape, steps
        if self._memo[0] == key:  # a chain tries how many bits its first image needs
            return self._memo[1]
        padded = padding.pad_to_multiple(tf.constant(y), self.hyper_analysis.stride)
        mean, index = (x.numpy().astype(np.int32)
                       for x in self.networks["hyper_analysis"](padded))
        if steps:
            network = self.networks["hyper_synthesis"]
            assert self.tables is not None
            if self._cached is None or self._cached[0] is not network:
                self._cached = network, PosteriorSearch(
                    self.tables, network, MEAN_BITS, self.numbers_of(self.z_prior),
                    self._y_numbers)
            mean, index = self._cached[1](y, mean, index, steps)
        # Mean zero: the first fraction.
        self._memo = key, (mean, self._y_numbers.start + index)
        return self._memo[1]
