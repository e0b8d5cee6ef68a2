"""Receptive fields of transforms, measured, not computed from their kernels.

With fresh weights (ones in kernels of zeros), they are the pixels of the image where the derivative
is not zero: for analysis, of one position of y by the image; for synthesis, of the image by one
position of y; and of one position of z by the image. The image is a strip, once tall, once wide.
Squeeze and excitation sees the whole image; the extent given beside is that with its means held
constant. With attention in windows, the extent depends on the position, and the largest is given.
"""

from __future__ import annotations

import contextlib
import math
import unittest.mock
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from common.lazy import tf, transforms

_STRIP = 64  # pixels of its shorter side; the stride of z
_LENGTHS = 512, 1024, 2048, 4096  # of its longer side; the first that is long enough is taken

# bool [H, W], where the image (this shape) and position (this far from the centre) are connected.
Support = Callable[[tuple[int, int], int], np.ndarray]


def receptive_field(stages: Sequence[tf.keras.Model]) -> dict:
    """The receptive field of an output of the last stage in the image that the first one sees.

    Returns:
      `height` and `width` in pixels; `whole_image`: there is a path from everywhere, and height and
      width are without it; `largest`: they depend on the position.
    """
    def support(shape, offset):
        image = x = tf.random.stateless_uniform([1, *shape, 3], (0, 0), -0.5, 0.5)
        with tf.GradientTape() as tape:
            tape.watch(image)
            for stage in stages:
                x = stage(x)
            value = x[:, x.shape[1] // 2 + offset * (shape[0] > shape[1]),
                      x.shape[2] // 2 + offset * (shape[1] > shape[0])]
        return tape.gradient(value, image)[0].numpy().any(axis=-1)

    return _field(support, stages)


def influence(synthesis: tf.keras.Model, channels: int) -> dict:
    """The pixels that one position of `synthesis`' input changes, as from `receptive_field`."""
    def support(shape, offset):
        height, width = (side // synthesis.stride for side in shape)
        y = tf.random.stateless_normal([1, height, width, channels], (0, 0))
        position = [0, height // 2 + offset * (height > width),
                    width // 2 + offset * (width > height)]
        direction = tf.random.stateless_normal([channels], (0, 1))
        with tf.autodiff.ForwardAccumulator(
                y, tf.scatter_nd([position], direction[None], y.shape)) as accumulator:
            image = synthesis(y)
        return accumulator.jvp(image)[0].numpy().any(axis=-1)

    return _field(support, [synthesis])


def _field(support: Support, stages: Sequence[tf.keras.Model]) -> dict:
    support((_STRIP, _STRIP), 0)  # which makes the weights
    for stage in stages:
        for weight in stage.trainable_weights:
            if "kernel" in weight.name and not np.any(weight):  # that of a path closed at first
                weight.assign(tf.ones_like(weight))
    # What windows make of a position repeats with the largest of them, at y's stride.
    periods = [layer.window * stages[0].stride for stage in stages for layer in stage.submodules
               if isinstance(layer, transforms.attention.WindowAttention)]
    stride = math.prod(stage.stride for stage in stages)
    offsets = range(max(1, max(periods, default=0) // stride))
    for length in _LENGTHS:
        extents, whole_image = _extents(support, length, offsets), False
        if not extents:
            with _constant_means():
                extents, whole_image = _extents(support, length, offsets), True
        if extents:
            height, width = extents
            return {"height": height, "width": width, "whole_image": whole_image,
                    "largest": bool(periods)}
    raise ValueError(f"the receptive field is not within {_LENGTHS[-1]} pixels, and not by means")


def _extents(support: Support, length: int, offsets: Sequence[int]) -> list[int] | None:
    """Height and width of the largest support; None if one reaches the border."""
    extents = []
    for axis, shape in enumerate([(length, _STRIP), (_STRIP, length)]):
        largest = 0
        for offset in offsets:
            seen = np.flatnonzero(support(shape, offset).any(axis=1 - axis))
            if seen[0] == 0 or seen[-1] == length - 1:
                return None
            largest = max(largest, int(seen[-1] - seen[0]) + 1)
        extents.append(largest)
    return extents


@contextlib.contextmanager
def _constant_means() -> Iterator[None]:
    """Within, means over the whole image have no derivative."""
    layer = tf.keras.layers.GlobalAveragePooling2D
    mean = layer.call
    with unittest.mock.patch.object(
            layer, "call", lambda self, x: tf.stop_gradient(mean(self, x))):
        yield
