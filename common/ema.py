"""EMA: the exponential moving average of the weights that are trained (train.ema_decay)."""

import tensorflow as tf


def follow(average: tf.keras.Model, codec: tf.keras.Model, decay: float, step: tf.Tensor) -> None:
    """Moves the weights of `average` towards those of `codec`:

        average <- d average + (1 - d) codec,    d = min(decay, (1 + step) / (10 + step))

    In the beginning it follows faster, for the weights that training began with are of no use.
    What is not trained, as the statistics of batch normalisation, is an average already and is
    copied. (Keras's own, `use_ema`, overwrites the weights that are trained when training ends.)

    Args:
      average: a model with the same variables as `codec`.
      codec: the model that is trained.
      decay: 0.999 averages over the last 1000 steps, about.
      step: how many steps are done; an integer tensor.
    """
    done = tf.cast(step, tf.float32)
    decay = tf.minimum(decay, (1 + done) / (10 + done))
    for mean, weight in zip(average.variables, codec.variables):
        mean.assign(decay * mean + (1 - decay) * weight if weight.trainable else weight)
