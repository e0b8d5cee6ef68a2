"""Learning rate and lambda during training.

All but `ReduceOnPlateau` are pure functions of the training step, given in fractions of training.
"""

import math
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from common import arguments
from common.errors import UserError


class Schedule(tf.keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate: called with the step, an integer or integer tensor.

    Args:
      learning_rate: the largest.
      num_steps: length of training; the others are fractions of it.
      **config: the arguments of the subclass.

    Attributes:
      follows_validation: of a class, whether the rate depends on the losses of validation.
    """

    follows_validation = False

    def __init__(self, learning_rate: float, num_steps: int, **config: Any):
        self._config = dict(learning_rate=learning_rate, num_steps=num_steps, **config)

    def get_config(self) -> dict:
        return self._config

    def observe(self, loss: float) -> None:
        """Tells the schedule a validation loss; see `follows_validation`."""


class Constant(Schedule):
    """The learning rate throughout."""

    def __init__(self, learning_rate: float, num_steps: int):
        super().__init__(learning_rate, num_steps)

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        del step
        return tf.constant(self._config["learning_rate"], tf.float32)


class WarmupDrop(Schedule):
    """Linear warm-up, constant, one drop (the recipe of Yang & Mandt 2023).

    Args:
      learning_rate: the constant.
      num_steps: length of training; the others are fractions of it.
      warmup: fraction over which the rate grows from 0.
      drop_at: fraction at which the rate is multiplied by `drop_factor`.
      drop_factor: see above.
    """

    def __init__(self, learning_rate: float, num_steps: int, warmup: float = 0.02,
                 drop_at: float = 0.8, drop_factor: float = 0.1):
        super().__init__(learning_rate, num_steps, warmup=warmup, drop_at=drop_at,
                         drop_factor=drop_factor)

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        c = self._config
        done = tf.cast(step, tf.float32) / c["num_steps"]
        factor = tf.where(done < c["drop_at"], 1.0, c["drop_factor"])
        return c["learning_rate"] * factor * _warmup(step, c["num_steps"], c["warmup"])


class WarmupCosine(Schedule):
    """Linear warm-up, then half a cosine down to `final` times the rate.

    With `decay_from` the rate stays at its peak until then. Until then, the length of training can
    still be changed: a run that goes on with another `num_steps` has lost nothing.

    Args:
      learning_rate: the peak.
      num_steps: length of training.
      warmup: fraction over which the rate grows from 0.
      final: what remains at the end, as a fraction of the peak.
      decay_from: fraction at which the cosine begins.
    """

    def __init__(self, learning_rate: float, num_steps: int, warmup: float = 0.02,
                 final: float = 0.01, decay_from: float = 0.0):
        if not 0 <= decay_from < 1:
            raise ValueError(f"decay_from is {decay_from}; need a fraction from 0 to below 1")
        super().__init__(
            learning_rate, num_steps, warmup=warmup, final=final, decay_from=decay_from)

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        c = self._config
        done = tf.minimum(tf.cast(step, tf.float32) / c["num_steps"], 1.0)
        done = tf.maximum(done - c["decay_from"], 0.0) / (1 - c["decay_from"])
        cosine = (1 + tf.cos(math.pi * done)) / 2
        factor = c["final"] + (1 - c["final"]) * cosine
        return c["learning_rate"] * factor * _warmup(step, c["num_steps"], c["warmup"])


class Exponential(Schedule):
    """Multiplied by `factor` for every fraction `every` of training, continuously.

    Args:
      learning_rate: at the start.
      num_steps: length of training.
      factor: see above.
      every: see above.
    """

    def __init__(self, learning_rate: float, num_steps: int, factor: float = 0.97,
                 every: float = 0.01):
        _require_positive(factor=factor, every=every)
        super().__init__(learning_rate, num_steps, factor=factor, every=every)

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        c = self._config
        done = tf.cast(step, tf.float32) / c["num_steps"]
        return c["learning_rate"] * c["factor"] ** (done / c["every"])


class CosineRestarts(Schedule):
    """Half cosines one after another (SGDR, Loshchilov & Hutter 2017), by Keras.

    Args:
      learning_rate: the first peak.
      num_steps: length of training.
      first: length of the first cosine, as a fraction of training.
      longer: each is longer than the one before by this factor; 5 in advDNIC.
      lower: each falls through this times the height of the one before; 0.75 in advDNIC.
      final: where each ends, as a fraction of the first peak.
    """

    def __init__(self, learning_rate: float, num_steps: int, first: float = 0.1,
                 longer: float = 2.0, lower: float = 1.0, final: float = 0.0):
        _require_positive(first=first)
        if longer < 1:
            raise ValueError(f"longer is {longer}; need 1 or more")
        super().__init__(learning_rate, num_steps, first=first, longer=longer, lower=lower,
                         final=final)
        self._rate = tf.keras.optimizers.schedules.CosineDecayRestarts(
            learning_rate, first * num_steps, longer, lower, final)

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        return self._rate(step)


class ReduceOnPlateau(Schedule, tf.Module):
    """Multiplied by `factor` whenever `patience` validations in a row are no better than the best.

    Its state are variables, which the optimiser that it is given to tracks: a checkpoint of the
    optimiser holds them. They are relative to `learning_rate`, which may be another one when a
    training is resumed.

    Args:
      learning_rate: at the start.
      num_steps: length of training.
      factor: see above.
      patience: see above. As in Keras's callback, the count starts again after a reduction.
      minimum: the smallest learning rate.
    """

    follows_validation = True

    def __init__(self, learning_rate: float, num_steps: int, factor: float = 0.5,
                 patience: int = 10, minimum: float = 1e-6):
        _require_positive(factor=factor, patience=patience)
        tf.Module.__init__(self)
        super().__init__(learning_rate, num_steps, factor=factor, patience=patience,
                         minimum=minimum)
        self._share = tf.Variable(1.0, trainable=False)
        self._best = tf.Variable(math.inf, trainable=False)
        self._waited = tf.Variable(0, trainable=False)

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        del step
        return self._share * self._config["learning_rate"]

    def observe(self, loss: float) -> None:
        c = self._config
        if loss < self._best:
            self._best.assign(loss)
            self._waited.assign(0)
        elif self._waited.assign_add(1) >= c["patience"]:
            least = tf.minimum(c["minimum"] / c["learning_rate"], self._share)
            self._share.assign(tf.maximum(self._share * c["factor"], least))
            self._waited.assign(0)


def temperature(step: int | tf.Tensor, num_steps: int, rate: float, start: float, largest: float,
                shape: str = "exponential") -> tf.Tensor:
    """Temperature of annealed rounding at `step`, float32, in [1e-8, largest].

    With done = step / num_steps it is largest * exp(-rate * (done - start)), or for the shape
    "linear" largest - rate * (done - start), clipped (Yang et al. 2020, appendix).

    Args:
      step: integer or integer tensor.
      num_steps: number of steps of inference; the others are in units of it.
      rate: how fast it falls.
      start: when it starts to fall.
      largest: the temperature before.
      shape: see above.

    Raises:
      UserError: there is no such shape.
    """
    elapsed = tf.cast(step, tf.float32) / num_steps - start
    if shape == "exponential":
        # Without the bound, an early step's exponential could overflow.
        value = largest * tf.exp(-rate * tf.maximum(elapsed, 0.0))
    elif shape == "linear":
        value = largest - rate * elapsed
    else:
        raise arguments.unknown("shape of a temperature", shape, ("exponential", "linear"))
    return tf.clip_by_value(value, 1e-8, largest)


def _warmup(step, num_steps: int, fraction: float):
    """1 / n at step 0, 1 from step n - 1 on, where n = fraction * num_steps."""
    return tf.minimum(1.0, (tf.cast(step, tf.float32) + 1) / max(1.0, fraction * num_steps))


def _require_positive(**arguments):
    for name, value in arguments.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; need more than 0")


_LEARNING_RATES = {cls.__name__: cls for cls in (
    Constant, WarmupDrop, WarmupCosine, Exponential, CosineRestarts, ReduceOnPlateau)}


def learning_rate(config: Mapping, learning_rate: float, num_steps: int) -> Schedule:
    """Builds the schedule that `config` names, e.g. dict(cls="WarmupDrop", drop_at=0.8).

    Raises:
      UserError: there is no such schedule, or it does not take these arguments.
    """
    return arguments.build("schedule", _LEARNING_RATES, config, learning_rate, num_steps)


def for_optimizer(config: Mapping, optimizer: Mapping, num_steps: int) -> Schedule:
    """The schedule of an optimiser, whose config has the largest rate as its learning_rate.

    Raises:
      UserError: as of `learning_rate`, or the optimiser's config has none.
    """
    if "learning_rate" not in optimizer:
        raise UserError(f"optimizer {dict(optimizer)} has no learning_rate; add one, as 1e-4")
    return learning_rate(config, optimizer["learning_rate"], num_steps)


def rd_lambda(step: int | tf.Tensor, value: float | tf.Tensor, num_steps: int, factor: float,
              until: float, at_most: float) -> tf.Tensor:
    """Lambda at `step`, float32: `factor` times `value` during the first part of training.

    Small lambdas start larger, so that the latents do not collapse (Yang & Mandt 2023).

    Args:
      step: integer or integer tensor.
      value: the lambda to end with, or a tensor of several.
      num_steps: length of training.
      factor: multiplier during warm-up.
      until: fraction of the training that warm-up takes.
      at_most: larger values of lambda are not warmed up.
    """
    warming = tf.cast(step, tf.float32) < until * num_steps
    value = tf.convert_to_tensor(value, tf.float32)
    return tf.where(warming & (value <= at_most), value * factor, value)
