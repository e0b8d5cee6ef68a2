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

The layers of a stack run one after another, and after each is cut off what the rest does not read,
so that the inner layers of a deep transform do not carry its whole margin along. Parts of the input
begin and end where strides and windows do.

How far each kind of layer reaches is said below. Layers that see the whole image, as its means do,
are refused by name. Integer networks (common/integer_networks.py) give the same integers in tiles
as on the whole; floats differ in their last bits, as from machine to machine.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

from common import integer_ops
from common.errors import UserError
from common.integer_networks import Network
from common.transforms import attention, convolution, layers

# Pixels a side of a tile of the image. With 192 channels at half of its sides the synthesis takes
# up to 1.4 GB. Smaller tiles would be faster, but not those of HiFiC, whose synthesis sees far.
SIDE = 896

# Positions of y a side of a tile, in the hyper transforms.
LATENT_SIDE = 128

# Rows, and columns: the first, and the last + 1.
Box = Sequence[tuple[int, int]]


class NotLocal(UserError):
    """A layer's outputs depend on the whole image; the message names the layer."""


def fits(height: int, width: int, stride: int, side: int | None = None) -> bool:
    """Whether a picture is taken as a whole: one of at most as many pixels as a tile has.

    Args:
      height, width: of the picture, or of the latents whose larger end it is.
      stride: what it is padded to multiples of.
      side: of a tile; by default `SIDE`.
    """
    pixels = -(-height // stride) * -(-width // stride) * stride**2
    return pixels <= max(side or SIDE, stride)**2


def run(transform: Callable, x, *, up: int = 1, down: int = 1, before: Callable = lambda x: x,
        after: Callable = lambda y: y, side: int | None = None, training: bool | None = None):
    """after(transform(before(x))), in tiles if x is large.

    In a graph and in training it always is one tile.

    Args:
      transform: a layer, or an integer network.
      x: [B, H, W, C], a tensor or an array.
      up: how many times the height and the width grow.
      down: how many times they shrink.
      before: acts on every position of x by itself, and may pad x to multiples of `down`.
      after: acts on every position of the output, or of each of several, by itself.
      side: of a tile, at the larger end of the transform; by default `SIDE`. Tiles of a picture
        whose height or width is less are longer, by as much.
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
    whole = Reach(grid=down).then(reach(transform))
    size = [math.ceil(length * scale) for length in x.shape[1:3]]
    most = max(1, (side or SIDE) // down)
    # Of a strip, tiles have as many positions as of other pictures.
    all_rows, all_columns = (
        _cut(length, int(whole.grid * scale), most**2 // min(most, other))
        for length, other in zip(size, size[::-1]))
    results: list[np.ndarray] = []
    for rows, columns in itertools.product(all_rows, all_columns):
        (top, bottom), (left, right) = whole.box((rows, columns))
        part = before(x[:, top:bottom, left:right])
        tile = after(_run(transform, part, (top, left), (rows, columns)))
        parts = [np.asarray(value) for value in tf.nest.flatten(tile)]
        if not results:
            results = [np.empty([len(x), *size, value.shape[-1]], value.dtype) for value in parts]
        for result, value in zip(results, parts):
            result[:, slice(*rows), slice(*columns)] = value
    # Of one at a time there are two copies.
    return tf.nest.pack_sequence_as(
        tile, [tf.convert_to_tensor(results.pop(0)) for _ in range(len(results))])


def _in_graph(transform, x: tf.Tensor) -> tf.Tensor:
    """A transform that is not training, by a graph for inputs of all sizes.

    There, convolution, bias and activation are one operation, which takes a pass over memory each
    by themselves: a quarter of the time in bfloat16. The first call takes as long as without.
    """
    # What depends on the level, see common/transforms/convolution.py, is faster for all images of
    # a batch alike.
    t = convolution.position.get(tf.zeros(1))
    # Not by Keras's setattr, which would make a part of the model of it.
    graphs = transform.__dict__.setdefault("_graphs", {})
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


@functools.singledispatch
def _run(layer, x: tf.Tensor, place: Sequence[int], outputs: Box):
    """The outputs of a layer, of which only these are wanted, for a part of its inputs.

    Args:
      layer: a layer, or a network with any number of outputs.
      x: [B, h, w, C], at least what these outputs depend on.
      place: of the first row and column of x in the whole.
      outputs: which, in the whole.
    """
    rate = reach(layer).rate
    return tf.nest.map_structure(
        lambda y: _crop(y, [int(start * rate) for start in place], outputs), layer(x))


@_run.register(tf.keras.Sequential)
@_run.register(layers.Stack)
def _run_stack(stack, x, place, outputs):
    rests = [Reach()]
    for layer in stack.layers[:0:-1]:
        rests.append(reach(layer).then(rests[-1]))
    for layer, rest in zip(stack.layers, rests[::-1]):
        there = [int(start * reach(layer).rate) for start in place]
        # A box starts on the grid, perhaps before x. Nothing depends on what x lacks of it.
        wanted = [(max(start, first), stop)
                  for first, (start, stop) in zip(there, rest.box(outputs))]
        x = _run(layer, x, place, wanted)
        place = [start for start, _ in wanted]
    return x


@_run.register
def _(layer: layers.Residual, x, place, outputs):
    return _crop(x, place, outputs) + _run_stack(layer, x, place, outputs)


_run.register(layers.Padded, _run.dispatch(object))


def _crop(x, place, box):
    rows, columns = (slice(start - first, stop - first)
                     for first, (start, stop) in zip(place, box))
    return x[:, rows, columns]


# --- Reach ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Reach:
    """Where the inputs lie that an output depends on, along rows or columns, the larger of both.

    Output o depends on no others than those from o / rate - before to o / rate + after.

    Attributes:
      before, after: in inputs.
      rate: outputs for each input.
      grid: the outputs for a part of the input are those for the whole if it begins at a multiple
        of this, and ends at one or at the border.
    """

    before: Fraction = Fraction(0)
    after: Fraction = Fraction(0)
    rate: Fraction = Fraction(1)
    grid: int = 1

    def then(self, other: "Reach") -> "Reach":
        """The reach of a layer with this one and of one after it, together."""
        outputs = int(self.grid * self.rate)  # between parts of this layer's input
        grid = self.grid * (other.grid // math.gcd(other.grid, outputs))
        return Reach(self.before + other.before / self.rate, self.after + other.after / self.rate,
                     self.rate * other.rate, grid)

    def box(self, outputs: Box) -> Box:
        """The inputs to compute outputs from; it may lie beyond the border at its end."""
        return tuple((self._start(start), self._stop(stop)) for start, stop in outputs)

    def _start(self, output):
        first = math.floor(output / self.rate - self.before)
        return max(0, first // self.grid * self.grid)

    def _stop(self, output):
        last = math.floor((output - 1) / self.rate + self.after)
        return -(-(last + 1) // self.grid) * self.grid


def _beside(reaches) -> Reach:
    """The joint reach of layers with one input, or of several inputs of one layer."""
    reaches = list(reaches)
    return Reach(max(reach.before for reach in reaches), max(reach.after for reach in reaches),
                 reaches[0].rate, math.lcm(*(reach.grid for reach in reaches)))


def _taps(first: int, last: int, stride: int = 1) -> Reach:
    """The reach of a sum of inputs from o stride + first to o stride + last, with zeros around."""
    # Parts are at least as large as their outputs, wherever the taps lie.
    return Reach(Fraction(max(0, -first)), Fraction(max(0, last)), Fraction(1, stride), stride)


def _transposed(size: int, before: int, stride: int) -> Reach:
    """The reach of a transposed kernel that starts `before` outputs before an input's first one."""
    return Reach(Fraction(max(0, size - 1 - before), stride), Fraction(before, stride),
                 Fraction(stride))


def _blocks(size: int) -> Reach:
    """The reach of a layer that makes size x size outputs of one input."""
    return Reach(before=Fraction(size - 1, size), rate=Fraction(size))


@functools.singledispatch
def reach(layer) -> Reach:
    """How far a layer sees, a Sequential or functional model, or an integer network.

    Raises:
      NotLocal: it sees the whole image, or is not known here.
    """
    raise NotLocal(f"layer {getattr(layer, 'name', layer)} ({type(layer).__name__}) may depend on "
                   "the whole image")


def _nowhere(layer) -> Reach:
    """The reach of layers that act on every position by itself."""
    return Reach()


for _layer in (layers.AppendOnes, layers.ChannelNorm, layers.ConcatElu, layers.EverySecondChannel,
               tf.keras.layers.Activation, tf.keras.layers.Add,
               tf.keras.layers.BatchNormalization, tf.keras.layers.Concatenate,
               tf.keras.layers.LeakyReLU, tf.keras.layers.Multiply, tf.keras.layers.ReLU, tfc.GDN):
    reach.register(_layer, _nowhere)
reach.register(layers.InstanceNorm, reach.dispatch(object))


@reach.register
def _(model: tf.keras.Model):
    if len(getattr(model, "outputs", None) or ()) != 1:
        return reach.dispatch(object)(model)
    reaches = {tensor.ref(): Reach() for tensor in model.inputs}

    def follow(tensor):
        if tensor.ref() not in reaches:
            node = tensor.node
            reaches[tensor.ref()] = _beside(map(follow, node.keras_inputs)).then(reach(node.layer))
        return reaches[tensor.ref()]

    return follow(model.outputs[0])


@reach.register
def _(network: Network):
    reaches = []
    for op in network.ops:
        before = _beside(reaches[i] for i in op.inputs) if op.inputs else Reach()
        reaches.append(before.then(_reach_of_op(op)))
    return _beside(reaches[value.index] for value in network.outputs)


def _reach_of_op(op):
    if isinstance(op, integer_ops.Mean):
        raise NotLocal("a mean over all positions, in an integer network, depends on the whole "
                       "image")
    if isinstance(op, integer_ops.DepthToSpace):
        return _blocks(op.block)
    return _taps(min(map(min, op.taps)), max(map(max, op.taps)), op.stride)


@reach.register(tf.keras.Sequential)
@reach.register(layers.Stack)
def _reach_of_stack(stack):
    return functools.reduce(Reach.then, map(reach, stack.layers), Reach())


@reach.register
def _(layer: layers.Residual):
    return _beside([Reach(), _reach_of_stack(layer)])


@reach.register
def _(layer: layers.Padded):
    return Reach(grid=layer.multiple).then(_reach_of_stack(layer))


@reach.register
def _(layer: layers.Sum):
    return _beside(map(reach, layer.branches))


@reach.register
def _(layer: layers.Gated):
    return _beside(map(reach, (layer.trunk, layer.mask)))


@reach.register(attention.DualPath)
@reach.register(attention.GroupedConv)
def _(layer):
    return _taps(-1, 1)  # of a 3x3 convolution; all others in them are 1x1


@reach.register
def _(layer: attention.Blur):
    return _taps(-1, 0)


@reach.register
def _(layer: attention.WindowAttention):
    margin = Fraction(layer.window - 1)
    return Reach(margin, margin, grid=layer.window)


@reach.register
def _(layer: layers.DepthToSpace):
    return _blocks(layer.block)


@reach.register
def _(layer: layers.ShiftedConv):
    first, last = min(map(min, layer.taps)), max(map(max, layer.taps))
    if layer.padding == "reflect":  # what is beyond the border lies as far within
        first, last = min(first, -last), max(last, -first)
    return _taps(first, last, layer.stride).then(_activation(layer))


@reach.register
def _(layer: tfc.SignalConv2D):
    size, down, up = max(layer.kernel_support), max(layer.strides_down), max(layer.strides_up)
    if layer.padding != "same_zeros" or not layer.extra_pad_end or (up if layer.corr else down) > 1:
        raise _unknown_padding(layer)
    own = (_taps(-(size // 2), (size - 1) // 2, down) if layer.corr
           else _transposed(size, size // 2, up))
    return own.then(_activation(layer))


@reach.register
def _(layer: tf.keras.layers.Conv2DTranspose):
    size, stride = max(layer.kernel_size), max(layer.strides)
    if layer.padding != "same" or layer.output_padding or size < stride or (
            set(layer.dilation_rate) != {1}):
        raise _unknown_padding(layer)
    return _transposed(size, (size - stride) // 2, stride).then(_activation(layer))


@reach.register(tf.keras.layers.Conv2D)
@reach.register(tf.keras.layers.DepthwiseConv2D)
def _(layer):
    # With strides, where Keras's kernels lie depends on the size of their input.
    if layer.padding != "same" or set(layer.strides) != {1}:
        raise _unknown_padding(layer)
    size = max((size - 1) * dilation for size, dilation in zip(
        layer.kernel_size, layer.dilation_rate)) + 1
    return _taps(-((size - 1) // 2), size // 2).then(_activation(layer))


def _unknown_padding(layer):
    return NotLocal(f"layer {layer.name} ({type(layer).__name__}) has padding or strides for which "
                    "there are no tiles")


def _activation(layer):
    """The reach of its `activation`: a function acts on each position alone, a layer may not."""
    is_layer = isinstance(layer.activation, tf.keras.layers.Layer)
    return reach(layer.activation) if is_layer else Reach()
