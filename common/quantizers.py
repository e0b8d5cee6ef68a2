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

    def __init__(self, seed: tf.Tensor, alpha: float | tf.Tensor = 4.0):
        super().__init__(seed)
        self._alpha = alpha

    def __call__(self, value, offset, name):
        noisy = tfc.soft_round(value - offset, self._alpha) + self.noise(value, name)
        mean = tfc.soft_round_conditional_mean(noisy, self._alpha)
        return noisy + offset, mean + offset


_TRAINING = {cls.__name__: cls for cls in (UniformNoise, Mixed, SoftRound, StraightThrough)}


def for_training(name: str, seed: tf.Tensor):
    """The training quantizer called `name`, keyed by `seed` (int32 [2]).

    Raises:
      UserError: there is no such quantizer.
    """
    if name not in _TRAINING:
        raise UserError(f"unknown quantizer '{name}'; known: {', '.join(_TRAINING)}")
    cls = _TRAINING[name]
    return cls(seed) if issubclass(cls, UniformNoise) else cls()
