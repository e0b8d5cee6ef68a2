"""Networks in fixed point, whose outputs are the same bits on every machine.

Encoder and decoder must agree on every entry of the scale table that a network picks. Sums of
floats depend on the order of summation, so on the number of threads, the library and the
processor; one flipped index and the rest of the file is noise (Ballé et al. 2019). Sums of
integers do not, as long as every partial sum is representable. Here trained networks are turned
into integer ones, held in float64, where integers below 2^53 are exact:

    weights        integers of at most 16 bits (25 where channels do not mix), scaled by a power
                   of two, layer by layer
    activations    integers of at most 28 bits, scaled by a power of two, known at export
    accumulators   sum |weights| * max |activation| + |bias| < 2^53, proved at export

After each layer the accumulator is rescaled, rounded and clipped. Convolutions gather their taps
and multiply matrices, on the CPU: the fast forms of FFT and Winograd round on the way. Nonlinear
functions are integer tables. What is left is +, -, *, / and rounding of single float64 numbers,
which IEEE 754 fixes.

`convert` turns Keras layers into a `Network`, a list of operations in order. It is stored with
the exported model and never recomputed.
"""

import dataclasses
import functools
import json
import math

import numpy as np
import tensorflow as tf
import tensorflow_compression as tfc

from common.cli import UserError
from common.transforms.layers import ConcatElu, ShiftedConv

ACCUMULATOR_BITS = 53
ACTIVATION_BITS = 28
WEIGHT_BITS = 16

# Activations beyond are clipped. In the zoo's models latents and hidden ones stay below 2^6.
_LARGEST_ACTIVATION = 2.0**14
_MOST_FRACTIONAL_BITS = 20
# With fewer bits for the largest weight of a layer the network would be another one.
_LEAST_WEIGHT_BITS = 8
# Smaller weights than 2^-28 are none: with the largest activation they add less than 2^-14.
_MOST_WEIGHT_SCALE = 28

# Tables of pointwise functions: their argument is clipped to +-16 and rounded to 2^-10.
_TABLE_RANGE = 16
_TABLE_BITS = 10
_LEAST_TABLE_BITS = 14  # of the table's entries
# True: the function approaches x for large x, and the table holds its difference from max(x, 0).
_POINTWISE = {"sigmoid": False, "tanh": False, "elu": True, "softplus": True, "swish": True,
              "silu": True, "mish": True}

_CENTRE = ((0, 0),)


class ConversionError(UserError):
    """A network that has no faithful fixed-point form; the message names the layer."""


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """What is known at export of a tensor in a network.

    Attributes:
      index: of the operation whose output it is.
      channels: size of its last axis.
      bits: an integer n stands for n / 2^bits.
      bound: no integer is larger than this in magnitude.
    """

    index: int
    channels: int
    bits: int
    bound: float


# --- Operations -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Op:
    """An operation on tensors of integers, float64 [..., C].

    All but `Spatial`, `DepthToSpace` and `Mean` act on every position by itself.

    Attributes:
      inputs: indices of the operations whose outputs it takes.
    """

    inputs: tuple[int, ...]

    @property
    def taps(self) -> tuple[tuple[int, int], ...]:
        """Offsets (rows, columns) of the input's positions that an output's position reads."""
        return _CENTRE


@dataclasses.dataclass(frozen=True, eq=False)
class Input(Op):
    """The network's argument number `number`."""

    number: int
    channels: int


@dataclasses.dataclass(frozen=True, eq=False)
class Spatial(Op):
    """An operation on several positions: a weighted sum of x[i stride + row, j stride + column].

    Attributes:
      offsets: int [T, 2], row and column of each tap.
      kernel: integer weights.
      bias: int64 [filters].
      stride: distance of the outputs' positions.
    """

    offsets: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    stride: int = 1

    @functools.cached_property
    def taps(self):
        return tuple((int(row), int(column)) for row, column in self.offsets)

    def __call__(self, x):
        return self.apply(tf.concat([*_shifted(x, self.taps, self.stride)], axis=-1))

    def apply(self, patches):
        """The taps of every position side by side [..., T * C] -> outputs [..., filters]."""
        raise NotImplementedError


class Conv(Spatial):
    """Convolution; `kernel` is int16 [filters, T * C], which suits products with few rows."""

    def __call__(self, x):
        return self._eagerly(x.numpy()) if tf.executing_eagerly() else super().__call__(x)

    def _eagerly(self, x):
        """Tap by tap with NumPy, whose float64 products are twice as fast as TensorFlow's."""
        channels = x.shape[-1]
        total = product = None
        for k, shifted in enumerate(_shifted(x, self.taps, self.stride, np.pad)):
            columns = slice(k * channels, (k + 1) * channels)
            product = np.matmul(shifted.reshape(-1, channels), self._matrix[:, columns].T,
                                out=product)
            total = product.copy() if total is None else np.add(total, product, out=total)
        return tf.constant((total + self.bias).reshape(*shifted.shape[:-1], -1))

    @functools.cached_property
    def _matrix(self):
        return self.kernel.astype(np.float64)

    def apply(self, patches):
        kernel, bias = _tensor(self, "kernel"), _tensor(self, "bias")
        rows = tf.reshape(patches, [-1, kernel.shape[1]])
        shape = tf.concat([tf.shape(patches)[:-1], kernel.shape[:1]], axis=0)
        return tf.reshape(tf.matmul(rows, kernel, transpose_b=True) + bias, shape)


class Depthwise(Spatial):
    """Convolution of each channel by itself; `kernel` is int32 [T, C]."""

    def apply(self, patches):
        kernel, bias = _tensor(self, "kernel"), _tensor(self, "bias")
        shape = tf.concat([tf.shape(patches)[:-1], kernel.shape], axis=0)
        return tf.reduce_sum(tf.reshape(patches, shape) * kernel, axis=-2) + bias


@dataclasses.dataclass(frozen=True, eq=False)
class Requantize(Op):
    """round(x / 2^shift), halves to even, clipped to [low, high]."""

    shift: int
    low: float
    high: float

    def __call__(self, x):
        if self.shift:
            x = tf.round(x * 2.0**-self.shift)
        return tf.clip_by_value(x, tf.constant(self.low, x.dtype), tf.constant(self.high, x.dtype))


@dataclasses.dataclass(frozen=True, eq=False)
class LeakyRelu(Op):
    """x where positive, else round(x * slope / 2^16)."""

    slope: int

    def __call__(self, x):
        if not self.slope:
            return tf.maximum(x, 0.0)
        return tf.maximum(x, tf.round(x * (self.slope * 2.0**-16)))


@dataclasses.dataclass(frozen=True, eq=False)
class Lookup(Op):
    """table[x], and max(x, 0) added to it if `linear`.

    Attributes:
      table: int32 [2 * 2^14 + 1]; for arguments in steps of 2^-10 from -16 to 16.
      shift: fractional bits of x beyond the table's 10.
      linear: see above.
    """

    table: np.ndarray
    shift: int
    linear: bool

    def __call__(self, x):
        half = len(self.table) // 2
        position = tf.clip_by_value(tf.round(x * 2.0**-self.shift), -half, half) + half
        y = tf.gather(_tensor(self, "table"), tf.cast(position, tf.int32))
        return y + tf.maximum(x, 0.0) if self.linear else y


@dataclasses.dataclass(frozen=True, eq=False)
class Add(Op):
    """Sum of inputs with the same number of fractional bits."""

    def __call__(self, *values):
        return functools.reduce(tf.add, values)


@dataclasses.dataclass(frozen=True, eq=False)
class Multiply(Op):
    """Product of two inputs."""

    def __call__(self, a, b):
        return a * b


@dataclasses.dataclass(frozen=True, eq=False)
class Negate(Op):
    """-x."""

    def __call__(self, x):
        return -x


@dataclasses.dataclass(frozen=True, eq=False)
class Concat(Op):
    """Inputs with the same number of fractional bits, one after another."""

    def __call__(self, *values):
        return tf.concat(values, axis=-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Slice(Op):
    """Channels start to stop."""

    start: int
    stop: int

    def __call__(self, x):
        return x[..., self.start:self.stop]


@dataclasses.dataclass(frozen=True, eq=False)
class DepthToSpace(Op):
    """Channels [block, block, C] to positions."""

    block: int

    def __call__(self, x):
        return tf.nn.depth_to_space(x, self.block)


@dataclasses.dataclass(frozen=True, eq=False)
class Mean(Op):
    """Mean over all positions, [..., 1, 1, C], halves rounded up."""

    def __call__(self, x):
        count = tf.cast(tf.shape(x)[-3] * tf.shape(x)[-2], x.dtype)
        total = tf.reduce_sum(x, axis=(-3, -2), keepdims=True)
        # Compilers make a product with 1 / count of the division, which may be the next integer.
        quotient = tf.floor(total / count)
        rest = total - quotient * count
        return quotient + tf.cast(2 * rest >= count, x.dtype) - tf.cast(
            2 * rest < -count, x.dtype) + tf.cast(2 * rest >= 3 * count, x.dtype)


_OPS = {cls.__name__: cls for cls in (
    Input, Conv, Depthwise, Requantize, LeakyRelu, Lookup, Add, Multiply, Negate, Concat, Slice,
    DepthToSpace, Mean)}


def _shifted(x, taps, stride, pad=tf.pad):
    """x [B, H, W, C] moved by each tap, zeros beyond the border; one at a time."""
    rows, columns = zip(*taps)
    top, left = max(0, -min(rows)), max(0, -min(columns))
    padded = pad(x, [[0, 0], [top, max(0, *rows)], [left, max(0, *columns)], [0, 0]])
    shape = x.shape if isinstance(x, np.ndarray) else tf.shape(x)
    height, width = shape[1], shape[2]
    for row, column in taps:
        yield padded[:, top + row:top + row + height:stride,
                     left + column:left + column + width:stride]


def _tensor(op, name) -> tf.Tensor:
    """An array of `op` in float64, made once and outside of any graph."""
    cached = f"_{name}_tensor"
    if cached not in op.__dict__:
        with tf.init_scope(), tf.device("CPU:0"):
            op.__dict__[cached] = tf.constant(getattr(op, name), tf.float64)
    return op.__dict__[cached]


# --- Networks ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """Operations in order, each on outputs of earlier ones.

    Attributes:
      ops: the operations.
      channels: of the output of each.
      outputs: the values that a call returns.
    """

    ops: tuple[Op, ...]
    channels: tuple[int, ...]
    outputs: tuple[Value, ...]

    def __call__(self, *inputs: tf.Tensor) -> list[tf.Tensor]:
        """Whole tensors of integers [B, H, W, C], any numeric type, to float64 [B, H', W', C']."""
        with tf.device("CPU:0"):
            values = []
            last_use = {i: k for k, op in enumerate(self.ops) for i in op.inputs}
            kept = {value.index for value in self.outputs}
            for k, op in enumerate(self.ops):
                if isinstance(op, Input):
                    values.append(tf.cast(inputs[op.number], tf.float64))
                else:
                    values.append(op(*(values[i] for i in op.inputs)))
                for i in op.inputs:
                    if last_use[i] == k and i not in kept:
                        values[i] = None  # large images should not hold every layer
            return [values[value.index] for value in self.outputs]

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The network as arrays by name, for an .npz file."""
        arrays, program = {}, []
        for k, op in enumerate(self.ops):
            fields = {field.name: getattr(op, field.name) for field in dataclasses.fields(op)}
            for name, value in fields.items():
                if isinstance(value, np.ndarray):
                    # Tables of the same function are stored once.
                    same = (key for key, other in arrays.items() if np.array_equal(other, value))
                    fields[name] = {"array": next(same, f"{k}.{name}")}
                    arrays[fields[name]["array"]] = value
            program.append({"op": type(op).__name__, **fields})
        outputs = [dataclasses.asdict(value) for value in self.outputs]
        arrays["program"] = np.array(json.dumps([program, self.channels, outputs]))
        return arrays

    @classmethod
    def from_arrays(cls, arrays) -> "Network":
        """The inverse of `to_arrays`. Raises KeyError, TypeError or ValueError for other arrays."""
        program, channels, outputs = json.loads(str(arrays["program"]))
        ops = []
        for fields in map(dict, program):
            kind = _OPS[fields.pop("op")]
            fields["inputs"] = tuple(fields["inputs"])
            if not all(0 <= i < len(ops) for i in fields["inputs"]):
                raise ValueError(f"operation {len(ops)} reads outputs of later ones")
            ops.append(kind(**{name: arrays[value["array"]] if isinstance(value, dict) else value
                               for name, value in fields.items()}))
        outputs = tuple(Value(**value) for value in outputs)
        if not outputs or not all(0 <= value.index < len(ops) for value in outputs):
            raise ValueError("the network has no outputs, or some that are not there")
        return cls(tuple(ops), tuple(channels), outputs)


# --- Conversion -------------------------------------------------------------------------------


class Builder:
    """Appends operations to a network, choosing bit widths and proving bounds."""

    def __init__(self):
        self._ops, self._channels = [], []

    def network(self, *outputs: Value) -> Network:
        """The network that returns `outputs`."""
        return Network(tuple(self._ops), tuple(self._channels), outputs)

    def input(self, number: int, channels: int, bits: int, bound: float) -> Value:
        """Argument `number` of the network, clipped to +-`bound` (an integer)."""
        value = self._append(Input((), number, channels), channels, bits, math.inf)
        return self._append(
            Requantize((value.index,), 0, -bound, bound), channels, bits, bound)

    def _append(self, op: Op, channels: int, bits: int, bound: float) -> Value:
        self._ops.append(op)
        self._channels.append(channels)
        return Value(len(self._ops) - 1, channels, bits, bound)

    def _most_bits(self, x: Value) -> int:
        """How many fractional bits fit."""
        magnitude = min(x.bound / 2.0**x.bits, _LARGEST_ACTIVATION)
        bits = ACTIVATION_BITS - max(0, math.ceil(math.log2(max(magnitude, 1e-9))))
        return min(bits, _MOST_FRACTIONAL_BITS)

    def requantize(self, x: Value, bits: int | None = None, low: float | None = None,
                   high: float | None = None) -> Value:
        """x with `bits` fractional bits (default: as many as fit), clipped to [low, high]."""
        if bits is None:
            bits = min(self._most_bits(x), x.bits)
        largest = math.ceil(min(x.bound * 2.0**(bits - x.bits), _LARGEST_ACTIVATION * 2.0**bits))
        low, high = -largest if low is None else low, largest if high is None else high
        op = Requantize((x.index,), x.bits - bits, float(low), float(high))
        return self._append(op, x.channels, bits, max(abs(low), abs(high)))

    def conv(self, name: str, x: Value, offsets, kernel, bias, stride: int = 1) -> Value:
        """Convolution of float weights `kernel` [T, C, filters] and `bias` [filters]."""
        scale, weights, biases, bound = self._fit(
            name, x, kernel, bias, 2.0**(WEIGHT_BITS - 1) - 1, axis=(0, 1))
        matrix = np.ascontiguousarray(weights.reshape(-1, weights.shape[-1]).T, np.int16)
        op = Conv((x.index,), np.asarray(offsets, np.int32), matrix, biases, stride)
        return self.requantize(
            self._append(op, weights.shape[-1], x.bits + scale, bound))

    def depthwise(self, name: str, x: Value, offsets, kernel, bias, stride: int = 1,
                  **requantize) -> Value:
        """Channel by channel, with float weights `kernel` [T, C] and `bias` [C]."""
        scale, weights, biases, bound = self._fit(name, x, kernel, bias, 2.0**24, axis=0)
        op = Depthwise((x.index,), np.asarray(offsets, np.int32), weights.astype(np.int32),
                       biases, stride)
        return self.requantize(
            self._append(op, x.channels, x.bits + scale, bound), **requantize)

    def affine(self, name: str, x: Value, factor, summand, **requantize) -> Value:
        """x * factor + summand, for each channel. More arguments go to `requantize`."""
        factor, summand = (np.broadcast_to(np.asarray(v, np.float64), x.channels)
                           for v in (factor, summand))
        return self.depthwise(name, x, _CENTRE, factor[None], summand, **requantize)

    def _fit(self, name, x, kernel, bias, largest, axis):
        """Integer weights with as many bits as allowed; the bound of what they sum to.

        Raises:
          ConversionError: too few bits are left for the weights.
        """
        kernel, bias = np.asarray(kernel, np.float64), np.asarray(bias, np.float64)
        if not (np.all(np.isfinite(kernel)) and np.all(np.isfinite(bias))):
            raise ConversionError(f"layer {name} cannot be made exact: its weights are not finite")
        peak = np.max(np.abs(kernel), initial=0.0) or 1.0
        widest = min(math.floor(math.log2(largest / peak)), _MOST_WEIGHT_SCALE)
        # Below this the largest weight would have fewer than the least bits.
        narrowest = min(math.ceil(math.log2(2.0**(_LEAST_WEIGHT_BITS - 1) / peak)), widest)
        for scale in range(widest, narrowest - 1, -1):
            weights, biases = np.round(kernel * 2.0**scale), np.round(bias * 2.0**(x.bits + scale))
            bound = float(np.max(np.sum(np.abs(weights), axis=axis) * x.bound + np.abs(biases)))
            if bound < 2.0**ACCUMULATOR_BITS:
                return scale, weights, biases.astype(np.int64), bound
        raise ConversionError(
            f"layer {name} cannot be made exact: with {_LEAST_WEIGHT_BITS}-bit weights and inputs "
            f"up to {x.bound / 2.0**x.bits:g} its sums exceed 2^{ACCUMULATOR_BITS}; its largest "
            f"weight is {peak:g}, its largest bias {np.max(np.abs(bias), initial=0):g}")

    def add(self, *values: Value) -> Value:
        """Sum, channels broadcast."""
        values = self._same_bits(values)
        op = Add(tuple(value.index for value in values))
        return self.requantize(self._append(
            op, max(value.channels for value in values), values[0].bits,
            sum(value.bound for value in values)))

    def concat(self, *values: Value) -> Value:
        """Channels of the values one after another."""
        values = self._same_bits(values)
        op = Concat(tuple(value.index for value in values))
        return self._append(op, sum(value.channels for value in values), values[0].bits,
                            max(value.bound for value in values))

    def _same_bits(self, values):
        bits = min(max(value.bits for value in values), *map(self._most_bits, values))
        return [value if value.bits == bits else self.requantize(value, bits) for value in values]

    def multiply(self, a: Value, b: Value) -> Value:
        """Product; the wider factor loses bits if it could exceed 2^53."""
        while a.bound * b.bound >= 2.0**ACCUMULATOR_BITS:
            if a.bound > b.bound:
                a = self.requantize(a, a.bits - 1)
            else:
                b = self.requantize(b, b.bits - 1)
        op = Multiply((a.index, b.index))
        return self.requantize(
            self._append(op, max(a.channels, b.channels), a.bits + b.bits, a.bound * b.bound))

    def negate(self, x: Value) -> Value:
        """-x."""
        return self._append(Negate((x.index,)), x.channels, x.bits, x.bound)

    def slice(self, x: Value, start: int, stop: int) -> Value:
        """Channels start to stop."""
        return self._append(Slice((x.index,), start, stop), stop - start, x.bits, x.bound)

    def depth_to_space(self, x: Value, block: int) -> Value:
        """Channels to positions."""
        return self._append(
            DepthToSpace((x.index,), block), x.channels // block**2, x.bits, x.bound)

    def mean(self, x: Value) -> Value:
        """Mean over all positions. 2^25 of them can be summed."""
        return self._append(Mean((x.index,)), x.channels, x.bits, x.bound)

    def leaky_relu(self, name: str, x: Value, slope: float) -> Value:
        """x where positive, else slope * x."""
        if not 0 <= slope <= 1:
            raise ConversionError(f"layer {name}: a leaky ReLU of slope {slope} has no exact form; "
                                  "those from 0 to 1 have")
        return self._append(
            LeakyRelu((x.index,), round(slope * 2**16)), x.channels, x.bits, x.bound)

    def pointwise(self, x: Value, function, linear: bool) -> Value:
        """A function by its table; `linear` if beyond +-16 it is max(x, 0) plus a constant."""
        if x.bits < _LEAST_TABLE_BITS:
            x = self.requantize(x, _LEAST_TABLE_BITS)
        steps = np.arange(-_TABLE_RANGE * 2**_TABLE_BITS, _TABLE_RANGE * 2**_TABLE_BITS + 1)
        arguments = steps * 2.0**-_TABLE_BITS
        table = function(tf.constant(arguments, tf.float64)).numpy()
        if linear:
            table = table - np.maximum(arguments, 0)
        table = np.round(table * 2.0**x.bits)
        op = Lookup((x.index,), table.astype(np.int32), x.bits - _TABLE_BITS, linear)
        bound = float(np.max(np.abs(table))) + (x.bound if linear else 0)
        value = self._append(op, x.channels, x.bits, bound)
        return self.requantize(value) if linear else value


def convert(builder: Builder, layer, *inputs: Value) -> Value:
    """Appends a trained Keras layer, or a whole Sequential or functional model, to `builder`.

    Raises:
      ConversionError: it has no exact form; the message names the layer.
    """
    return _convert(layer, builder, *inputs)


@functools.singledispatch
def _convert(layer, builder, *inputs):
    known = ", ".join(sorted(cls.__name__ for cls in _convert.registry if cls is not object))
    raise ConversionError(
        f"layer {getattr(layer, 'name', layer)} ({type(layer).__name__}) has no exact form; "
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


@_convert.register
def _(model: tf.keras.Sequential, builder, x):
    for layer in model.layers:
        x = _convert(layer, builder, x)
    return x


@_convert.register
def _(layer: ShiftedConv, builder, x):
    kernel = layer.kernel.numpy().reshape(-1, *layer.kernel.shape[2:])
    y = builder.conv(layer.name, x, layer.taps, kernel[:len(layer.taps)], layer.bias.numpy())
    return _activate(layer, builder, y)


@_convert.register
def _(layer: tfc.SignalConv2D, builder, x):
    rows, columns = layer.kernel.shape[:2]
    if (layer.padding != "same_zeros" or layer.channel_separable or not layer.extra_pad_end
            or not rows % 2 * (columns % 2) or not layer.corr and rows != columns
            or len({*layer.strides_up}) > 1 or len({*layer.strides_down}) > 1
            or (layer.strides_up if layer.corr else layer.strides_down)[0] != 1):
        raise ConversionError(
            f"layer {layer.name}: only correlations that down-sample and convolutions that "
            "up-sample have an exact form, with odd kernels (square if up-sampling), equal "
            "strides and padding 'same_zeros', not separable")
    y = (_strided if layer.corr else _transposed)(layer, builder, x)
    return _activate(layer, builder, y)


def _bias(layer, filters):
    return layer.bias.numpy() if layer.use_bias else np.zeros(filters)


def _strided(layer, builder, x):
    kernel = layer.kernel.numpy()
    rows, columns, channels, filters = kernel.shape
    offsets = [(a - rows // 2, b - columns // 2) for a in range(rows) for b in range(columns)]
    return builder.conv(layer.name, x, offsets, kernel.reshape(-1, channels, filters),
                        _bias(layer, filters), layer.strides_down[0])


def _transposed(layer, builder, x):
    """Every output phase is a convolution of the input's grid, with a part of the kernel."""
    kernel, stride = layer.kernel.numpy(), layer.strides_up[0]
    size, _, channels, filters = kernel.shape
    # Output s i + p gets kernel[k] from input i + d, where s d = p + size // 2 - k.
    reached = {(p, k): (p + size // 2 - k) // stride for p in range(stride) for k in range(size)
               if (p + size // 2 - k) % stride == 0}
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
                              "exact form; 1 has")
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
                              "and no dilation or groups have an exact form")


def _require_channels(layer, axis):
    if axis not in (-1, 3):
        raise ConversionError(f"layer {layer.name}: only the last axis has an exact form")


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
        raise ConversionError(f"layer {layer.name}: only a plain or leaky ReLU has an exact form")
    return builder.leaky_relu(layer.name, x, float(layer.negative_slope))


@_convert.register
def _(layer: tf.keras.layers.LeakyReLU, builder, x):
    return builder.leaky_relu(layer.name, x, float(layer.alpha))


@_convert.register
def _(layer: ConcatElu, builder, x):
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
    """What a layer's `activation` does: a function, a layer, or None."""
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
        f"layer {layer.name}: its activation '{name}' has no exact form; these have: linear, relu, "
        f"leaky_relu, {', '.join(sorted(_POINTWISE))}")

