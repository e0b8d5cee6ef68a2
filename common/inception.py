"""Inception-v3 as FID and KID use it: the network of TensorFlow's release of 2015-12-05.

The architecture is that of Szegedy et al. 2016 (arXiv 1512.00567). Heusel et al. 2017 took the
features from a released graph, whose last pooling within a layer takes the maximum instead of the
average. Scores by other weights or another resizing are not comparable (Parmar et al. 2022, arXiv
2104.11222). `make inception` fetches the weights.
"""

import functools
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

import configs
from common.errors import UserError
from common.files import NPZ_ERRORS

FEATURES = 2048

# On one CPU core, a patch takes 0.12 s in batches of 16 (0.9 GB in all) and 0.18 s alone.
_BATCH_SIZE = 16


class Inception:
    """The network without its classifier, with its weights and the reference's preprocessing."""

    def __init__(self, weight: Callable[[str, tuple[int, ...]], np.ndarray]):
        """Builds the network.

        Args:
          weight: gives the weight of a name and a shape, float32. Convolutions are named as in the
            released graph; they have a "mixed_4/tower/conv_1/kernel" [height, width, in, out] and a
            "mixed_4/tower/conv_1/bias" [out].
        """
        self._weight = weight
        images = tf.TensorSpec([None, None, None, 3])
        # Autograph would dress up the errors of `weight`.
        self._run = tf.function(self._features, autograph=False).get_concrete_function(images)

    @classmethod
    def load(cls, path: str | os.PathLike | None = None) -> "Inception":
        """The network with the weights of an .npz file; of configs.INCEPTION_WEIGHTS when None.

        Raises:
          UserError: there is no such file, or it is damaged or holds something else.
        """
        path = path or configs.INCEPTION_WEIGHTS
        try:
            with np.load(path) as file:
                return cls(functools.partial(_stored, file))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; `make inception` fetches the weights of "
                            "Inception, NTC_INCEPTION_WEIGHTS says where") from None
        except (UserError, *NPZ_ERRORS) as error:
            raise UserError(f"{path}: cannot be read as Inception weights ({error})") from None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The features of images, those of its last pooling ("pool_3").

        Args:
          images: [N, H, W, 3], uint8, or float32 in [0, 1].

        Returns:
          float32 [N, 2048], 0 or more.
        """
        if images.dtype == np.uint8:
            images = images.astype(np.float32) / 255
        batches = [self._run(tf.constant(images[i:i + _BATCH_SIZE])).numpy()
                   for i in range(0, len(images), _BATCH_SIZE)]
        return np.concatenate([np.zeros([0, FEATURES], np.float32), *batches])

    def _features(self, images):
        # TensorFlow 1's bilinear resizing, which samples at i * H / 299 instead of at the centres
        # of pixels, and does not smooth before it scales down.
        resized = tf.raw_ops.ResizeBilinear(images=255 * images, size=[299, 299])
        x = (resized - 128) / 128
        x = self._conv(x, "conv", 32, stride=2)
        x = self._conv(x, "conv_1", 32, padding="VALID")
        x = self._conv(x, "conv_2", 64)
        x = _halve(x)
        x = self._conv(x, "conv_3", 80, (1, 1))
        x = self._conv(x, "conv_4", 192, padding="VALID")
        x = _halve(x)
        for name, pooled in (("mixed", 32), ("mixed_1", 64), ("mixed_2", 64)):  # 35 x 35
            x = tf.concat([
                self._conv(x, f"{name}/conv", 64, (1, 1)),
                self._tower(x, f"{name}/tower", (48, (1, 1)), (64, (5, 5))),
                self._tower(x, f"{name}/tower_1", (64, (1, 1)), (96, (3, 3)), (96, (3, 3))),
                self._tower(_average(x), f"{name}/tower_2", (pooled, (1, 1)))], axis=-1)
        x = tf.concat([
            self._conv(x, "mixed_3/conv", 384, stride=2),
            self._tower(x, "mixed_3/tower", (64, (1, 1)), (96, (3, 3)), (96, (3, 3)), stride=2),
            _halve(x)], axis=-1)
        for name, inner in (("mixed_4", 128), ("mixed_5", 160), ("mixed_6", 160),
                            ("mixed_7", 192)):  # 17 x 17
            x = tf.concat([
                self._conv(x, f"{name}/conv", 192, (1, 1)),
                self._tower(x, f"{name}/tower", (inner, (1, 1)), (inner, (1, 7)), (192, (7, 1))),
                self._tower(x, f"{name}/tower_1", (inner, (1, 1)), (inner, (7, 1)),
                            (inner, (1, 7)), (inner, (7, 1)), (192, (1, 7))),
                self._tower(_average(x), f"{name}/tower_2", (192, (1, 1)))], axis=-1)
        x = tf.concat([
            self._tower(x, "mixed_8/tower", (192, (1, 1)), (320, (3, 3)), stride=2),
            self._tower(x, "mixed_8/tower_1", (192, (1, 1)), (192, (1, 7)), (192, (7, 1)),
                        (192, (3, 3)), stride=2),
            _halve(x)], axis=-1)
        for name, pool in (("mixed_9", _average), ("mixed_10", _maximum)):  # 8 x 8
            a = self._conv(x, f"{name}/tower_conv", 384, (1, 1))
            b = self._conv(x, f"{name}/tower_1_conv", 448, (1, 1))
            b = self._conv(b, f"{name}/tower_1_conv_1", 384)
            x = tf.concat([
                self._conv(x, f"{name}/conv", 320, (1, 1)),
                self._conv(a, f"{name}/tower_mixed_conv", 384, (1, 3)),
                self._conv(a, f"{name}/tower_mixed_conv_1", 384, (3, 1)),
                self._conv(b, f"{name}/tower_1_mixed_conv", 384, (1, 3)),
                self._conv(b, f"{name}/tower_1_mixed_conv_1", 384, (3, 1)),
                self._conv(pool(x), f"{name}/tower_2_conv", 192, (1, 1))], axis=-1)
        return tf.reduce_mean(x, axis=(1, 2))

    def _conv(self, x, name, filters, size=(3, 3), stride=1, padding="SAME"):
        """Convolution and ReLU; what halves an image does not look beyond its border."""
        with tf.init_scope():  # else the weights would become a part of the graph
            kernel = tf.constant(self._weight(f"{name}/kernel", (*size, x.shape[-1], filters)))
            bias = tf.constant(self._weight(f"{name}/bias", (filters,)))
        padding = padding if stride == 1 else "VALID"
        return tf.nn.relu(tf.nn.conv2d(x, kernel, stride, padding) + bias)

    def _tower(self, x, name, *convs, stride=1):
        """Convolutions (filters, size) after one another, the last one with the stride."""
        for i, (filters, size) in enumerate(convs):
            x = self._conv(x, f"{name}/conv_{i}" if i else f"{name}/conv", filters, size,
                           stride if i == len(convs) - 1 else 1)
        return x


def _stored(arrays, name, shape):
    if name not in arrays:
        raise UserError(f"it lacks {name}")
    array = arrays[name]
    if array.shape != shape or array.dtype != np.float32:
        raise UserError(f"{name} is {array.dtype} {list(array.shape)} instead of float32 "
                        f"{list(shape)}")
    return array


def _halve(x):
    return tf.nn.max_pool2d(x, 3, 2, "VALID")


def _maximum(x):
    return tf.nn.max_pool2d(x, 3, 1, "SAME")


def _average(x):
    return tf.nn.avg_pool2d(x, 3, 1, "SAME")  # of what is inside the border
