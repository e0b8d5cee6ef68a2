"""Distributions of y whose parameters a network predicts."""

from typing import NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from common import escapes
from common.coders import Decoder, Encoder, StreamDecoder, StreamEncoder
from common.integer_builder import Builder
from common.integer_networks import Value
from common.model import Prediction
from common.priors import ScaleTable

# In coding, means are multiples of 2^-MEAN_BITS, and so is y.
MEAN_BITS = 12


class Distribution(Protocol):
    """A distribution of y [B, h, w, M]."""

    @property
    def offset(self) -> tf.Tensor:
        """The offset of the grid on which to round y; broadcasts to y's shape."""

    @property
    def prediction(self) -> Prediction:
        """Mean and standard deviation of y."""

    def bits(self, y: tf.Tensor) -> tf.Tensor:
        """Information content of every element of `y`, in bits."""


class ConditionalPrior(Protocol):
    """The prior of y given what a network predicts: in floats and, for files, in integers."""

    @property
    def table(self) -> ScaleTable:
        """The distributions that y is coded with."""

    @property
    def symmetric(self) -> bool:
        """Whether y and -y are always equally likely."""

    def given(self, parameters: tf.Tensor, continuous: bool) -> Distribution:
        """The distribution of y, differentiable if `continuous`.

        Args:
          parameters: the network's outputs, float32 [B, h, w, C].
          continuous: with scales between those of the table, which have gradients, rather than
            with the nearest entries, which code.
        """

    def integers(self, builder: Builder, parameters: Value) -> list[Value]:
        """The same as a part of an integer network: what `encode` and `decode` need of it."""

    def encode(self, y: np.ndarray, outputs: list[np.ndarray], coder: StreamEncoder, first: int
               ) -> None:
        """Rounds y on its grid and writes it.

        Args:
          y: float32 [1, h, w, M].
          outputs: of the integer network, int [1, h, w, C] each.
          coder: what to write to.
          first: number of the table's first distribution.

        Raises:
          CodingError: y is not finite or too large.
        """

    def decode(self, outputs: list[np.ndarray], coder: StreamDecoder, first: int) -> tf.Tensor:
        """Reads y, float32 [1, h, w, M]; arguments as of `encode`. Raises CodingError."""


class Given(NamedTuple):
    """The distribution of y [B, h, w, M] by mean and position in the table, of the same shape."""

    table: ScaleTable
    offset: tf.Tensor
    index: tf.Tensor

    def bits(self, y: tf.Tensor) -> tf.Tensor:
        """Information content of every element of `y`, in bits."""
        return self.table.bits(y - self.offset, self.index)

    @property
    def prediction(self) -> Prediction:
        """The prediction of y."""
        return Prediction(self.offset, self.table.deviation(self.index))


class MeanScale:
    """A mean, on which the grid is centred, and a scale for each element of y.

    Args:
      table: of the scales.
      predict_mean: else all means are zero.
    """

    def __init__(self, table: ScaleTable, predict_mean: bool = True):
        self.table = table
        self._predict_mean = predict_mean

    @property
    def symmetric(self) -> bool:
        """Whether y and -y are always equally likely."""
        return not self._predict_mean

    def given(self, parameters: tf.Tensor, continuous: bool) -> Given:
        """The distribution of y.

        Args:
          parameters: float32 [B, h, w, 2 M]; means, and of scales what the table takes.
            [B, h, w, M] if all means are zero.
          continuous: as of `ConditionalPrior.given`.
        """
        if self._predict_mean:
            mean, scale = tf.split(parameters, 2, axis=-1)
        else:
            mean, scale = tf.zeros_like(parameters), parameters
        index = self.table.index(scale)
        return Given(self.table, mean, index if continuous else tf.round(index))

    def integers(self, builder: Builder, parameters: Value) -> list[Value]:
        """The integer form: means in units of 2^-MEAN_BITS, if any, and positions in the table."""
        if not self._predict_mean:
            return [self.table.integer_index(builder, parameters)]
        half = parameters.channels // 2
        mean = builder.requantize(builder.slice(parameters, 0, half), MEAN_BITS)
        scale = builder.slice(parameters, half, 2 * half)
        return [mean, self.table.integer_index(builder, scale)]

    def encode(self, y: np.ndarray, outputs: list[np.ndarray], coder: Encoder, first: int
               ) -> None:
        """Rounds y on its grid and writes it, as `ConditionalPrior.encode`; any encoder will do."""
        y = escapes.require_codable(y)
        symbols = np.empty(y.shape, np.int32)
        for row in range(y.shape[1]):
            symbols[:, row] = np.round(y[:, row] - self._mean(outputs, row))
        coder.encode(symbols, outputs[-1] + np.int16(first))

    def decode(self, outputs: list[np.ndarray], coder: Decoder, first: int) -> tf.Tensor:
        """Reads y, float32 [1, h, w, M]; arguments as of `encode`. Raises CodingError."""
        symbols = coder.decode(outputs[-1] + np.int16(first))
        y = np.empty(symbols.shape, np.float32)
        for row in range(y.shape[1]):
            y[:, row] = symbols[:, row] + self._mean(outputs, row)
        return tf.convert_to_tensor(y)

    def _mean(self, outputs, row):
        """A row of the mean in float64: y of large images has few such copies."""
        return outputs[0][:, row] * 2.0**-MEAN_BITS if self._predict_mean else 0.0
