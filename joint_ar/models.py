"""Joint autoregressive and hierarchical prior (Minnen et al. 2018).

                ┌──────────┐  y            ┌───┐      ŷ           ┌───────────┐
          x ───►│ analysis │──┬───────────►│ Q │──┬──────────────►│ synthesis │───► x̂
                └──────────┘  │            └─▲─┘  │               └───────────┘
                              ▼              │    │ positions before this one
                    ┌────────────────┐       │    ▼
                    │ hyper-analysis │       │  ┌─────────┐
                    └───────┬────────┘       │  │ context │
                            │ z              │  └───┬─────┘
                            ▼                │      │ phi
                          ┌───┐              │      ▼
                          │ Q │              │  ┌────────────────────┐
                          └─┬─┘              └──┤ entropy parameters │  mean, scale
                            │ ẑ                 └───▲────────────────┘
                            │   ┌─────────────────┐ │ psi
                            └──►│ hyper-synthesis ├─┘
                                └─────────────────┘

y is rounded on the grid around its mean, and the mean of a position depends on the rounded
positions before it: quantisation itself is serial in coding. Evaluation finds the same y by passes
over all positions, as many as it takes; validation and training take a few.
"""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

import mshyper.models
from common import transforms
from common.coders import Encoder, StreamDecoder
from common.conditional import MEAN_BITS
from common.context import Wavefront
from common.integer_builder import Builder
from common.integer_networks import Network
from common.model import PIXEL_RANGE
from common.quantizers import Quantizer
from common.timing import stage
from common.transforms import contract

# The integer context sees larger values of y clipped. White has 135 at mshyper's highest level.
_LARGEST_Y = 2**13

# Rounding to another integer moves y by 1. Up to this, y counts as unchanged: means shift a little
# while others converge, and those of floats differ from those of integer networks by up to 0.01.
_UNCHANGED = 0.1

# Passes of the context in training that find the means for rounding y. A serial decoder's means
# follow from rounded values, and drift: it has up to 5 % more squared error at low rates than after
# one pass, whose means follow from y itself.
_TRAINING_PASSES = 3


class JointAutoregressive(mshyper.models.MeanScaleHyperprior):
    """Gaussian latents y whose means and scales follow from z and from the decoded part of y.

    Args:
      analysis, synthesis, hyper_analysis, hyper_synthesis: transforms as in `transforms.build`.
      context: transform of y whose output depends on earlier positions only.
      entropy_parameters: transform of [phi, psi] to means and to what is predicted of scales,
        2 M channels.
      use_offset, density, scale_output, levels, pixel_range: as of `MeanScaleHyperprior`.
    """

    context: transforms.AnyTransform

    def __init__(self, analysis: Mapping, synthesis: Mapping, hyper_analysis: Mapping,
                 hyper_synthesis: Mapping, context: Mapping, entropy_parameters: Mapping,
                 use_offset: bool | str = True, density: dict | None = None,
                 scale_output: str = "log_scale", levels: dict | None = None,
                 pixel_range: tuple[float, float] = PIXEL_RANGE):
        super().__init__(analysis, synthesis, hyper_analysis, hyper_synthesis,
                         use_offset=use_offset, density=density, scale_output=scale_output,
                         levels=levels, pixel_range=pixel_range)
        self.context = transforms.build(context)
        self.entropy_parameters = transforms.build(entropy_parameters)
        self._cached: tuple[Any, Wavefront] | None = None

    def _quantize(self, y, psi, quantizer: Quantizer):
        def given(y_hat):
            return self.y_prior.given(
                self.entropy_parameters(tf.concat([self.context(y_hat), psi], axis=-1)),
                quantizer.differentiable)

        if not quantizer.differentiable:
            p_y = given(self._converge(y, given, quantizer))
            return *quantizer(y, p_y.offset, "y"), p_y.offset, p_y
        # The context sees what the decoder gets: y that is rounded, and mostly to its mean, says
        # more than y with noise.
        if quantizer.depends_on_offset:
            # A position's mean follows from rounded values before it, which are not known yet:
            # those of the pass before are taken, and in the first pass y itself.
            y_hat = y
            for _ in range(_TRAINING_PASSES):
                offset = tf.stop_gradient(given(tf.stop_gradient(y_hat)).offset)
                y_rate, y_hat = quantizer(y, offset, "y")
            return y_rate, y_hat, offset, given(y_hat)
        y_rate, y_hat = quantizer(y, tf.zeros_like(y), "y")
        p_y = given(y_hat)
        return y_rate, y_hat, p_y.offset, p_y

    def _converge(self, y, given, quantizer: Quantizer):
        """The y of a serial decoder for a quantizer that rounds, found for all positions together.

        A fixed-point iteration: each pass rounds y around the means predicted from the result of
        the pass before, until that does not change. A pass makes at least one more wavefront final
        (see common/context.py). On photographs it is seldom more than one, because one changed
        rounding changes what follows. Latents that were decoded need one pass.

        The result is what a decoder would get position by position. With `quantizer.passes` the
        iteration ends after so many passes, and the result may differ.
        """
        def step(guess, _):
            _, decoded = quantizer(y, given(guess).offset, "y")
            return decoded, tf.reduce_any(tf.abs(decoded - guess) > _UNCHANGED)

        passes = quantizer.passes
        decoded, _ = tf.while_loop(
            lambda _, changed: changed, step, (tf.stop_gradient(y), True),
            maximum_iterations=tf.shape(y)[1] * tf.shape(y)[2] if passes is None else passes)
        return tf.stop_gradient(decoded)

    def integer_networks(self) -> dict[str, Network]:
        builder = Builder()
        psi = self._integer_psi(builder)
        networks = {"hyper_synthesis": builder.network(psi)}
        builder = Builder()
        y = builder.input(0, self.analysis.out_channels, MEAN_BITS, _LARGEST_Y * 2**MEAN_BITS)
        phi = contract.integers(self.context, builder, y)
        both = builder.concat(phi, builder.input(1, psi.channels, psi.bits, psi.bound))
        parameters = contract.integers(self.entropy_parameters, builder, both)
        networks["context"] = builder.network(*self.y_prior.integers(builder, parameters))
        return networks

    def prepare_coding(self) -> None:
        super().prepare_coding()
        self._wavefront()  # refuses a context that is not causal

    def _encode_y(self, y, outputs, coder: Encoder):
        psi, = outputs
        with stage("context"):
            self._wavefront().encode(y, tf.cast(psi, tf.float64), coder)

    def _decode_y(self, outputs, coder: StreamDecoder):
        psi, = outputs
        with stage("context"):
            return self._wavefront().decode(coder, tf.cast(psi, tf.float64))

    def _wavefront(self):
        """Made once for the networks at hand."""
        network = self.networks["context"]
        assert self.tables is not None
        if self._cached is None or self._cached[0] is not network:
            self._cached = network, Wavefront(
                network, self.tables, self._y_numbers.start, MEAN_BITS)
        return self._cached[1]
