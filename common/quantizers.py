"""Quantizers: what a latent becomes in training, in evaluation and in a file.

A quantizer is called as `quantizer(value, offset, name)` and returns a pair

    (the value that the rate is measured on, the value that the decoder gets),

both of the shape of `value`. All round on the integer grid shifted by `offset` (a predicted mean,
or the median of a prior). `name` tells the latents of a model apart, so that each gets its own
noise. Training, evaluation and iterative inference differ only in the quantizer they pass.
`rate_depends_on_offset` says whether the first value does.
"""

import zlib

import tensorflow as tf
import tensorflow_compression as tfc

from common.cli import UserError

# By default each device takes a generator of its own.
_ALGORITHM = "philox"

# `atanh` of soft rounding's inverse goes no nearer to 1, where its gradient is not finite. Only
# for sharpness above 14 do values come nearer: those within 1e-6 of the edge of a cell.
_STEEPEST = 1.0 - 1e-6


def fold_in(seed: tf.Tensor, number) -> tf.Tensor:
    """A seed, int32 [2], that depends on `seed` [2] and an integer, on every device alike."""
    return tf.random.experimental.stateless_fold_in(seed, number, alg=_ALGORITHM)


class Round:
    """Rounding, as a file holds it: (q, q) with q = round(value - offset) + offset."""

    rate_depends_on_offset = True

    def __call__(self, value, offset, name):
        del name
        rounded = tf.round(value - offset) + offset
        return rounded, rounded


class StraightThrough:
    """Rounding whose gradient is that of the identity (Theis et al. 2017, section 2.1)."""

    rate_depends_on_offset = True

    def __call__(self, value, offset, name):
        rounded, _ = Round()(value, offset, name)
        rounded = value + tf.stop_gradient(rounded - value)
        return rounded, rounded


class UniformNoise:
    """Additive noise from U(-1/2, 1/2) in place of rounding (Ballé et al. 2017, section 3).

    Args:
      seed: int32 [2]. The noise is a function of (seed, name, index within the batch) alone.
    """

    rate_depends_on_offset = False

    def __init__(self, seed: tf.Tensor):
        self._seed = seed

    def noise(self, value: tf.Tensor, name: str) -> tf.Tensor:
        key = fold_in(self._seed, zlib.crc32(name.encode()))
        # XLA makes other floats of the same random bits; scaling integers is the same everywhere.
        integers = tf.random.stateless_uniform(
            tf.shape(value), key, None, None, tf.int32, alg=_ALGORITHM)
        return tf.cast(integers, value.dtype) * 2.0**-32

    def __call__(self, value, offset, name):
        del offset
        noisy = value + self.noise(value, name)
        return noisy, noisy


class Mixed(UniformNoise):
    """Noise for the rate, straight-through rounding for the decoder (Minnen & Singh 2020, 3.3)."""

    def __call__(self, value, offset, name):
        noisy, _ = super().__call__(value, offset, name)
        rounded, _ = StraightThrough()(value, offset, name)
        return noisy, rounded


class SoftRound(UniformNoise):
    """Soft rounding with noise (Agustsson & Theis 2020, sections 4.1 and 4.2).

    With s the soft rounding of sharpness alpha, the rate is measured on s(value) + u, and the
    decoder gets the conditional mean of the value given that. alpha -> 0 is `UniformNoise`; for
    alpha -> infinity the decoder gets the rounded value, the rate sees it with noise. The prior is
    left as it is: it learns the density of what it is measured on.

    Args:
      seed: int32 [2].
      alpha: sharpness > 0; a float or a scalar tensor.
    """

    rate_depends_on_offset = True

    def __init__(self, seed: tf.Tensor, alpha: float | tf.Tensor):
        super().__init__(seed)
        self._alpha = alpha

    @classmethod
    def annealed(cls, seed: tf.Tensor, done: tf.Tensor, alpha=(1.0, 16.0)):
        """Soft rounding whose sharpness grows linearly in the course of training.

        Soft rounding and the conditional mean are the paper's; the line and its ends are a choice
        of this zoo.

        Args:
          seed: int32 [2].
          done: the fraction of training that is done; float32 scalar.
          alpha: sharpness in the beginning and in the end, or one for all of training.

        Raises:
          ValueError: alpha is neither, or not positive.
        """
        first, last = alpha if isinstance(alpha, tuple | list) else (alpha, alpha)
        if not min(first, last) > 0:
            raise ValueError(f"alpha is {alpha}; need more than 0")
        return cls(seed, first + (last - first) * done)

    def __call__(self, value, offset, name):
        noisy = tfc.soft_round(value - offset, self._alpha) + self.noise(value, name)
        # The library's soft_round_conditional_mean has NaN gradients from alpha = 16 on.
        centre = tf.round(noisy)
        slope = 2 * tf.tanh(self._alpha / 2) * (noisy - centre)
        mean = centre + tf.atanh(tf.clip_by_value(slope, -_STEEPEST, _STEEPEST)) / self._alpha
        return noisy + offset, mean + offset


_TRAINING = {
    "UniformNoise": lambda seed, done: UniformNoise(seed),
    "Mixed": lambda seed, done: Mixed(seed),
    "SoftRound": SoftRound.annealed,
    "StraightThrough": lambda seed, done: StraightThrough(),
}


def for_training(config, seed: tf.Tensor, step, num_steps: int):
    """Builds the quantizer that `config` names, e.g. dict(cls="SoftRound", alpha=(1.0, 16.0)).

    Args:
      config: `cls`, and the arguments of that class besides those below.
      seed: int32 [2], that of this step.
      step: integer or integer tensor.
      num_steps: length of training.

    Raises:
      UserError: there is no such quantizer, or it does not take these arguments.
    """
    arguments = dict(config)
    name = arguments.pop("cls", None)
    if name not in _TRAINING:
        raise UserError(f"unknown quantizer '{name}'; known: {', '.join(_TRAINING)}")
    try:
        return _TRAINING[name](seed, tf.cast(step, tf.float32) / num_steps, **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"quantizer {name}: {error}") from error
