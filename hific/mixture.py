"""HiFiC with a mixture of K distributions for each y, as some of its ports to PyTorch have it.

    y ~ sum_k weight_k * N(mean_k, scale_k²)

All of these are decoded from z, see mshyper/models.py. There is no one mean that the grid of y
could be centred on; it is that of the integers.

In coding, the counts of a symbol are weighted sums of those of the stored tables
(common/mixtures.py). Their weights come from an integer network, softmax included.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf

import mshyper.models
from common import arguments, escapes, mixtures, priors
from common.coders import StreamDecoder, StreamEncoder
from common.integer_builder import Builder
from common.integer_networks import Value
from common.model import PIXEL_RANGE, Prediction

# Fractions of an integer to which the means of y are rounded in coding.
_SHIFT_BITS = 4


class MixtureGiven(NamedTuple):
    """The distribution of y [B, h, w, M] by logits, means and positions, [B, h, w, K, M] each."""

    table: priors.ScaleTable
    logits: tf.Tensor
    mean: tf.Tensor
    index: tf.Tensor

    @property
    def offset(self) -> tf.Tensor:
        """No mean is the grid's: it is that of the integers."""
        return tf.zeros([])

    def bits(self, y: tf.Tensor) -> tf.Tensor:
        """Information content of every element of `y`, in bits."""
        return self.table.mixture_bits(y[..., None, :] - self.mean, self.logits, self.index)

    @property
    def prediction(self) -> Prediction:
        """Mean and deviation of the whole mixture."""
        weights = tf.nn.softmax(self.logits, axis=-2)
        centre = tf.reduce_sum(weights * self.mean, axis=-2, keepdims=True)
        variance = self.table.deviation(self.index)**2 + (self.mean - centre)**2
        return Prediction(
            centre[..., 0, :], tf.sqrt(tf.reduce_sum(weights * variance, axis=-2)))


class Mixture:
    """A mixture of K components for each element of y, a `conditional.ConditionalPrior`.

    Args:
      table: of the scales of all components.
      components: K.
    """

    symmetric = False

    def __init__(self, table: priors.ShiftedScaleTable, components: int):
        self.table = table
        self._components = components

    def given(self, parameters: tf.Tensor, continuous: bool) -> MixtureGiven:
        """The distribution of y.

        Args:
          parameters: float32 [B, h, w, 3 K M]: logits, means, and of scales what the table takes.
          continuous: as of `ConditionalPrior.given`.
        """
        channels = parameters.shape[-1] // (3 * self._components)
        shape = tf.concat([tf.shape(parameters)[:-1], [3, self._components, channels]], axis=0)
        logits, mean, scale = tf.unstack(tf.reshape(parameters, shape), axis=-3)
        index = self.table.index(scale)
        return MixtureGiven(self.table, logits, mean, index if continuous else tf.round(index))

    def integers(self, builder: Builder, parameters: Value) -> list[Value]:
        """Integer weights, means in units of 2^-4 and positions in the scale table, K M each."""
        third = parameters.channels // 3
        logits, mean, scale = (
            builder.slice(parameters, i * third, (i + 1) * third) for i in range(3))
        return [self._integer_softmax(builder, logits), builder.requantize(mean, _SHIFT_BITS),
                self.table.integer_index(builder, scale)]

    def _integer_softmax(self, builder, logits):
        """2^14 exp(logit - largest logit) of every component. Only their ratios matter."""
        channels = logits.channels // self._components
        parts = [builder.slice(logits, i * channels, (i + 1) * channels)
                 for i in range(self._components)]
        below = builder.negate(builder.maximum(*parts))
        return builder.concat(*(
            builder.pointwise(
                builder.requantize(builder.add(part, below), mixtures.WEIGHT_BITS),
                lambda x: tf.exp(tf.minimum(x, 0.0)), linear=False)
            for part in parts))

    def encode(self, y: np.ndarray, outputs: list[np.ndarray], coder: StreamEncoder, first: int
               ) -> None:
        """Rounds y to integers and writes it, as `ConditionalPrior.encode`."""
        coder.encode_rows(np.round(escapes.require_codable(y)), self._mixtures(outputs, first))

    def decode(self, outputs: list[np.ndarray], coder: StreamDecoder, first: int) -> tf.Tensor:
        """Reads y, float32 [1, h, w, M]. Raises CodingError."""
        return tf.cast(coder.decode_rows(self._mixtures(outputs, first)), tf.float32)

    def _mixtures(self, outputs, first):
        """Those of y [1, h, w, M]."""
        weights, mean, index = (
            np.moveaxis(x.reshape(*x.shape[:-1], self._components, -1), -2, 0) for x in outputs)
        shifts, fraction = np.divmod(mean, 2**_SHIFT_BITS)
        numbers = self.table.number(fraction, index) + np.int16(first)
        return mixtures.Mixtures(weights, numbers, shifts)


class HiFiCMixture(mshyper.models.Hyperprior):
    """Mixtures of K components for y, whose parameters are decoded from hyper-latents z.

    Args:
      analysis, synthesis, hyper_analysis: transforms as in `transforms.build`; y has M channels.
      hyper_synthesis: transform to 3 K M channels, as of `HiFiCMixtureHyperSynthesis`.
      likelihood: of each component, "normal" or "logistic".
      use_offset, density, scale_output: as of `MeanScaleHyperprior`.
      levels, pixel_range: as of `model.Codec`.
    """

    def __init__(self, analysis: Mapping, synthesis: Mapping, hyper_analysis: Mapping,
                 hyper_synthesis: Mapping, likelihood: str = "normal",
                 use_offset: bool | str = True, density: dict | None = None,
                 scale_output: str = "log_scale", levels: dict | None = None,
                 pixel_range: tuple[float, float] = PIXEL_RANGE):
        super().__init__(
            analysis, synthesis, hyper_analysis, hyper_synthesis, levels, pixel_range)
        channels, outputs = self.analysis.out_channels, self.hyper_synthesis.out_channels
        components, rest = divmod(outputs, 3 * channels)
        if rest or not components:
            raise TypeError(f"the hyper-synthesis has {outputs} outputs; mixtures for {channels} "
                            f"channels need a multiple of {3 * channels}")
        self.z_prior = arguments.construct(
            "density", priors.DeepFactorized, self.hyper_analysis.out_channels, use_offset,
            **(density or {}))
        table = priors.scale_table(likelihood, 2**_SHIFT_BITS, scale_output)
        assert isinstance(table, priors.ShiftedScaleTable)
        self.y_prior = Mixture(table, components)
