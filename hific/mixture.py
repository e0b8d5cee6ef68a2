"""HiFiC with a mixture of K distributions for each y, as some of its ports to PyTorch have it.

    y ~ sum_k weight_k * N(mean_k, scale_k²)

All of these are decoded from z, see mshyper/models.py. There is no one mean that the grid of y
could be centred on; it is that of the integers.

In coding, the counts of a symbol are weighted sums of those of the stored tables
(common/mixtures.py). Their weights come from a network in fixed point, softmax included.
"""

import numpy as np
import tensorflow as tf

import hific.models
from common import entropy, mixtures, model
from common.timing import stage

# Fractions of an integer to which the means of y are rounded in coding.
_SHIFT_BITS = 4

_LIKELIHOODS = {"normal": entropy.ShiftedScaleTable, "logistic": entropy.ShiftedLogisticTable}


class HiFiCMixture(hific.models.HiFiC):
    """Mixtures of K components for y, whose parameters are decoded from hyper-latents z.

    Args:
      analysis, synthesis, hyper_analysis: transforms as in `transforms.build`; y has M channels.
      hyper_synthesis: transform to 3 K M channels, as of `HiFiCMixtureHyperSynthesis`.
      likelihood: of each component, "normal" or "logistic".
      use_offset: centre the integer grid of each channel of z on its median.
    """

    def __init__(self, analysis, synthesis, hyper_analysis, hyper_synthesis,
                 likelihood: str = "normal", use_offset: bool = True):
        super().__init__(analysis, synthesis, hyper_analysis, hyper_synthesis, likelihood,
                         use_offset)
        self.y_prior = _LIKELIHOODS[likelihood](2**_SHIFT_BITS)
        channels = self.analysis.out_channels
        self.components, rest = divmod(self.hyper_synthesis.out_channels, 3 * channels)
        if rest or not self.components:
            raise TypeError(f"the hyper-synthesis has {self.hyper_synthesis.out_channels} outputs; "
                            f"mixtures for {channels} channels need a multiple of {3 * channels}")

    def _quantize(self, y, psi, quantizer):
        """As in the base class; logits, means and indices of the mixtures are [..., K, M]."""
        whole = tf.zeros([])
        shape = tf.concat([tf.shape(y)[:-1], [3, self.components, y.shape[-1]]], axis=0)
        logits, mean, log_scale = tf.unstack(tf.reshape(psi, shape), axis=-3)
        return whole, *quantizer(y, whole, "y"), logits, mean, self.y_prior.index(log_scale)

    def _y_bits(self, y, logits, mean, index):
        return self.y_prior.mixture_bits(y[..., None, :] - mean, logits, index)

    def _prediction(self, logits, mean, index):
        """Of the whole mixture."""
        weights = tf.nn.softmax(logits, axis=-2)
        centre = tf.reduce_sum(weights * mean, axis=-2, keepdims=True)
        variance = self.y_prior.deviation(index)**2 + (mean - centre)**2
        return model.Prediction(
            centre[..., 0, :], tf.sqrt(tf.reduce_sum(weights * variance, axis=-2)))

    def _exact_parameters(self, builder, parameters):
        """Integer weights, means in units of 2^-4 and positions in the scale table, K M each."""
        third = parameters.channels // 3
        logits, mean, log_scale = (
            builder.slice(parameters, i * third, (i + 1) * third) for i in range(3))
        return [self._exact_softmax(builder, logits), builder.requantize(mean, _SHIFT_BITS),
                self.y_prior.exact_index(builder, log_scale)]

    def _exact_softmax(self, builder, logits):
        """2^14 exp(logit - largest logit) of every component. Only their ratios matter."""
        channels = logits.channels // self.components
        parts = [builder.slice(logits, i * channels, (i + 1) * channels)
                 for i in range(self.components)]
        below = builder.negate(builder.maximum(*parts))
        return builder.concat(*(
            builder.pointwise(
                builder.requantize(builder.add(part, below), mixtures.WEIGHT_BITS),
                lambda x: tf.exp(tf.minimum(x, 0.0)), linear=False)
            for part in parts))

    def _encode_y(self, y, psi, coder):
        with stage("coding"):
            coder.encode_mixtures(
                np.round(entropy.require_codable(y)), *self._components(psi))

    def _decode_y(self, psi, coder):
        with stage("coding"):
            return tf.cast(coder.decode_mixtures(*self._components(psi)), tf.float32)

    def _components(self, psi):
        """Weights, tables and shifts of the components of y: int [K, 1, h, w, M] each."""
        weights, mean, index = (
            np.moveaxis(x.reshape(*x.shape[:-1], self.components, -1), -2, 0) for x in psi)
        shifts, fraction = np.divmod(mean, 2**_SHIFT_BITS)
        return weights, self._y_distributions(fraction * entropy.NUM_SCALES + index), shifts
