"""Learning rate and lambda as pure functions of the training step."""

import math

import tensorflow as tf

from common.cli import UserError


class WarmupDrop(tf.keras.optimizers.schedules.LearningRateSchedule):
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
        self._config = dict(learning_rate=learning_rate, num_steps=num_steps, warmup=warmup,
                            drop_at=drop_at, drop_factor=drop_factor)

    def __call__(self, step):
        c = self._config
        done = tf.cast(step, tf.float32) / c["num_steps"]
        factor = tf.where(done < c["drop_at"], 1.0, c["drop_factor"])
        return c["learning_rate"] * factor * _warmup(step, c["num_steps"], c["warmup"])

    def get_config(self):
        return self._config


class WarmupCosine(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then half a cosine down to `final` times the rate.

    Args:
      learning_rate: the peak.
      num_steps: length of training.
      warmup: fraction over which the rate grows from 0.
      final: what remains at the end, as a fraction of the peak.
    """

    def __init__(self, learning_rate: float, num_steps: int, warmup: float = 0.02,
                 final: float = 0.01):
        self._config = dict(learning_rate=learning_rate, num_steps=num_steps, warmup=warmup,
                            final=final)

    def __call__(self, step):
        c = self._config
        done = tf.minimum(tf.cast(step, tf.float32) / c["num_steps"], 1.0)
        cosine = (1 + tf.cos(math.pi * done)) / 2
        factor = c["final"] + (1 - c["final"]) * cosine
        return c["learning_rate"] * factor * _warmup(step, c["num_steps"], c["warmup"])

    def get_config(self):
        return self._config


def _warmup(step, num_steps: int, fraction: float):
    """1 / n at step 0, 1 from step n - 1 on, where n = fraction * num_steps."""
    return tf.minimum(1.0, (tf.cast(step, tf.float32) + 1) / max(1.0, fraction * num_steps))


_LEARNING_RATES = {cls.__name__: cls for cls in (WarmupDrop, WarmupCosine)}


def learning_rate(config, learning_rate: float, num_steps: int):
    """Builds the schedule that `config` names, e.g. dict(cls="WarmupDrop", drop_at=0.8).

    Raises:
      UserError: there is no such schedule, or it does not take these arguments.
    """
    arguments = dict(config)
    name = arguments.pop("cls", None)
    if name not in _LEARNING_RATES:
        raise UserError(f"unknown schedule '{name}'; known: {', '.join(_LEARNING_RATES)}")
    try:
        return _LEARNING_RATES[name](learning_rate, num_steps, **arguments)
    except TypeError as error:
        raise UserError(f"schedule {name}: {error}") from error


def rd_lambda(step, value: float, num_steps: int, factor: float, until: float, at_most: float):
    """Lambda at `step`, float32: `factor` times `value` during the first part of training.

    Small lambdas start larger, so that the latents do not collapse (Yang & Mandt 2023).

    Args:
      step: integer or integer tensor.
      value: the lambda to end with.
      num_steps: length of training.
      factor: multiplier during warm-up.
      until: fraction of the training that warm-up takes.
      at_most: larger values of lambda are not warmed up.
    """
    warming = tf.cast(step, tf.float32) < until * num_steps
    return tf.where(warming, value * (factor if value <= at_most else 1.0), value)
