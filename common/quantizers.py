"""Quantizers: what a latent becomes in training, in evaluation and in a file.

Training, evaluation and refinement differ only in the `Quantizer` they pass to a codec.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import tensorflow as tf
import tensorflow_compression as tfc

from common import arguments, distribution

# By default each device takes a generator of its own.
_ALGORITHM = "philox"

# `atanh` of soft rounding's inverse goes no nearer to 1, where it is not finite. Only for sharpness
# above 14 do values come nearer: those within 1e-6 of the edge of a cell.
_STEEPEST = 1.0 - 1e-6


def fold_in(seed: tf.Tensor, number: int | tf.Tensor) -> tf.Tensor:
    """A seed, int32 [2], that depends on `seed` [2] and an integer, on every device alike."""
    return tf.random.experimental.stateless_fold_in(seed, number, alg=_ALGORITHM)


def uniform(shape: Sequence[int | tf.Tensor], seed: tf.Tensor) -> tf.Tensor:
    """Random float32 from U(-1/2, 1/2), the same of a seed, int32 [2], on every device."""
    # XLA makes other floats of the same random bits; scaling integers is the same everywhere.
    integers = tf.random.stateless_uniform(shape, seed, None, None, tf.int32, alg=_ALGORITHM)
    return tf.cast(integers, tf.float32) * 2.0**-32


class Quantizer(Protocol):
    """Makes latents discrete, or something like it.

    Attributes:
      depends_on_offset: whether one of the values does.
      differentiable: whether the values have gradients, with which a model then measures rates that
        have some too.
      passes: see `Round`.
    """

    depends_on_offset: bool
    differentiable: bool
    passes: int | tf.Tensor | None

    def __call__(self, value: tf.Tensor, offset: tf.Tensor | float, name: str
                 ) -> tuple[tf.Tensor, tf.Tensor]:
        """The value that the rate is measured on, and the one that the decoder gets.

        Args:
          value: a latent, float32; the results are of its shape.
          offset: of the integer grid to round on; a predicted mean, or the median of a prior.
          name: of the latent, so that each of a model gets its own noise.
        """

    def noise(self, value: tf.Tensor, name: str) -> tf.Tensor:
        """Noise from U(-1/2, 1/2) of the shape of `value`.

        It is a function of (seed, name, index within the batch) alone; without a seed always the
        same.
        """


class _Base(Quantizer):
    """Base of the quantizers below: the noise of a seed, int32 [2]."""

    passes: int | tf.Tensor | None = None
    _seed: Any = (0, 0)

    def noise(self, value: tf.Tensor, name: str) -> tf.Tensor:
        key = fold_in(self._seed, zlib.crc32(name.encode()))
        # Of several replicas, each takes what is its own of the noise for the whole batch.
        replicas, index = distribution.replica()
        batch, *sides = tf.unstack(tf.shape(value))
        noise = uniform([replicas * batch, *sides], key)
        return tf.cast(noise[index * batch:(index + 1) * batch], value.dtype)


class Continuous(_Base):
    """The value itself, for inference that ignores quantisation ("MAP" in Yang et al. 2020)."""

    depends_on_offset = False
    differentiable = True

    def __call__(self, value: tf.Tensor, offset: tf.Tensor | float, name: str
                 ) -> tuple[tf.Tensor, tf.Tensor]:
        del offset, name
        return value, value


class Round(_Base):
    """Rounding, as a file holds it: (q, q) with q = round(value - offset) + offset.

    Args:
      passes: where the offsets follow from what was rounded before, position by position, how many
        passes over all positions may approximate that, an integer or integer tensor; by default as
        many as it takes.
    """

    depends_on_offset = True
    differentiable = False

    def __init__(self, passes: int | tf.Tensor | None = None):
        self.passes = passes

    def __call__(self, value: tf.Tensor, offset: tf.Tensor | float, name: str
                 ) -> tuple[tf.Tensor, tf.Tensor]:
        del name
        rounded = tf.round(value - offset) + offset
        return rounded, rounded


class StraightThrough(_Base):
    """Rounding whose gradient is that of the identity (Theis et al. 2017, section 2.1).

    Args:
      seed: int32 [2]; for latents that are drawn, see `normal_noise`.
    """

    depends_on_offset = True
    differentiable = True

    def __init__(self, seed: tf.Tensor | None = None):
        if seed is not None:
            self._seed = seed

    def __call__(self, value: tf.Tensor, offset: tf.Tensor | float, name: str
                 ) -> tuple[tf.Tensor, tf.Tensor]:
        rounded, _ = Round()(value, offset, name)
        rounded = value + tf.stop_gradient(rounded - value)
        return rounded, rounded


class UniformNoise(_Base):
    """Additive noise from U(-1/2, 1/2) in place of rounding (Ballé et al. 2017, section 3).

    Args:
      seed: int32 [2].
    """

    depends_on_offset = False
    differentiable = True

    def __init__(self, seed: tf.Tensor):
        self._seed = seed

    def __call__(self, value: tf.Tensor, offset: tf.Tensor | float, name: str
                 ) -> tuple[tf.Tensor, tf.Tensor]:
        del offset
        noisy = value + self.noise(value, name)
        return noisy, noisy


def normal_noise(quantizer: Quantizer, value: tf.Tensor, name: str) -> tf.Tensor:
    """Standard normal noise of the shape of `value`, for a latent that is drawn, not quantised.

    It is made of the quantizer's noise, so that every step of a training has its own.
    """
    return math.sqrt(2.0) * tf.math.erfinv(
        tf.clip_by_value(2 * quantizer.noise(value, name), -_STEEPEST, _STEEPEST))


class Mixed(UniformNoise):
    """Noise for the rate, straight-through rounding for the decoder (Minnen & Singh 2020, 3.3).

    Args:
      seed: int32 [2].
      noisy: names of latents whose noise the decoder gets too. For "z" that is HiFiC (Mentzer et
        al. 2020); rounded, z is 0 at first, and a hyper-synthesis of it does not learn.
    """

    depends_on_offset = True

    def __init__(self, seed: tf.Tensor, noisy: tuple[str, ...] = ()):
        super().__init__(seed)
        self._noisy = noisy

    def __call__(self, value: tf.Tensor, offset: tf.Tensor | float, name: str
                 ) -> tuple[tf.Tensor, tf.Tensor]:
        noisy, _ = super().__call__(value, offset, name)
        rounded, _ = StraightThrough()(value, offset, name)
        return noisy, noisy if name in self._noisy else rounded


class SoftRound(UniformNoise):
    """Soft rounding with noise (Agustsson & Theis 2020, sections 4.1 and 4.2).

    With s the soft rounding of sharpness alpha, the rate is measured on s(value) + u, and the
    decoder gets r(s(value) + u), the conditional mean of the value given that. alpha -> 0 is
    `UniformNoise`; for alpha -> infinity the decoder gets the rounded value, the rate sees it with
    noise. The prior is left as it is: it learns the density of what it is measured on.

    Of r the gradient is the mean over u, which is r(s + 1/2) - r(s - 1/2) = 1 (section 4.2). That
    of a single u is next to nothing mostly, and thousands at times, at alpha = 16.

    Args:
      seed: int32 [2].
      alpha: sharpness > 0; a float or a scalar tensor.
    """

    depends_on_offset = True

    def __init__(self, seed: tf.Tensor, alpha: float | tf.Tensor):
        super().__init__(seed)
        self._alpha = alpha

    @classmethod
    def annealed(cls, seed: tf.Tensor, done: tf.Tensor,
                 alpha: float | tuple[float, float] = (1.0, 16.0)) -> "SoftRound":
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

    def __call__(self, value: tf.Tensor, offset: tf.Tensor | float, name: str
                 ) -> tuple[tf.Tensor, tf.Tensor]:
        soft = tfc.soft_round(value - offset, self._alpha)
        noisy = soft + self.noise(value, name)
        # The library's soft_round_conditional_mean has NaN gradients from alpha = 16 on.
        centre = tf.round(noisy)
        slope = 2 * tf.tanh(self._alpha / 2) * (noisy - centre)
        mean = centre + tf.atanh(tf.clip_by_value(slope, -_STEEPEST, _STEEPEST)) / self._alpha
        return noisy + offset, soft + tf.stop_gradient(mean - soft) + offset


class DeterministicAnnealing(_Base):
    """A mean of the two nearest grid points that sharpens as the temperature falls.

    With f in [0, 1] the distance from the lower of them, the upper one's weight is

        r(f) = sigmoid((atanh(f) - atanh(1 - f)) / temperature)

    (Yang et al. 2020, section 4, "deterministic annealing", after Agustsson et al. 2017).

    The gradient is that of r where f is at least `margin` from both grid points, and at most
    `steepest`: on a grid point there still is one, and it does not grow beyond all bounds.

    Args:
      temperature: > 0; a float or a scalar tensor.
    """

    depends_on_offset = True
    differentiable = True
    margin = 1e-2
    steepest = 50.0
    _published_margin = 1e-5

    def __init__(self, temperature: float | tf.Tensor):
        self._temperature = temperature

    def __call__(self, value: tf.Tensor, offset: tf.Tensor | float, name: str
                 ) -> tuple[tf.Tensor, tf.Tensor]:
        shifted = value - offset
        lower = tf.floor(shifted)
        f = shifted - lower
        perturbation = self._perturbation(value, name)
        r, _ = self._weight(f, perturbation, self._published_margin)
        _, slope = self._weight(f, perturbation, self.margin)
        mixed = lower + r + offset
        # The grid is the decoder's: no gradient goes to where it lies.
        mixed = tf.stop_gradient(mixed) + tf.stop_gradient(slope) * (
            value - tf.stop_gradient(value))
        return mixed, mixed

    def _weight(self, f, perturbation, margin):
        """r, and its derivative by f."""
        down = tf.clip_by_value(f, margin, 1 - margin)
        up = 1 - down
        odds = (tf.atanh(down) - tf.atanh(up)) / self._temperature
        inverse = self._sharpness
        logit = (odds + perturbation) * inverse
        r, rest = tf.sigmoid(logit), tf.sigmoid(-logit)  # 1 - r would round to 0
        slope = 1 / (1 - down**2) + 1 / (1 - up**2)
        return r, tf.minimum(r * rest * inverse * slope / self._temperature, self.steepest)

    @property
    def _sharpness(self):
        return 1.0

    def _perturbation(self, value, name):
        del value, name
        return 0.0


class StochasticGumbel(DeterministicAnnealing):
    """Stochastic Gumbel annealing, SGA (Yang et al. 2020, section 3.2).

    The weights of `DeterministicAnnealing` are the probabilities with which either point is drawn,
    P(upper) / P(lower) = exp((atanh(f) - atanh(1 - f)) / temperature). The sample is relaxed with
    the same temperature: r = sigmoid((log of these odds + logistic noise) / temperature), where
    the noise is the difference of two Gumbel ones.

    Args:
      temperature: > 0; a float or a scalar tensor.
      seed: int32 [2].
    """

    def __init__(self, temperature: float | tf.Tensor, seed: tf.Tensor):
        super().__init__(temperature)
        self._seed = seed

    @property
    def _sharpness(self):
        return 1 / self._temperature

    def _perturbation(self, value, name):
        # In (0, 1), also where the 32 random bits are all zero.
        u = tf.clip_by_value(self.noise(value, name) + 0.5, 2.0**-24, 1 - 2.0**-24)
        return tf.math.log(u) - tf.math.log1p(-u)


class OnGrid(_Base):
    """A quantizer on a grid that is known beforehand, whatever offsets it is called with.

    Args:
      quantizer: the one that rounds.
      offsets: by the latent's name, the grid's offset.
      noise: for latents that are drawn, see `normal_noise`; the method of that name of a quantizer.
    """

    # Models need not look for a mean to lay the grid on.
    depends_on_offset = False

    def __init__(self, quantizer: Quantizer, offsets: dict[str, tf.Tensor], noise: Callable):
        self.differentiable = quantizer.differentiable
        self._quantizer = quantizer
        self._offsets = offsets
        self._noise = noise

    def __call__(self, value: tf.Tensor, offset: tf.Tensor | float, name: str
                 ) -> tuple[tf.Tensor, tf.Tensor]:
        del offset
        return self._quantizer(value, self._offsets[name], name)

    def noise(self, value: tf.Tensor, name: str) -> tf.Tensor:
        return self._noise(value, name)


_TRAINING: dict[str, Callable] = {
    "UniformNoise": lambda seed, done: UniformNoise(seed),
    "Mixed": lambda seed, done, noisy=(): Mixed(seed, noisy),
    "SoftRound": SoftRound.annealed,
    "StraightThrough": lambda seed, done: StraightThrough(seed),
}


def for_training(config: Mapping, seed: tf.Tensor, step: int | tf.Tensor, num_steps: int
                 ) -> Quantizer:
    """Builds the quantizer that `config` names, e.g. dict(cls="SoftRound", alpha=(1.0, 16.0)).

    Args:
      config: `cls`, and the arguments of that class besides those below.
      seed: int32 [2], that of this step.
      step: integer or integer tensor.
      num_steps: length of training.

    Raises:
      UserError: there is no such quantizer, or it does not take these arguments.
    """
    return arguments.build(
        "quantizer", _TRAINING, config, seed, tf.cast(step, tf.float32) / num_steps)
