"""Reach and integer form of Keras's layers, and helpers that our layers share; see contract.py."""

import functools

import numpy as np
import tensorflow as tf

from common.errors import ConversionError, NotLocal
from common.integer_builder import Builder
from common.integer_networks import Value
from common.reach import Reach, taps, transposed
from common.transforms import contract


@contract.reach.register
def _(layer: tf.keras.layers.Conv2DTranspose):
    size, stride = max(layer.kernel_size), max(layer.strides)
    if layer.padding != "same" or layer.output_padding or size < stride or (
            set(layer.dilation_rate) != {1}):
        raise _unknown_padding(layer)
    return transposed(size, (size - stride) // 2, stride).then(reach_of_activation(layer))


@contract.reach.register(tf.keras.layers.Conv2D)
@contract.reach.register(tf.keras.layers.DepthwiseConv2D)
def _(layer):
    # With strides, where Keras's kernels lie depends on the size of their input.
    if layer.padding != "same" or set(layer.strides) != {1}:
        raise _unknown_padding(layer)
    size = max((size - 1) * dilation for size, dilation in zip(
        layer.kernel_size, layer.dilation_rate)) + 1
    return taps(-((size - 1) // 2), size // 2).then(reach_of_activation(layer))


def _unknown_padding(layer):
    return NotLocal(f"layer {layer.name} ({type(layer).__name__}) has padding or strides for which "
                    "there are no tiles")


@contract.integers.register
def _(layer: tf.keras.layers.Conv2DTranspose, builder, x):
    rows, columns = layer.kernel_size
    stride, = {*layer.strides} if len({*layer.strides}) == 1 else (0,)
    if not rows == columns >= stride > 0 or layer.padding != "same" or layer.output_padding or (
            set(layer.dilation_rate) != {1}):
        raise ConversionError(
            f"layer {layer.name}: only square transposed kernels with padding 'same', equal "
            "strides that are no larger, and no dilation have an integer form")
    kernel = np.swapaxes(layer.kernel.numpy(), 2, 3)
    y = convert_transposed(layer, builder, x, kernel, stride, (rows - stride) // 2)
    return activate(layer, builder, y)


def bias(layer: tf.keras.layers.Layer, filters: int) -> np.ndarray:
    """The bias [filters] of a convolution, zeros if it has none."""
    return layer.bias.numpy() if layer.use_bias else np.zeros(filters)


def convert_transposed(layer: tf.keras.layers.Layer, builder: Builder, x: Value,
                       kernel: np.ndarray, stride: int, before: int) -> Value:
    """A transposed convolution: every output phase is one of the input's grid, with a part of it.

    `kernel` [size, size, C, filters] starts `before` outputs before the first one of an input.
    """
    size, _, channels, filters = kernel.shape
    # Output s i + p gets kernel[k] from input i + d, where s d = p + before - k.
    reached = {(p, k): (p + before - k) // stride for p in range(stride) for k in range(size)
               if (p + before - k) % stride == 0}
    span = sorted(set(reached.values()))
    offsets = [(row, column) for row in span for column in span]
    phases = np.zeros([len(offsets), channels, stride, stride, filters])
    for (p, k), row in reached.items():
        for (q, m), column in reached.items():
            phases[offsets.index((row, column)), :, p, q] = kernel[k, m]
    biases = np.tile(bias(layer, filters), stride**2)
    y = builder.conv(layer.name, x, offsets, phases.reshape(len(offsets), channels, -1), biases)
    return builder.depth_to_space(y, stride) if stride > 1 else y


@contract.integers.register
def _(layer: tf.keras.layers.Conv2D, builder, x):
    _require_same(layer)
    kernel, stride = layer.kernel.numpy(), layer.strides[0]
    rows, columns, channels, filters = kernel.shape
    offsets = [(a - rows // 2, b - columns // 2) for a in range(rows) for b in range(columns)]
    y = builder.conv(layer.name, x, offsets, kernel.reshape(-1, channels, filters),
                     bias(layer, filters), stride)
    return activate(layer, builder, y)


@contract.integers.register
def _(layer: tf.keras.layers.DepthwiseConv2D, builder, x):
    kernel = layer.depthwise_kernel.numpy()
    rows, columns, channels, multiplier = kernel.shape
    _require_same(layer)
    if multiplier != 1:
        raise ConversionError(f"layer {layer.name}: a depth multiplier of {multiplier} has no "
                              "integer form; 1 has")
    offsets = [(a - rows // 2, b - columns // 2) for a in range(rows) for b in range(columns)]
    y = builder.depthwise(layer.name, x, offsets, kernel.reshape(-1, channels),
                          bias(layer, channels))
    return activate(layer, builder, y)


def _require_same(layer):
    """With even kernels, strides or dilation, Keras pads unlike the layers above."""
    # Subclasses may compute something else.
    ordinary = (type(layer) in (tf.keras.layers.Conv2D, tf.keras.layers.DepthwiseConv2D)
                and layer.padding == "same" and set(layer.strides) == {1} and layer.groups == 1
                and set(layer.dilation_rate) == {1} and all(k % 2 for k in layer.kernel_size))
    if not ordinary:
        raise ConversionError(f"layer {layer.name}: only odd kernels with padding 'same', stride 1 "
                              "and no dilation or groups have an integer form")


def _pointwise(layer) -> Reach:
    """The reach of layers that act on every position by itself."""
    del layer
    return Reach()


for _layer in (tf.keras.layers.Activation, tf.keras.layers.Add, tf.keras.layers.BatchNormalization,
               tf.keras.layers.Concatenate, tf.keras.layers.LeakyReLU, tf.keras.layers.Multiply,
               tf.keras.layers.ReLU):
    contract.reach.register(_layer, _pointwise)


def _require_channels(layer, axis):
    if axis not in (-1, 3):
        raise ConversionError(f"layer {layer.name}: only the last axis has an integer form")


@contract.integers.register
def _(layer: tf.keras.layers.BatchNormalization, builder, x):
    _require_channels(layer, *layer.axis)
    deviation = np.sqrt(layer.moving_variance.numpy() + layer.epsilon)
    factor = (layer.gamma.numpy() if layer.scale else 1.0) / deviation
    summand = (layer.beta.numpy() if layer.center else 0.0) - layer.moving_mean.numpy() * factor
    return builder.affine(layer.name, x, factor, summand)


@contract.integers.register
def _(layer: tf.keras.layers.Activation, builder, x):
    return activate(layer, builder, x)


@contract.integers.register
def _(layer: tf.keras.layers.ReLU, builder, x):
    if layer.max_value is not None or layer.threshold:
        raise ConversionError(f"layer {layer.name}: only a plain or leaky ReLU has an integer form")
    return builder.leaky_relu(layer.name, x, float(layer.negative_slope))


@contract.integers.register
def _(layer: tf.keras.layers.LeakyReLU, builder, x):
    return builder.leaky_relu(layer.name, x, float(layer.alpha))


@contract.integers.register
def _(layer: tf.keras.layers.Add, builder, *values):
    return builder.add(*values)


@contract.integers.register
def _(layer: tf.keras.layers.Multiply, builder, *values):
    return functools.reduce(builder.multiply, values)


@contract.integers.register
def _(layer: tf.keras.layers.Concatenate, builder, *values):
    _require_channels(layer, layer.axis)
    return builder.concat(*values)


@contract.integers.register
def _(layer: tf.keras.layers.GlobalAveragePooling2D, builder, x):
    if not layer.keepdims:
        raise ConversionError(f"layer {layer.name}: keepdims=True is needed")
    return builder.mean(x)


# True: the function approaches x for large x, and the table holds its difference from max(x, 0).
_POINTWISE = {"sigmoid": False, "tanh": False, "elu": True, "softplus": True, "swish": True,
              "silu": True, "mish": True}


def reach_of_activation(layer: tf.keras.layers.Layer) -> Reach:
    """The reach of its `activation`: a function acts on each position alone, a layer may not."""
    is_layer = isinstance(layer.activation, tf.keras.layers.Layer)
    return contract.reach(layer.activation) if is_layer else Reach()


def activate(layer: tf.keras.layers.Layer, builder: Builder, x: Value) -> Value:
    """Appends its `activation`: a function, a layer, or None."""
    function = layer.activation
    if function is None:
        return x
    if isinstance(function, tf.keras.layers.Layer):
        return contract.integers(function, builder, x)
    name = getattr(function, "__name__", str(function))
    if name == "linear":
        return x
    if name == "relu":
        return builder.leaky_relu(layer.name, x, 0.0)
    if name == "leaky_relu":
        return builder.leaky_relu(layer.name, x, -float(function(-1.0)))
    if name in _POINTWISE:
        return builder.pointwise(x, function, _POINTWISE[name])
    raise ConversionError(
        f"layer {layer.name}: its activation '{name}' has no integer form; these have: linear, "
        f"relu, leaky_relu, {', '.join(sorted(_POINTWISE))}")
