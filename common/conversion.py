"""Keras layers as operations of integer networks (common/integer_networks.py).

Batch normalisation becomes an affine map with its averages, transposed convolutions become one
convolution for all phases of the output, and nonlinear functions integer tables.
"""

import functools

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

from common.integer_networks import Builder, ConversionError, Value
from common.transforms import layers

# True: the function approaches x for large x, and the table holds its difference from max(x, 0).
_POINTWISE = {"sigmoid": False, "tanh": False, "elu": True, "softplus": True, "swish": True,
              "silu": True, "mish": True}


def convert(builder: Builder, layer, *inputs: Value) -> Value:
    """Appends a trained Keras layer, or a whole Sequential or functional model, to `builder`.

    Raises:
      ConversionError: it has no integer form; the message names the layer.
    """
    return _convert(layer, builder, *inputs)


@functools.singledispatch
def _convert(layer, builder, *inputs):
    known = ", ".join(sorted(cls.__name__ for cls in _convert.registry if cls is not object))
    raise ConversionError(
        f"layer {getattr(layer, 'name', layer)} ({type(layer).__name__}) has no integer form; "
        f"these have: {known}")


@_convert.register
def _(model: tf.keras.Model, builder, *inputs):
    if len(getattr(model, "outputs", None) or ()) != 1:
        raise ConversionError(f"model {model.name} ({type(model).__name__}) is neither Sequential "
                              "nor functional with one output: its layers cannot be followed")
    values = {tensor.ref(): value for tensor, value in zip(model.inputs, inputs)}

    def follow(tensor):
        if tensor.ref() not in values:
            arguments = [follow(argument) for argument in tensor.node.keras_inputs]
            values[tensor.ref()] = _convert(tensor.node.layer, builder, *arguments)
        return values[tensor.ref()]

    return follow(model.outputs[0])


@_convert.register(tf.keras.Sequential)
@_convert.register(layers.Stack)
def _stack(stack, builder, x):
    for layer in stack.layers:
        x = _convert(layer, builder, x)
    return x


@_convert.register
def _(layer: layers.Residual, builder, x):
    return builder.add(x, _stack(layer, builder, x))


@_convert.register
def _(layer: layers.Sum, builder, x):
    return builder.add(*(_convert(branch, builder, x) for branch in layer.branches))


@_convert.register
def _(layer: layers.Branches, builder, x):
    return builder.concat(*(_convert(branch, builder, x) for branch in layer.branches))


@_convert.register
def _(layer: layers.Gated, builder, x):
    return builder.multiply(*(_stack(part, builder, x) for part in (layer.trunk, layer.mask)))


@_convert.register
def _(layer: layers.Padded, builder, x):
    raise ConversionError(f"layer {layer.name}: padding has no integer form")


@_convert.register
def _(layer: layers.DepthToSpace, builder, x):
    return builder.depth_to_space(x, layer.block)


@_convert.register
def _(layer: layers.ShiftedConv, builder, x):
    if layer.padding != "zeros":
        raise ConversionError(f"layer {layer.name}: padding '{layer.padding}' has no integer form; "
                              "'zeros' has")
    kernel = layer.kernel.numpy().reshape(-1, *layer.kernel.shape[2:])
    y = builder.conv(layer.name, x, layer.taps, kernel[:len(layer.taps)],
                     _bias(layer, layer.filters), layer.stride)
    return _activate(layer, builder, y)


@_convert.register
def _(layer: tfc.SignalConv2D, builder, x):
    rows, columns = layer.kernel.shape[:2]
    if (layer.padding != "same_zeros" or layer.channel_separable or not layer.extra_pad_end
            or not layer.corr and rows != columns
            or len({*layer.strides_up}) > 1 or len({*layer.strides_down}) > 1
            or (layer.strides_up if layer.corr else layer.strides_down)[0] != 1):
        raise ConversionError(
            f"layer {layer.name}: only correlations that down-sample and convolutions that "
            "up-sample have an integer form, with equal strides (and square kernels if "
            "up-sampling) and padding 'same_zeros', not separable")
    if layer.corr:
        y = _strided(layer, builder, x)
    else:
        y = _transposed(layer, builder, x, layer.kernel.numpy(), layer.strides_up[0], rows // 2)
    return _activate(layer, builder, y)


@_convert.register
def _(layer: tf.keras.layers.Conv2DTranspose, builder, x):
    rows, columns = layer.kernel_size
    stride, = {*layer.strides} if len({*layer.strides}) == 1 else (0,)
    if not rows == columns >= stride > 0 or layer.padding != "same" or layer.output_padding or (
            set(layer.dilation_rate) != {1}):
        raise ConversionError(
            f"layer {layer.name}: only square transposed kernels with padding 'same', equal "
            "strides that are no larger, and no dilation have an integer form")
    kernel = np.swapaxes(layer.kernel.numpy(), 2, 3)
    y = _transposed(layer, builder, x, kernel, stride, (rows - stride) // 2)
    return _activate(layer, builder, y)


def _bias(layer, filters):
    return layer.bias.numpy() if layer.use_bias else np.zeros(filters)


def _strided(layer, builder, x):
    kernel = layer.kernel.numpy()
    rows, columns, channels, filters = kernel.shape
    offsets = [(a - rows // 2, b - columns // 2) for a in range(rows) for b in range(columns)]
    return builder.conv(layer.name, x, offsets, kernel.reshape(-1, channels, filters),
                        _bias(layer, filters), layer.strides_down[0])


def _transposed(layer, builder, x, kernel, stride, before):
    """Every output phase is a convolution of the input's grid, with a part of the kernel.

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
    bias = np.tile(_bias(layer, filters), stride**2)
    y = builder.conv(layer.name, x, offsets, phases.reshape(len(offsets), channels, -1), bias)
    return builder.depth_to_space(y, stride) if stride > 1 else y


@_convert.register
def _(layer: tf.keras.layers.Conv2D, builder, x):
    _require_same(layer)
    kernel, stride = layer.kernel.numpy(), layer.strides[0]
    rows, columns, channels, filters = kernel.shape
    offsets = [(a - rows // 2, b - columns // 2) for a in range(rows) for b in range(columns)]
    y = builder.conv(layer.name, x, offsets, kernel.reshape(-1, channels, filters),
                     _bias(layer, filters), stride)
    return _activate(layer, builder, y)


@_convert.register
def _(layer: tf.keras.layers.DepthwiseConv2D, builder, x):
    kernel = layer.depthwise_kernel.numpy()
    rows, columns, channels, multiplier = kernel.shape
    _require_same(layer)
    if multiplier != 1:
        raise ConversionError(f"layer {layer.name}: a depth multiplier of {multiplier} has no "
                              "integer form; 1 has")
    offsets = [(a - rows // 2, b - columns // 2) for a in range(rows) for b in range(columns)]
    y = builder.depthwise(layer.name, x, offsets, kernel.reshape(-1, channels),
                          _bias(layer, channels))
    return _activate(layer, builder, y)


def _require_same(layer):
    """With even kernels, strides or dilation, Keras pads unlike the layers above."""
    ordinary = (type(layer).__name__ in ("Conv2D", "DepthwiseConv2D")
                and layer.padding == "same" and set(layer.strides) == {1} and layer.groups == 1
                and set(layer.dilation_rate) == {1} and all(k % 2 for k in layer.kernel_size))
    if not ordinary:
        raise ConversionError(f"layer {layer.name}: only odd kernels with padding 'same', stride 1 "
                              "and no dilation or groups have an integer form")


def _require_channels(layer, axis):
    if axis not in (-1, 3):
        raise ConversionError(f"layer {layer.name}: only the last axis has an integer form")


@_convert.register
def _(layer: tf.keras.layers.BatchNormalization, builder, x):
    _require_channels(layer, *layer.axis)
    deviation = np.sqrt(layer.moving_variance.numpy() + layer.epsilon)
    factor = (layer.gamma.numpy() if layer.scale else 1.0) / deviation
    summand = (layer.beta.numpy() if layer.center else 0.0) - layer.moving_mean.numpy() * factor
    return builder.affine(layer.name, x, factor, summand)


@_convert.register
def _(layer: tf.keras.layers.Activation, builder, x):
    return _activate(layer, builder, x)


@_convert.register
def _(layer: tf.keras.layers.ReLU, builder, x):
    if layer.max_value is not None or layer.threshold:
        raise ConversionError(f"layer {layer.name}: only a plain or leaky ReLU has an integer form")
    return builder.leaky_relu(layer.name, x, float(layer.negative_slope))


@_convert.register
def _(layer: tf.keras.layers.LeakyReLU, builder, x):
    return builder.leaky_relu(layer.name, x, float(layer.alpha))


@_convert.register
def _(layer: layers.ConcatElu, builder, x):
    both = builder.concat(x, builder.negate(x))
    return builder.pointwise(both, tf.nn.elu, linear=True)


@_convert.register
def _(layer: tf.keras.layers.Add, builder, *values):
    return builder.add(*values)


@_convert.register
def _(layer: tf.keras.layers.Multiply, builder, *values):
    return functools.reduce(builder.multiply, values)


@_convert.register
def _(layer: tf.keras.layers.Concatenate, builder, *values):
    _require_channels(layer, layer.axis)
    return builder.concat(*values)


@_convert.register
def _(layer: tf.keras.layers.GlobalAveragePooling2D, builder, x):
    if not layer.keepdims:
        raise ConversionError(f"layer {layer.name}: keepdims=True is needed")
    return builder.mean(x)


def _activate(layer, builder, x):
    """The activation of a layer: a function, a layer, or None."""
    function = layer.activation
    if function is None:
        return x
    if isinstance(function, tf.keras.layers.Layer):
        return _convert(function, builder, x)
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

