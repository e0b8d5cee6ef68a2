"""One model for a range of rates: its level says which lambda a file was coded for.

    loss at level l     w_l (bpp + lambda_l * distortion)
    lambda_l            from the lowest to the highest, evenly spaced in the logarithm

          ┌──────────┐         y  ┌──────────────────┐  ŷ              ┌───────────┐
    x ───►│ analysis ├───► * ────►│ Q, entropy model ├───────► * ─────►│ synthesis │───► x̂
          └──────────┘     ▲      └──────────────────┘         ▲       └───────────┘
               gain[level] │                    inverse[level] │

y is multiplied by a gain for each channel, and ŷ by another (Cui et al. 2021, "Asymmetric gained
deep image compression with continuous rate adaptation"). So the step of quantisation is 1 / gain.
The best step of a transform code is proportional to 1 / sqrt(lambda), and gains begin like this.
The inverse is learned separately, because the best reconstruction is the mean of the values that
were rounded to the same integer. Gains are learned at a few knots; between them, log gain is linear
in log lambda. The number of levels matters to the file only.

With `scales`, the outputs of convolutions of analysis and synthesis (every `Convolution`; Keras's
are none) are multiplied too, by exp(a t + b t^2), at most e^2 either way; t is from -1 to 1 along
log lambda (Choi et al. 2019, "Variable rate deep image compression with a conditional
autoencoder"). Without, one analysis serves all levels. The hyper transforms see y after its gain,
which is all that they need. The level is a latent of its own, int32 [B], that the file holds before
all others.
"""

import contextlib
import math

import numpy as np
import tensorflow as tf

from common import quantizers, weights
from common.coders import Decoder, Encoder
from common.errors import CodingError
from common.transforms import convolution
from common.transforms.convolution import Convolution

# What a level is chosen by when nobody says; see `Levels.at_quality`.
DEFAULT_QUALITY = 50

# Where gains are learned.
_KNOTS = 5


class Levels(tf.keras.layers.Layer):
    """The levels of a codec: their lambdas, their gains, and how a file holds them.

    As a prior (common/priors.py) it is the uniform distribution of the levels.

    Args:
      channels: of y.
      count: number of levels, at least 2. A file of one of 201 spends 7.7 bits on it.
      rd_lambda: those of the lowest and of the highest level.
      scales: whether convolutions have scales by level.

    Raises:
      TypeError: these make no levels.
    """

    distributions = 1

    def __init__(self, channels: int, count: int, rd_lambda: tuple[float, float],
                 scales: bool = False):
        super().__init__(dtype="float32", name="levels")
        if not 2 <= count <= 4096:
            raise TypeError(f"levels.count is {count}; need 2 to 4096")
        if len(rd_lambda) != 2 or not 0 < rd_lambda[0] < rd_lambda[1] < math.inf:
            raise TypeError(f"levels.rd_lambda is {rd_lambda}; need the lowest lambda and the "
                            "highest")
        low, high = rd_lambda
        self.count = count
        self.scales = scales
        self._lowest, self._range = math.log(low), math.log(high / low)
        # Natural logarithms, [knots, channels].
        ideal = np.linspace(-self._range / 4, self._range / 4, _KNOTS)[:, None]
        for name, sign in (("log_gain", 1), ("log_inverse", -1)):
            initial = np.broadcast_to(sign * ideal, [_KNOTS, channels])
            setattr(self, name, self.add_weight(
                name, initial.shape, initializer=tf.keras.initializers.Constant(initial)))
        # For one image at a time, ten operations by themselves take longer than a graph of them.
        self._interpolated = tf.function(  # type: ignore[method-assign]
            self._interpolated, reduce_retracing=True, autograph=False)

    def at_quality(self, quality: float) -> int:
        """The level of a quality from 0 (lowest) to 100, to the nearest."""
        return round(quality / 100 * (self.count - 1))

    def quality(self, level: int) -> float:
        """The inverse of `at_quality`."""
        return 100 * level / (self.count - 1)

    def spread(self, number: int) -> list[int]:
        """`number` levels from the lowest to the highest, or all if there are fewer."""
        return sorted({round(level) for level in np.linspace(0, self.count - 1, number)})

    def latent(self, level: int | tf.Tensor, batch: int | tf.Tensor) -> tf.Tensor:
        """The latent of a level for all images, or of one for each: int32 [batch]."""
        return tf.broadcast_to(tf.cast(level, tf.int32), [batch])

    def draw(self, seed: tf.Tensor, batch: int | tf.Tensor) -> tf.Tensor:
        """Random levels int32 [batch], a function of `seed` (int32 [2]) and the image's index.

        Each is uniform within its share of the range, so that a batch covers all of it.
        """
        places = tf.cast(tf.range(batch), tf.float32) + quantizers.uniform([batch], seed) + 0.5
        level = places / tf.cast(batch, tf.float32) * self.count
        return tf.minimum(tf.cast(level, tf.int32), self.count - 1)

    def rd_lambda(self, level: int | tf.Tensor) -> tf.Tensor:
        """Lambda of each level, float32 of the shape of `level`."""
        return tf.exp(self._lowest + self._range * self._position(level))

    def weight(self, level: int | tf.Tensor) -> tf.Tensor:
        """The weight of a level in the loss, float32 of the shape of `level`.

        That is (lambda / middle lambda)^(-1/2). Losses grow with about sqrt(lambda); so weighted,
        neither end of the range dominates.
        """
        return tf.exp(self._range * (0.5 - self._position(level)) / 2)

    def condition(self, name: str, transform: tf.keras.layers.Layer) -> None:
        """Has the convolutions of a transform depend on the level, if there are scales.

        The scales are weights of the levels. The transform has the same weights as in a model of
        one rate. A scale is named by its convolution's place: "analysis.9.0.trunk.2".
        """
        if not self.scales:
            return
        if isinstance(transform, Convolution):
            scale = self.add_weight(name, [2, transform.filters], initializer="zeros")
            transform.__dict__["level_scale"] = scale  # not by Keras's setattr, as just said
        for key, layer in weights.within(transform).items():
            self.condition(f"{name}.{key}", layer)

    def at(self, level: tf.Tensor) -> contextlib.AbstractContextManager[None]:
        """A block within which transforms work at levels [B]."""
        return convolution.at(2 * self._position(level) - 1)

    def apply_gain(self, y: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
        """y [B, h, w, C] of the analysis -> y to be quantised, at levels [B]."""
        return y * self._interpolated(self.log_gain, level)

    def apply_inverse(self, y: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
        """Quantised y [B, h, w, C] -> what the synthesis gets, at levels [B]."""
        return y * self._interpolated(self.log_inverse, level)

    def _position(self, level):
        """From 0 to 1."""
        return tf.cast(level, tf.float32) / (self.count - 1)

    def _interpolated(self, logarithms, level):
        distance = (_KNOTS - 1) * self._position(level)[:, None] - tf.range(float(_KNOTS))
        shares = tf.nn.relu(1 - tf.abs(distance))
        return tf.exp(tf.matmul(shares, logarithms))[:, None, None, :]

    def pmfs(self) -> tuple[list[np.ndarray], np.ndarray]:
        """One pmf, over 0 .. count - 1."""
        return [np.full(self.count, 1 / self.count)], np.zeros(1, np.int32)

    def symbol_bits(self, symbols: np.ndarray, distributions: np.ndarray) -> np.ndarray:
        """Information content of levels [N], in bits."""
        del distributions
        return np.full(symbols.shape, math.log2(self.count), np.float32)

    def update_offset(self) -> None:
        """Nothing: levels are integers."""

    def bits(self, level: tf.Tensor) -> tf.Tensor:
        """Information content of each level, float32 of the shape of `level`."""
        return tf.fill(tf.shape(level), math.log2(self.count))

    def encode(self, level: tf.Tensor, coder: Encoder, number: int) -> None:
        """Writes the level [1] of an image with distribution `number`.

        Raises:
          CodingError: there is no such level.
        """
        coder.encode(level, np.array([number]), bounded=True)

    def decode(self, coder: Decoder, number: int) -> tf.Tensor:
        """Reads a level, int32 [1]. Raises CodingError."""
        level = coder.decode(np.array([number]), bounded=True)
        if not 0 <= level[0] < self.count:
            raise CodingError(f"level {level[0]} of a model with {self.count}")
        return tf.constant(level)
