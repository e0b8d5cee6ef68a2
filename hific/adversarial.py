"""The adversarial half of HiFiC's training (Mentzer et al. 2020, section 3 and appendix A).

    loss of the codec           ... + weight * E[-log D(x̂, ŷ)]
    loss of the discriminator   E[-log D(x, ŷ)] + E[-log(1 - D(x̂, ŷ))]

Every step takes two batches: the first trains the discriminator, then the second the codec. In a
codec with levels, E is the same mean at all of them.
"""

from collections.abc import Mapping, Sequence

import tensorflow as tf
from ml_collections import config_dict

from common import arguments, distribution, optimizers, quantizers, schedules, trainer
from common.errors import UserError
from common.model import Codec


class SpectralConv2D(tf.keras.layers.Conv2D):
    """A convolution by kernel / sigma, with sigma the kernel's largest singular value as a matrix.

    Each call in training makes one power iteration (Miyato et al. 2018). Gradients go through
    sigma. Keras's SpectralNormalization overwrites the kernel instead.
    """

    def build(self, input_shape: tf.TensorShape) -> None:
        super().build(input_shape)
        self.left = self.add_weight("left", [1, self.filters], trainable=False,
                                    initializer=tf.keras.initializers.RandomNormal())

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        matrix = tf.reshape(self.kernel, [-1, self.filters])
        right = tf.math.l2_normalize(tf.matmul(self.left, matrix, transpose_b=True))
        left = tf.math.l2_normalize(tf.matmul(right, matrix))
        right, left = tf.stop_gradient(right), tf.stop_gradient(left)
        sigma = tf.matmul(tf.matmul(right, matrix), left, transpose_b=True)
        if training:
            self.left.assign(left)
        return self.activation(self.convolution_op(x, self.kernel / sigma[0, 0]) + self.bias)


class Discriminator(tf.keras.Model):
    """Says of every patch of an image whether it is an original's, given the latents.

        ŷ   3x3 12   x16 (nearest)   \\
                                      concat   4 x 4x4, the first three /2   4x4 1
        2 image - 1                  /

    Every convolution has spectral norm and, but for the last, leaky ReLU of slope 0.2 (figure 2
    and the published code, which differ from the PyTorch port: strides 2, 2, 2, 1, not 2, 2, 2, 2,
    and a last kernel of 4x4, not 1x1). Images are centred first. Spectral norm limits the gain of
    kernels; of images in [0, 1] the mean uses it up, and what is left of the differences is so
    little that nothing is learned in a thousand steps.

    Args:
      stride: ratio of the sides of image and latents.
      channels: outputs of the four convolutions of the image.
      latent_channels: what is made of the latents.
    """

    def __init__(self, stride: int = 16, channels: Sequence[int] = (64, 128, 256, 512),
                 latent_channels: int = 12):
        super().__init__()

        def conv(filters, kernel, strides=1, activation=tf.nn.leaky_relu):
            return SpectralConv2D(filters, kernel, strides, "same", activation=activation,
                                  kernel_initializer=tf.keras.initializers.RandomNormal(0, 0.02))

        self.of_latents = conv(latent_channels, 3)
        self._stride = stride
        *halving, last = channels
        self.convolutions = [*(conv(c, 4, 2) for c in halving), conv(last, 4),
                             conv(1, 4, activation=None)]

    def call(self, inputs: tuple[tf.Tensor, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Logits float32 [B, H/8, W/8, 1], positive for originals.

        Args:
          inputs: images float32 [B, H, W, 3] in [0, 1], and ŷ [B, H/stride, W/stride, C] of each.
          training: improve the estimates of the singular values.
        """
        x, y_hat = inputs
        context = self.of_latents(y_hat, training=training)
        for axis in (1, 2):  # the gradient of resizing to nearest neighbours has no form in XLA
            context = tf.repeat(context, self._stride, axis)
        x = tf.concat([2 * x - 1, context], axis=-1)
        for convolution in self.convolutions:
            x = convolution(x, training=training)
        return x


def codec_loss(fake: tf.Tensor) -> tf.Tensor:
    """The non-saturating loss (Goodfellow et al. 2014) of logits of reconstructions, in nats."""
    return tf.reduce_mean(tf.nn.softplus(-fake))


def discriminator_losses(real: tf.Tensor, fake: tf.Tensor) -> dict[str, tf.Tensor]:
    """The discriminator's loss, and how sure it is: means over all patches.

    Args:
      real, fake: logits of originals and of reconstructions.

    Returns:
      d_loss in nats; d_real and d_fake, the probabilities that it gives originals and
      reconstructions to be originals. Where it cannot tell they are 0.5, and d_loss is 1.386.
    """
    return {
        "d_loss": tf.reduce_mean(tf.nn.softplus(-real)) + tf.reduce_mean(tf.nn.softplus(fake)),
        "d_real": tf.reduce_mean(tf.sigmoid(real)),
        "d_fake": tf.reduce_mean(tf.sigmoid(fake)),
    }


class AdversarialTrainer(trainer.Trainer):
    """Training with a discriminator, as config.train.adversarial describes it.

    That section has the `weight` in the codec's loss, the `optimizer` of the discriminator, whose
    rate follows train.schedule, and the arguments of `Discriminator`. `start`, 0 by default, is
    the step until which the weight is 0 and only the discriminator learns: a codec that learns
    fast hides from a discriminator that knows nothing yet, which then stays so.
    """

    batches_per_step = 2
    additional_metrics = ("g_loss", "d_loss", "d_real", "d_fake")
    has_discriminator = True

    def __init__(self, codec: Codec, config: config_dict.ConfigDict,
                 optimizer: tf.keras.optimizers.Optimizer, average: Codec | None = None):
        stride = codec.analysis.stride
        if config.data.patch_size % stride:
            raise UserError(f"data.patch_size {config.data.patch_size} is not a multiple of the "
                            f"latents' stride {stride}, as the discriminator needs")
        super().__init__(codec, config, optimizer, average)
        section = config.train.adversarial.to_dict()
        arguments.check("train.adversarial", self._add_discriminator, config.train, **section)
        self._add_discriminator(config.train, **section)

    def _add_discriminator(self, train: config_dict.ConfigDict, /, weight: float,
                           optimizer: Mapping, start: int = 0, **discriminator) -> None:
        """Takes config.train, and what config.train.adversarial may have."""
        if start < 0:
            raise UserError(f"train.adversarial.start is {start}; need the step at which the "
                            "adversarial loss begins, 0 for the first")
        self._weight, self._start = weight, start
        self.discriminator = arguments.construct(
            "train.adversarial", Discriminator, self.codec.analysis.stride, **discriminator)
        blank = tf.zeros([1, 64, 64, 3])
        self.discriminator((blank, self.codec.infer(blank)["y"]))
        self.discriminator_optimizer = optimizers.build(
            optimizer, schedules.for_optimizer(train.schedule, optimizer, train.num_steps))
        self.discriminator_optimizer.build(self.discriminator.trainable_variables)

    @property
    def comparable(self) -> bool:
        return False  # what the discriminator is there for, validation does not measure

    def state(self) -> dict[str, tf.Module]:
        return {**super().state(), "discriminator": self.discriminator,
                "discriminator_optimizer": self.discriminator_optimizer}

    def train_step(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        first, second = tf.split(x, 2)
        judged = self.update_discriminator(first)
        return self.record({**self.update_codec(second), **judged})

    def update_discriminator(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """A step of the discriminator's optimiser for a batch; returns what was measured."""
        latents = self.codec.infer(x, level=self.draw_levels(x, stream=2))
        generated = self.codec.generate(latents, quantizers.Round())
        x_hat, y_hat = generated.x_hat, generated.latents["y"]
        with tf.GradientTape() as tape:
            # One call, so that both halves see the same kernels.
            logits = self.discriminator(
                (tf.concat([x, x_hat], axis=0), tf.concat([y_hat, y_hat], axis=0)), training=True)
            judged = discriminator_losses(*tf.split(logits, 2))
            loss = judged["d_loss"] / distribution.replica()[0]
        weights = self.discriminator.trainable_variables
        self.discriminator_optimizer.apply_gradients(
            zip(tape.gradient(loss, weights), weights))
        return judged

    def additional_loss(self, x: tf.Tensor, x_hat: tf.Tensor, y_hat: tf.Tensor
                        ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        del x
        g_loss = codec_loss(self.discriminator((x_hat, tf.stop_gradient(y_hat))))
        weight = tf.where(self.optimizer.iterations >= self._start, self._weight, 0.0)
        return weight * g_loss, {"g_loss": g_loss}


def make_trainer(codec: Codec, config: config_dict.ConfigDict,
                 optimizer: tf.keras.optimizers.Optimizer, average: Codec | None = None
                 ) -> trainer.Trainer:
    """The trainer of a config, with a discriminator if it has one; `training.run` takes this."""
    cls = AdversarialTrainer if "adversarial" in config.train else trainer.Trainer
    return cls(codec, config, optimizer, average)
