"""Layers made of layers: what the transforms of all papers are put together with."""

from collections.abc import Sequence
from typing import Protocol

import tensorflow as tf

from common import padding
from common.errors import ConversionError
from common.integer_builder import Builder
from common.integer_networks import Value
from common.reach import Box, Reach, beside
from common.transforms import contract
from common.transforms.contract import Layer, reach
from common.transforms.convolution import Convolution


class AnyTransform(Protocol):
    """What users of a transform may rely on: a Keras model, mostly a `Transform`.

    Attributes:
      stride: ratio of the sides of its larger and smaller end.
      out_channels: channels of what it returns.
    """

    stride: int
    out_channels: int

    def __call__(self, inputs: tf.Tensor, *, training: bool | None = None) -> tf.Tensor:
        """[B, H, W, C] -> float32 [B, H', W', out_channels]."""


class Transform(Layer, tf.keras.Sequential):
    """A stack of layers between image and latent, or between latent and hyper-latent.

    Where layers compute in bfloat16, the outer ones do not: pixels, and values that are rounded,
    have more digits than that. (Parameters of distributions need not; see `float32`.) What it
    returns is float32.

    Args:
      layers: one after another.
      out_channels: channels of the last one.
      linear: None, or a layer without weights whose output is added to theirs. (A `Sum` of both
        would be the outer layer, and all of it compute in float32.)

    Attributes:
      stride: ratio of the sides of its larger and smaller end.
      out_channels, linear: see above.
      float32: of a class, the numbers of the layers that always compute in float32.
    """

    stride: int
    float32: Sequence[int] = (0, -1)

    def __init__(self, layers: Sequence[tf.keras.layers.Layer], out_channels: int,
                 linear: Layer | None = None):
        for layer in (*(layers[i] for i in self.float32), *filter(None, [linear])):
            _set_float32(layer)
        super().__init__(layers)
        self.out_channels = out_channels
        self.__dict__["linear"] = linear  # not by Keras's setattr, which would append it to layers

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
             ) -> tf.Tensor:
        # Not as Sequential does, which makes a symbolic graph of itself for new sizes.
        del training, mask  # Keras hands them on
        x = inputs
        for layer in self.layers:
            x = layer(x)
        x = tf.cast(x, tf.float32)
        return x if self.linear is None else x + self.linear(inputs)

    def reach(self) -> Reach:
        stack = contract.reach_of_stack(self.layers)
        return stack if self.linear is None else beside([stack, reach(self.linear)])

    def part(self, x: tf.Tensor, place: Sequence[int], outputs: Box) -> tf.Tensor:
        y = contract.part_of_stack(self.layers, x, place, outputs)
        y = tf.cast(y, tf.float32)  # as in `call`
        return y if self.linear is None else y + contract.part(self.linear, x, place, outputs)

    def integers(self, builder: Builder, x: Value) -> Value:
        y = contract.integers_of_stack(self.layers, builder, x)
        return y if self.linear is None else builder.add(
            y, contract.integers(self.linear, builder, x))


def _set_float32(layer):
    """Sets a layer and its sublayers to float32, except the activation of a convolution.

    That is GDN of the largest feature maps there are, which costs more than the convolution.
    """
    parts = [] if isinstance(layer, Convolution) else layer.submodules
    for part in (layer, *parts):
        if isinstance(part, tf.keras.layers.Layer):
            part._set_dtype_policy("float32")  # Keras has no public way but the constructor


class Stack(Layer):
    """Layers one after another; unlike a Sequential model, without a graph for every input size.

    Args:
      layers: a list of layers.
    """

    def __init__(self, layers: Sequence[tf.keras.layers.Layer]):
        super().__init__()
        self.layers = layers

    def call(self, x: tf.Tensor) -> tf.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x

    def reach(self) -> Reach:
        return contract.reach_of_stack(self.layers)

    def part(self, x: tf.Tensor, place: Sequence[int], outputs: Box) -> tf.Tensor:
        return contract.part_of_stack(self.layers, x, place, outputs)

    def integers(self, builder: Builder, x: Value) -> Value:
        return contract.integers_of_stack(self.layers, builder, x)


class Residual(Stack):
    """x + layers(x)."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return x + super().call(x)

    def reach(self) -> Reach:
        return beside([Reach(), super().reach()])

    def part(self, x: tf.Tensor, place: Sequence[int], outputs: Box) -> tf.Tensor:
        return contract.crop(x, place, outputs) + super().part(x, place, outputs)

    def integers(self, builder: Builder, x: Value) -> Value:
        return builder.add(x, super().integers(builder, x))


class Padded(Stack):
    """Layers that need a whole multiple of pixels: x is padded before, cropped after.

    Args:
      multiple: of the height and the width.
      layers: a list of layers that keep the size.
    """

    def __init__(self, multiple: int, layers: Sequence[tf.keras.layers.Layer]):
        super().__init__(layers)
        self.multiple = multiple

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return padding.crop_to(super().call(padding.pad_to_multiple(x, self.multiple)), x)

    def reach(self) -> Reach:
        return Reach(grid=self.multiple).then(super().reach())

    def part(self, x: tf.Tensor, place: Sequence[int], outputs: Box) -> tf.Tensor:
        return Layer.part(self, x, place, outputs)  # of all layers at once, for the padding

    def integers(self, builder: Builder, x: Value) -> Value:
        raise ConversionError(f"layer {self.name}: padding has no integer form")


class Gated(Layer):
    """trunk(x) * mask(x); the mask may be one value a channel, [B, 1, 1, C].

    Args:
      trunk, mask: lists of layers; an empty one is the identity.
    """

    def __init__(self, trunk: Sequence[tf.keras.layers.Layer],
                 mask: Sequence[tf.keras.layers.Layer]):
        super().__init__()
        self.trunk, self.mask = Stack(trunk), Stack(mask)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return self.trunk(x) * self.mask(x)

    def reach(self) -> Reach:
        return beside(map(reach, (self.trunk, self.mask)))

    def integers(self, builder: Builder, x: Value) -> Value:
        return builder.multiply(*(
            contract.integers(part, builder, x) for part in (self.trunk, self.mask)))


class Sum(Layer):
    """The sum of several stacks of layers on one input.

    Args:
      branches: lists of layers.
    """

    def __init__(self, *branches: Sequence[tf.keras.layers.Layer]):
        super().__init__()
        self.branches = [Stack(branch) for branch in branches]

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.add_n([branch(x) for branch in self.branches])

    def reach(self) -> Reach:
        return beside(map(reach, self.branches))

    def integers(self, builder: Builder, x: Value) -> Value:
        return builder.add(*(contract.integers(branch, builder, x) for branch in self.branches))


class Branches(Sum):
    """The outputs of several stacks of layers on one input, their channels one after another."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.concat([branch(x) for branch in self.branches], axis=-1)

    def integers(self, builder: Builder, x: Value) -> Value:
        return builder.concat(*(contract.integers(branch, builder, x) for branch in self.branches))
