"""A step of training.

         ┌──────────────────────────────── Codec ────────────────────────────────┐
    x ──►│ infer ──► latents ──► generate, through train.quantizer ──► bits, x̂   ├──► loss
         └───────────────────────────────────▲───────────────────────────────────┘      │
                                             └────── gradients ◄── optimizer ◄──────────┘
                                             │
                                             └─────► EMA, which is validated and exported

What comes between steps is in common/training_loop.py.
"""

import tensorflow as tf
from ml_collections import config_dict

from common import (
    distribution,
    ema,
    objectives,
    padding,
    quantizers,
    rate_control,
    schedules,
    validation,
)
from common.errors import UserError
from common.model import Codec


class Trainer(tf.Module):
    """Trains a codec, a batch at a time.

    Args:
      codec: the model to train.
      config: as in common/recipes.py.
      optimizer: that of the codec.
      average: if given, a model that follows the weights of `codec` as train.ema_decay says, and
        is validated and exported in its place.

    Attributes:
      codec, optimizer: see above.
      result: the model to validate and to export: `average`, or else `codec`.
      objective: what is minimised.
      rate_control: with train.rate_target, what weighs the rate; else None.
      comparable: whether the validation losses of different steps say which is better; if not, the
        last result is exported, not the best.
      batches_per_step: how many batches of data.batch_size `train_step` takes.
      additional_metrics: names of what `train_step` measures besides the objective.
      has_discriminator: whether config.train.adversarial is for it.
      means: of what was measured since `means.reset`.

    Raises:
      UserError: a mistake in the config.
    """

    batches_per_step = 1
    additional_metrics: tuple[str, ...] = ()
    has_discriminator = False

    def __init__(self, codec: Codec, config: config_dict.ConfigDict,
                 optimizer: tf.keras.optimizers.Optimizer, average: Codec | None = None):
        super().__init__()
        if "adversarial" in config.train and not self.has_discriminator:
            raise UserError("the config has a section train.adversarial, of a discriminator, with "
                            "which only python -m hific.train trains")
        self.codec = codec
        self.optimizer = optimizer
        self.result = average or codec
        self.objective = objectives.of_training(config.train)
        self.rate_control = None
        if config.train.rate_target is not None:
            self.rate_control = rate_control.build(
                config.train.rate_control, config.train.rate_target, config.train.num_steps)
        self.means = Means([*self.objective.names(self.result), *self.additional_metrics,
                            "rd_lambda", "rate_weight", "learning_rate"])
        self._seed = config.seed
        self._train = config.train

    @property
    def comparable(self) -> bool:
        return self.rate_control is None  # which changes the weights of the loss

    def state(self) -> dict[str, tf.Module]:
        """Further objects that a checkpoint holds besides models and optimiser, by name."""
        state = {"window": self.means}  # the name that they have in checkpoints
        return state | {"rate_control": self.rate_control} if self.rate_control else state

    def train_step(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """A step for images x, float32 [B, H, W, 3]; returns what was measured, which `means` has.

        On several devices, x is the share of one, and what is returned are means over all.
        """
        return self.record(self.update_codec(x))

    def update_codec(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """A step of the codec's optimiser for a batch; returns what was measured."""
        step, num_steps = self.optimizer.iterations, self._train.num_steps
        key = quantizers.fold_in([self._seed, 0], step)
        quantizer = quantizers.for_training(self._train.quantizer, key, step, num_steps)
        level = self.draw_levels(x)
        rd_lambda, weight = self.objective.weights(self.codec, level)
        rd_lambda = schedules.rd_lambda(
            step, rd_lambda, num_steps, **self._train.rd_lambda_warmup)
        with tf.GradientTape() as tape:
            latents = self.codec.infer(x, training=True, level=level)
            generated = self.codec.generate(latents, quantizer, training=True)
            rate_weight = self._rate_weight(step, x, latents, generated)
            measured = self.objective(
                x, generated, rd_lambda, weight=weight, rate_weight=rate_weight)
            additional, also_measured = self.additional_loss(
                x, padding.crop_to(generated.x_hat, x), generated.latents["y"])
            # The optimiser adds up the gradients of all replicas.
            replicas, _ = distribution.replica()
            loss = (measured["rd_loss"] + additional) / replicas
        weights = self.codec.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        if self.result is not self.codec:
            ema.follow(self.result, self.codec, self._train.ema_decay, step)
        # Keras brings its learning rate up to date in `apply_gradients`.
        return {**measured, **also_measured, "rd_lambda": tf.reduce_mean(rd_lambda),
                "rate_weight": rate_weight,
                "learning_rate": tf.identity(self.optimizer.learning_rate)}

    def additional_loss(self, x: tf.Tensor, x_hat: tf.Tensor, y_hat: tf.Tensor
                        ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Further terms of the loss, which a subclass adds, and measurements by name.

        Args:
          x: originals, float32 [B, H, W, 3].
          x_hat: reconstructions of the same shape.
          y_hat: the latents that they were made of.
        """
        del x, x_hat, y_hat
        return tf.zeros([]), {}

    def draw_levels(self, x: tf.Tensor, stream: int = 1) -> tf.Tensor | None:
        """The levels at which a step takes images: int32 [B], or None if the codec has none.

        They are a function of seed, step, `stream` and the images' places in the batch of all
        replicas together.
        """
        if not self.codec.levels:
            return None
        replicas, index = distribution.replica()
        batch = tf.shape(x)[0]
        key = quantizers.fold_in([self._seed, stream], self.optimizer.iterations)
        levels = self.codec.levels.draw(key, replicas * batch)
        return levels[index * batch:(index + 1) * batch]

    def record(self, measured: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The means over all replicas of what was measured in a step; `means` gets them too."""
        measured = distribution.mean(measured)
        self.means.add(measured)
        return measured

    def update_offsets(self) -> None:
        """Recentres the integer grids, on which some quantizers round in training too."""
        for codec in {self.codec, self.result}:
            codec.update_offsets()

    def _rate_weight(self, step, x, latents, generated):
        if self.rate_control is None:
            return tf.ones([])

        def mean(bits):
            return distribution.mean(
                tf.reduce_mean(tf.add_n(list(objectives.bits_per_pixel(x, bits).values()))))

        def coded_bpp():
            # The graph drops the synthesis, whose output nothing needs.
            fixed = tf.nest.map_structure(tf.stop_gradient, latents)
            return mean(self.codec.generate(fixed, validation.QUANTIZER).bits)

        return self.rate_control(step, mean(generated.bits), coded_bpp)


class Means(tf.Module):
    """Means by name, in a variable, which goes into checkpoints.

    Args:
      names: of what `add` gets.
    """

    def __init__(self, names: list[str]):
        super().__init__()
        self._names = names
        self._sums = tf.Variable(tf.zeros(len(names) + 1), trainable=False)  # the last counts

    def add(self, values: dict[str, tf.Tensor]) -> None:
        """Adds scalars float32 to those that the means are taken of."""
        self._sums.assign_add(tf.stack([*(values[name] for name in self._names), 1.0]))

    def result(self) -> dict[str, float]:
        """The means; nothing if there is nothing to take them of."""
        *sums, count = self._sums.numpy().tolist()
        return {name: total / count for name, total in zip(self._names, sums)} if count else {}

    def reset(self) -> None:
        """Forgets all."""
        self._sums.assign(tf.zeros_like(self._sums))
