"""Training for a rate: train.rate_target in bits per pixel, in place of a fixed lambda.

The loss is rate_weight * bpp + rd_lambda * distortion + ..., and the weight follows the rate. It
is a number that the gradient does not see.
"""

import math
from collections.abc import Callable, Mapping

import tensorflow as tf

from common import arguments

# The weight that is recorded is the mean over about so many steps.
_MEAN_STEPS = 1000

# Of the target. Logarithms are of rates of at least this: a batch may have none, and net rates of
# bits-back may be negative.
_LEAST_SHARE = 0.01


class RateControl(tf.Module):
    """The weight of the rate in the loss. Its state are variables, which checkpoints hold.

    Args:
      target: bits per pixel.
      num_steps: length of training; times are fractions of it.

    Attributes:
      target: see above.
      mean_weight: variable, a running mean of the weights.
    """

    def __init__(self, target: float, num_steps: int):
        super().__init__()
        if not 0 < target < math.inf:
            raise ValueError(f"the target is {target} bits per pixel; need a positive number")
        self.target = target
        self._num_steps = num_steps
        self.mean_weight = tf.Variable(1.0, trainable=False)

    def __call__(self, step: int | tf.Tensor, bpp: tf.Tensor, coded_bpp: Callable[[], tf.Tensor]
                 ) -> tf.Tensor:
        """The weight for this step, float32.

        Args:
          step: integer or integer tensor.
          bpp: rate of the batch as its loss has it, with noise.
          coded_bpp: computes its rate with rounded latents, which takes time.
        """
        weight = tf.stop_gradient(self._weight(step, tf.stop_gradient(bpp), coded_bpp))
        share = 1 / tf.minimum(tf.cast(step, tf.float32) + 1, _MEAN_STEPS)
        self.mean_weight.assign_add(share * (weight - self.mean_weight))
        return weight

    def _weight(self, step, bpp, coded_bpp):
        raise NotImplementedError

    def begin(self, weight: float) -> None:
        """Takes over the weight that another training for a rate ended with, if that helps."""

    def observe(self, bpp: float) -> None:
        """Tells the control the rate that validation measured; not all controls use it."""


class TwoWeights(RateControl):
    """One weight above the target and a smaller one below (Mentzer et al. 2020, appendix A.6).

    The rate that is compared is that of the batch with rounded latents. While training begins,
    weights and target are larger. The published weights belong to an rd_lambda of 0.00234.

    Args:
      target: bits per pixel.
      num_steps: length of training.
      above: weight of the rate above the target (lambda^(a)), 2, 1 and 0.5 for 0.14, 0.30 and
        0.45 bpp.
      below: weight below the target (lambda^(b)).
      until: fraction of training that counts as its beginning.
      weight_factor: factor of both weights in the beginning.
      target_factor: factor of the target in the beginning.
    """

    def __init__(self, target: float, num_steps: int, above: float, below: float = 2.0**-4,
                 until: float = 0.05, weight_factor: float = 2.0,
                 target_factor: float = 0.20 / 0.14):
        super().__init__(target, num_steps)
        self._weights = above, below
        self._until = until
        self._factors = weight_factor, target_factor

    def _weight(self, step, bpp, coded_bpp):
        begins = tf.cast(step, tf.float32) < self._until * self._num_steps
        weight_factor, target_factor = (tf.where(begins, f, 1.0) for f in self._factors)
        above, below = self._weights
        return weight_factor * tf.where(
            coded_bpp() > self.target * target_factor, above, below)


class ProportionalIntegral(RateControl):
    """A weight that grows while the rate is above the target, and falls while it is below.

    With e the logarithm of (smoothed rate / target),

        log weight = gain * e + integral over steps of (gain / settle) e.

    The rate with noise on crops is not that of rounded latents on whole images, and it is the
    latter that matters: validations tell the ratio of both, by which the target is multiplied in
    training. (Integrating the error of validations instead overshoots, since a model takes hundreds
    of steps to follow.) How close the end comes depends on how many steps and validations there
    are: within 2 % after 20,000 and 20 with the simulated models of its tests.

    Args:
      target: bits per pixel, in validation.
      num_steps: length of training.
      start: the weight to start with.
      gain: of the proportional part.
      settle: fraction of training in which the integral makes up for an error.
      correction: how much a validation counts, beside those before, for the ratio of the rates.
      window: fraction of training over which the rate on crops is averaged for that ratio.
      spread: the weight stays within start / spread and start * spread.
    """

    def __init__(self, target: float, num_steps: int, start: float = 1.0, gain: float = 2.0,
                 settle: float = 0.02, correction: float = 0.7, window: float = 0.05,
                 spread: float = 1e3):
        super().__init__(target, num_steps)
        if not (start > 0 and gain > 0 and settle > 0 and window > 0 and spread > 1):
            raise ValueError("start, gain, settle and window need to be positive, spread above 1")
        self._start, self._spread = math.log(start), math.log(spread)
        self._gain = gain
        self._time = max(settle * num_steps, 1.0)
        self._window = max(window * num_steps, 1.0)
        self._correction = correction
        self._log_rate = tf.Variable(math.log(target), trainable=False, dtype=tf.float32)
        self._integral = tf.Variable(0.0, trainable=False)
        # For validations to compare with. Crops differ: a mean over few says little.
        self._log_mean_rate = tf.Variable(math.log(target), trainable=False, dtype=tf.float32)
        self._log_ratio = tf.Variable(0.0, trainable=False)

    def _weight(self, step, bpp, coded_bpp):
        def follow(mean, time):
            # In the beginning it is the mean of all so far.
            share = 1 / tf.maximum(tf.minimum(tf.cast(step, tf.float32) + 1, time), 1.0)
            return mean.assign_add(share * (tf.math.log(bpp) - mean))

        bpp = tf.maximum(bpp, _LEAST_SHARE * self.target)
        follow(self._log_mean_rate, self._window)
        log_rate = follow(self._log_rate, self._time / 10)
        # Untrained models have many times the rate: that should not fill the integral.
        log_target = math.log(self.target) + self._log_ratio
        error = tf.clip_by_value(log_rate - log_target, -1.0, 1.0)
        integral = self._integral.assign(tf.clip_by_value(
            self._integral + self._gain / self._time * error, -self._spread, self._spread))
        return tf.exp(self._start + tf.clip_by_value(
            integral + self._gain * error, -self._spread, self._spread))

    def begin(self, weight: float) -> None:
        self._integral.assign(
            max(-self._spread, min(self._spread, math.log(weight) - self._start)))

    def observe(self, bpp: float) -> None:
        ratio = self._log_mean_rate.numpy() - math.log(
            max(bpp, _LEAST_SHARE * self.target))
        self._log_ratio.assign_add(self._correction * (ratio - self._log_ratio))


_CONTROLS = {cls.__name__: cls for cls in (TwoWeights, ProportionalIntegral)}


def build(config: Mapping, target: float, num_steps: int) -> RateControl:
    """Builds the control that `config` names, e.g. dict(cls="TwoWeights", above=1.0).

    Raises:
      UserError: there is no such control, or it does not take these arguments.
    """
    return arguments.build("rate control", _CONTROLS, config, target, num_steps)
