"""The contract of layers with tiles and integer networks: reach, parts, and integer form.

A layer of ours answers itself, by the methods of `Layer`; the answers for those of Keras are in
keras_layers.py. Models ask their layers.
"""

import functools
from collections.abc import Iterable, Sequence

import tensorflow as tf

from common.errors import ConversionError, NotLocal
from common.integer_builder import Builder
from common.integer_networks import Network, Value
from common.reach import Box, Reach, beside


class Layer(tf.keras.layers.Layer):
    """Base of our layers."""

    def reach(self) -> Reach:
        """The reach of its outputs. Raises NotLocal if they may depend on the whole image."""
        return _reach_unknown(self)

    def part(self, x: tf.Tensor, place: Sequence[int], outputs: Box) -> tf.Tensor:
        """The outputs that are wanted, from a part of the inputs.

        Args:
          x: [B, h, w, C], at least what these outputs depend on.
          place: of its first row and column in the whole.
          outputs: which, in the whole.
        """
        return _crop_outputs(self, x, place, outputs)

    def integers(self, builder: Builder, x: Value) -> Value:
        """Appends the trained layer to `builder`.

        Raises:
          ConversionError: it has no integer form; the message names the layer.
        """
        return _convert_unknown(self, builder, x)


class Pointwise(Layer):
    """A layer that acts on every position by itself."""

    def reach(self) -> Reach:
        return Reach()


@functools.singledispatch
def reach(layer: tf.keras.layers.Layer | Network) -> Reach:
    """The reach of a layer, of a Sequential or functional model, or of an integer network.

    Raises:
      NotLocal: it sees the whole image, or is not known here.
    """
    return _reach_unknown(layer)


@reach.register(Layer)
@reach.register(Network)
def _(layer):
    return layer.reach()


@functools.singledispatch
def part(layer: tf.keras.layers.Layer | Network, x: tf.Tensor, place: Sequence[int], outputs: Box
         ) -> tf.Tensor | list[tf.Tensor]:
    """The outputs that are wanted of a layer, a model or a network, as by `Layer.part`."""
    return _crop_outputs(layer, x, place, outputs)


@part.register
def _(layer: Layer, x, place, outputs):
    return layer.part(x, place, outputs)


@functools.singledispatch
def integers(layer: tf.keras.layers.Layer, builder: Builder, *inputs: Value) -> Value:
    """Appends a trained layer, or a whole Sequential or functional model, to `builder`.

    Raises:
      ConversionError: it has no integer form; the message names the layer.
    """
    return _convert_unknown(layer, builder, *inputs)


@integers.register
def _(layer: Layer, builder, *inputs):
    return layer.integers(builder, *inputs)


def _reach_unknown(layer):
    raise NotLocal(f"layer {layer.name} ({type(layer).__name__}) may depend on the whole image")


def _crop_outputs(layer, x, place, outputs):
    """Computes all outputs of x, and crops them to those that are wanted."""
    rate = reach(layer).rate
    return tf.nest.map_structure(
        lambda y: crop(y, [int(start * rate) for start in place], outputs), layer(x))


def crop(x: tf.Tensor, place: Sequence[int], box: Box) -> tf.Tensor:
    """The part of x in a box of the whole; x begins at row and column `place` of the whole."""
    rows, columns = (slice(start - first, stop - first)
                     for first, (start, stop) in zip(place, box))
    return x[:, rows, columns]


def _convert_unknown(layer, builder, *inputs):
    del builder, inputs
    raise ConversionError(f"layer {layer.name} ({type(layer).__name__}) has no integer form")


def reach_of_stack(layers: Iterable) -> Reach:
    """The reach of layers one after another."""
    return functools.reduce(Reach.then, map(reach, layers), Reach())


def part_of_stack(layers: Sequence, x: tf.Tensor, place: Sequence[int], outputs: Box
                  ) -> tf.Tensor:
    """As `part`, of layers one after another: none computes what the next ones do not read."""
    rests = [Reach()]
    for layer in layers[:0:-1]:
        rests.append(reach(layer).then(rests[-1]))
    for layer, rest in zip(layers, rests[::-1]):
        there = [int(start * reach(layer).rate) for start in place]
        # A box starts on the grid, perhaps before x. Nothing depends on what x lacks of it.
        wanted = [(max(start, first), stop)
                  for first, (start, stop) in zip(there, rest.box(outputs))]
        x = part(layer, x, place, wanted)
        place = [start for start, _ in wanted]
    return x


def integers_of_stack(layers: Iterable, builder: Builder, x: Value) -> Value:
    """Appends layers one after another."""
    for layer in layers:
        x = integers(layer, builder, x)
    return x


@reach.register
def _(model: tf.keras.Sequential):
    return reach_of_stack(model.layers)


@part.register
def _(model: tf.keras.Sequential, x, place, outputs):
    return part_of_stack(model.layers, x, place, outputs)


@integers.register
def _(model: tf.keras.Sequential, builder, x):
    return integers_of_stack(model.layers, builder, x)


@reach.register
def _(model: tf.keras.Model):
    if not _is_functional(model):
        return _reach_unknown(model)
    return _follow(model, [Reach() for _ in model.inputs],
                   lambda layer, *reaches: beside(reaches).then(reach(layer)))


@integers.register
def _(model: tf.keras.Model, builder, *inputs):
    if not _is_functional(model):
        raise ConversionError(f"model {model.name} ({type(model).__name__}) is neither Sequential "
                              "nor functional with one output: its layers cannot be followed")
    return _follow(model, inputs, lambda layer, *values: integers(layer, builder, *values))


def _is_functional(model):
    """Whether it is a graph of layers with one output."""
    return len(model.outputs or ()) == 1


def _follow(model, inputs, step):
    """step(layer, *values) of every layer of a functional model, from those of its inputs."""
    values = {tensor.ref(): value for tensor, value in zip(model.inputs, inputs)}

    def follow(tensor):
        if tensor.ref() not in values:
            node = tensor.node
            values[tensor.ref()] = step(node.layer, *map(follow, node.keras_inputs))
        return values[tensor.ref()]

    return follow(model.outputs[0])
