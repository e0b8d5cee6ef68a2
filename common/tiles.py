"""Large images in bounded memory: transforms run on tiles, with the same result as on the whole.

An output of a convolution depends on a few inputs around it. So the output is cut into tiles, and
each is computed from the part of the input that it depends on, its *reach*:

        ┌─────┬─────┬─────┐
        │   ┌─┼─────┼─┐   │      What the tile in the middle reads lies in its neighbours too.
        ├───┼─┼─────┼─┼───┤      At the border of the image there is no more to be read, and the
        │   │ │     │ │   │      layers pad as they do for the whole of it.
        ├───┼─┼─────┼─┼───┤
        │   └─┼─────┼─┘   │
        └─────┴─────┴─────┘

The layers of a stack run one after another, and after each one the margin that later layers do not
need is cropped, so that the inner layers of a deep transform do not carry all of it along. Parts of
the input begin and end where strides and windows do.

Every layer says how far it reaches, and how a part of its outputs is computed: see
common/transforms/contract.py. Layers that see the whole image, as its means do, are refused by
name. Integer networks (common/integer_networks.py) give the same integers in tiles as on the whole;
floats differ in their last bits, as between machines.
"""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import tensorflow as tf

from common.reach import Reach
from common.transforms import contract, convolution

# The attribute that keeps a transform's graphs, which refer to it.
_GRAPHS = "_graphs"

# Pixels a side of a tile of the image. With 192 channels at half of its sides the synthesis takes
# up to 1.4 GB. Smaller tiles would be faster, but not those of HiFiC, whose synthesis sees far.
SIDE = 896

# Positions of y a side of a tile, in the hyper transforms.
LATENT_SIDE = 128


def fits(height: int, width: int, stride: int, side: int | None = None) -> bool:
    """Whether a picture is taken as a whole: one of at most as many pixels as a tile has.

    Args:
      height, width: at the larger end of a transform: of the picture, or of latents.
      stride: what it is padded to multiples of.
      side: of a tile; by default `SIDE`.
    """
    pixels = -(-height // stride) * -(-width // stride) * stride**2
    return pixels <= max(side or SIDE, stride)**2


def run(transform: Callable, x: np.ndarray | tf.Tensor, *, up: int = 1, down: int = 1,
        before: Callable = lambda x: x, after: Callable = lambda y: y, side: int | None = None,
        training: bool | None = None) -> tf.Tensor | list[tf.Tensor]:
    """after(transform(before(x))), in tiles if x is large.

    In a graph and in training it always is one tile.

    Args:
      transform: a layer, or an integer network.
      x: [B, H, W, C], a tensor or an array.
      up: how many times the height and the width grow.
      down: how many times they shrink.
      before: acts on every position of x by itself, and may pad x to multiples of `down`.
      after: acts on every position of the output, or of each of several, by itself.
      side: of a tile, at the larger end of the transform; by default `SIDE`. If the height or width
        is less, tiles are longer the other way, with as many positions.
      training: as for Keras layers; None for an integer network.

    Raises:
      NotLocal: x is too large for one tile, and a layer needs all of it.
    """
    if training or not tf.executing_eagerly():
        options = {} if training is None else {"training": training}
        return after(transform(before(x), **options))
    if fits(x.shape[1] * up, x.shape[2] * up, max(up, down), side):
        x = before(x)
        return after(transform(x) if training is None else _in_graph(transform, x))
    scale = Fraction(up, down)
    whole = Reach(grid=down).then(contract.reach(transform))
    size = [math.ceil(length * scale) for length in x.shape[1:3]]
    most = max(1, (side or SIDE) // down)
    # Of a strip, tiles have as many positions as of other pictures.
    all_rows, all_columns = (
        _cut(length, int(whole.grid * scale), most**2 // min(most, other))
        for length, other in zip(size, size[::-1]))
    results: list[np.ndarray] = []
    for rows, columns in itertools.product(all_rows, all_columns):
        (top, bottom), (left, right) = whole.box((rows, columns))
        x_part = before(x[:, top:bottom, left:right])
        tile = after(contract.part(transform, x_part, (top, left), (rows, columns)))
        parts = [np.asarray(value) for value in tf.nest.flatten(tile)]
        if not results:
            results = [np.empty([len(x), *size, value.shape[-1]], value.dtype) for value in parts]
        for result, value in zip(results, parts):
            result[:, slice(*rows), slice(*columns)] = value
    # Converted one at a time, so that only one result is held twice.
    return tf.nest.pack_sequence_as(
        tile, [tf.convert_to_tensor(results.pop(0)) for _ in range(len(results))])


def forget(transform: tf.Module) -> None:
    """Drops a transform's graphs, so that a change in it takes effect."""
    transform.__dict__.pop(_GRAPHS, None)


def _in_graph(transform, x: tf.Tensor) -> tf.Tensor:
    """A transform that is not training, by a graph for inputs of all sizes.

    There, convolution, bias and activation are one operation, which takes a pass over memory each
    by themselves: a quarter of the time in bfloat16. The call that makes the graph takes as long as
    one without.
    """
    # The call that makes the weights would trace a graph twice; the next one makes it.
    if tf.config.functions_run_eagerly() or not transform.built:
        return transform(x, training=False)
    # What depends on the level, see common/transforms/convolution.py, is faster for all images of
    # a batch alike.
    t = convolution.position.get(tf.zeros(1))
    # Not by Keras's setattr, which would make a part of the model of it.
    graphs = transform.__dict__.setdefault(_GRAPHS, {})
    key = min(len(t), 2)
    if key not in graphs:
        def call(x, t):
            with convolution.at(t):
                return transform(x, training=False)

        spec = tf.TensorSpec([1 if key == 1 else None])
        graphs[key] = tf.function(
            call, [tf.TensorSpec([None, None, None, x.shape[-1]]), spec], autograph=False
        ).get_concrete_function()  # or TensorFlow warns of as many traces as transforms
    return graphs[key](tf.convert_to_tensor(x), t)


def _cut(size: int, unit: int, most: int) -> list[tuple[int, int]]:
    """Parts of 0 .. size, of about one length: multiples of `unit`, if possible at most `most`."""
    units = -(-size // unit)
    count = -(-units // max(1, most // unit))
    edges = [min(size, units * i // count * unit) for i in range(count + 1)]
    return list(zip(edges, edges[1:]))
