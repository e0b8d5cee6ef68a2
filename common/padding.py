"""Padding, which lets a model take images of any size, and cropping, which undoes it."""

from collections.abc import Sequence

import tensorflow as tf


def pad_to_multiple(x: tf.Tensor, multiple: int) -> tf.Tensor:
    """Repeats the last row and column until height and width are multiples of `multiple`.

    Replication works for every size (reflection needs more pixels than it adds), and a constant
    border costs few bits.

    Args:
      x: [B, H, W, C], any H, W >= 1.
      multiple: positive int.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        if size is not None and size % multiple == 0:
            continue
        size = tf.shape(x)[axis]
        padded = -(-size // multiple) * multiple
        x = tf.gather(x, tf.minimum(tf.range(padded), size - 1), axis=axis)
    return x


def crop_to(x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Crops `x` [B, H', W', C] at the bottom and the right to the height and width of `like`."""
    if x.shape[1:3].is_fully_defined() and x.shape[1:3] == like.shape[1:3]:
        return x
    return crop(x, (0, 0), tf.unstack(tf.shape(like)[1:3]))


def crop(x: tf.Tensor, begin: Sequence, sides: Sequence) -> tf.Tensor:
    """A part of `x` [B, H, W, C]; as x[:, top:top + height, left:left + width].

    The gradient of that takes ten times as long: it writes element by element.

    Args:
      x: any tensor.
      begin: top and left.
      sides: height and width of the part.
    """
    part = tf.slice(x, [0, *begin, 0], [-1, *sides, -1])
    part.set_shape([x.shape[0], None, None, x.shape[3]])
    return part
