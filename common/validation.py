"""Validation: the objective of whole images, nearly as they are coded.

Images are 8-bit, latents are rounded; with a context they are rounded nearly as in a file, see
`QUANTIZER`.
"""

import numpy as np
import tensorflow as tf

from common import data, images, objectives, quantizers, rate_control
from common.model import Codec

_LEVELS = 5  # that are validated, if the codec has some
_NUM_PICTURES = 4  # that are shown in TensorBoard

# What a serial context makes of a photograph takes a hundred passes to find. After 16, on two
# photographs with the model joint_ar, the MSE was up to 1.6 % lower than after all of them at the
# lowest level, 0.5 % at others, and rates were equal within 0.2 %.
QUANTIZER = quantizers.Round(passes=16)


class Validation:
    """Measures a model at the end of an interval of training, on one device.

    (Keras's `evaluate`, within a strategy, would share each image among all devices.)

    Args:
      codec: the model.
      objective: that of the training.
      sources: the images; may be none.
      control: with train.rate_target, that of the training.
      jit_compile: whether XLA compiles it.

    Attributes:
      pictures: the first images, uint8 [H, W, 3].
    """

    def __init__(self, codec: Codec, objective: objectives.Objective, sources: list[data.Source],
                 control: rate_control.RateControl | None = None, jit_compile: bool = False):
        self._codec = codec
        self._objective = objective
        self._control = control
        self.pictures = [source.read() for source in sources[:_NUM_PICTURES]]
        self._images = data.whole_images(sources) if sources else None
        self._measure = tf.function(
            self._measure_image, autograph=False, jit_compile=jit_compile,
            input_signature=[tf.TensorSpec([1, None, None, 3]), tf.TensorSpec([1], tf.int32)])

    def __call__(self) -> dict[int, dict[str, float]]:
        """The means over all images of what the objective measures, by level.

        Those of a model of one rate are under 0. Without images there are none.
        """
        if self._images is None:
            return {}
        levels = self._codec.levels.spread(_LEVELS) if self._codec.levels else [0]
        rows = {level: [] for level in levels}
        for image in self._images:
            for level in levels:
                rows[level].append(self._measure(image, tf.constant([level])))
        return {level: means(of_level) for level, of_level in rows.items()}

    def _measure_image(self, x, level):
        level = level if self._codec.levels else None
        rd_lambda, weight = self._objective.weights(self._codec, level)
        rate_weight = self._control.mean_weight if self._control else 1.0
        return self._objective(
            x, self._codec(x, level, QUANTIZER), rd_lambda, weight=weight,
            rate_weight=rate_weight, eight_bit=True)

    def reconstructions(self) -> list[np.ndarray]:
        """The reconstructions of `pictures`, uint8 [H, W, 3], at the model's default level."""
        return [images.to_uint8(self._codec(data.to_float(picture)[None], quantizer=QUANTIZER).x_hat
                                )[0].numpy() for picture in self.pictures]


def means(rows: list[dict]) -> dict[str, float]:
    """The mean of each entry over dictionaries with the same keys; nothing of nothing."""
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} if rows else {}
