"""LPIPS: how different two images look, by the features of AlexNet (Zhang et al. 2018).

Version 0.1 of the authors' metric: weighted distances between features after each of AlexNet's
five convolutions, the weights learned from people's judgements. `make lpips` fetches the weights.
"""

import functools
import os
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

import configs
from common.errors import UserError
from common.files import NPZ_ERRORS

# Below this, nothing is left after AlexNet's second pooling.
MIN_SIDE = 31

# Krizhevsky 2014, as torchvision has it: width of the window and channels of each convolution.
_CONVOLUTIONS = ((11, 64), (5, 192), (3, 384), (3, 256), (3, 256))
_POOLED = (1, 2)  # convolutions that follow a max pooling

# Mean and deviation of ImageNet's colours, of samples in [-1, 1].
_MEAN = np.array([-0.030, -0.088, -0.188], np.float32)
_DEVIATION = np.array([0.458, 0.448, 0.450], np.float32)


def _names(i):
    """Names of the weights of a convolution, and of the head that weighs its channels."""
    convolution = f"AlexNet_0/Conv_{i}"
    return f"{convolution}/kernel", f"{convolution}/bias", f"NetLinLayer_{i}/Conv_0/kernel"


def _shapes():
    shapes, inputs = {}, 3
    for i, (size, channels) in enumerate(_CONVOLUTIONS):
        of_layer = (size, size, inputs, channels), (channels,), (1, 1, channels, 1)
        shapes |= zip(_names(i), of_layer)
        inputs = channels
    return shapes


# Of the weights by name; all are float32.
SHAPES = _shapes()


class Lpips(tf.Module):
    """The network and its weights, which are constants: no optimiser or checkpoint sees them."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        """Takes the weights.

        Args:
          arrays: float32, by the names of `SHAPES`.

        Raises:
          UserError: one is missing or has another shape.
        """
        super().__init__()
        for name, shape in SHAPES.items():
            if name not in arrays:
                raise UserError(f"the LPIPS weights lack {name}")
            if arrays[name].shape != shape:
                raise UserError(f"LPIPS weight {name} has the shape {list(arrays[name].shape)} "
                                f"instead of {list(shape)}")
        self._layers = [[tf.constant(arrays[name], tf.float32) for name in _names(i)]
                        for i in range(len(_CONVOLUTIONS))]

    @classmethod
    def load(cls, path: str | os.PathLike | None = None) -> "Lpips":
        """The network with the weights of an .npz file; of configs.LPIPS_WEIGHTS when None.

        Raises:
          UserError: there is no such file, or it is damaged or holds something else.
        """
        path = path or configs.LPIPS_WEIGHTS
        try:
            with np.load(path) as file:
                return cls(dict(file))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; `make lpips` fetches the weights of LPIPS, "
                            "NTC_LPIPS_WEIGHTS says where") from None
        except (UserError, *NPZ_ERRORS) as error:
            raise UserError(f"{path}: cannot be read as LPIPS weights ({error})") from None

    def __call__(self, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        """The distance of each image of `a` from that of `b`, 0 or more; symmetric.

        Gradients are finite everywhere, also at a == b. Where only one side has a gradient, as the
        reconstruction in training, nothing is spent on that of the other.

        Args:
          a, b: float32 [B, H, W, 3] in [0, 1], with H and W of at least MIN_SIDE.

        Returns:
          float32 [B].

        Raises:
          ValueError: H or W is known, and smaller.
        """
        for side in (*a.shape[1:3], *b.shape[1:3]):
            if side is not None and side < MIN_SIDE:
                raise ValueError(f"LPIPS needs sides of at least {MIN_SIDE} pixels, found {side}")
        distances = [
            tf.reduce_mean(tf.math.squared_difference(of_a, of_b), axis=(1, 2)) @ head[0, 0]
            for of_a, of_b, (*_, head) in zip(self._taps(a), self._taps(b), self._layers)]
        return tf.add_n(distances)[:, 0]

    def _taps(self, image):
        """The features after each convolution, of length 1 (or 0) at every position."""
        x = (2 * image - 1 - _MEAN) / _DEVIATION
        taps = []
        for i, (kernel, bias, _) in enumerate(self._layers):
            if i in _POOLED:
                x = tf.nn.max_pool2d(x, 3, 2, "VALID")
            x = (tf.nn.conv2d(x, kernel, 1, "SAME") if i else
                 tf.nn.conv2d(x, kernel, 4, [[0, 0], [2, 2], [2, 2], [0, 0]]))
            x = tf.nn.relu(x + bias)
            # Other than the authors' x / (norm + 1e-10), this has finite gradients at 0.
            taps.append(tf.math.l2_normalize(x, axis=-1, epsilon=1e-20))
        return taps


@functools.cache
def network() -> Lpips:
    """The network with the weights of configs.LPIPS_WEIGHTS, which are read once."""
    with tf.init_scope():  # the first call may come while a graph is traced
        return Lpips.load()
