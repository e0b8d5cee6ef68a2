"""Integer networks, whose outputs are the same bits on every machine (Ballé et al. 2019).

Encoder and decoder must agree on every entry of the scale table that a network picks. Sums of
floats depend on the order of summation, so on the number of threads, the library and the
processor; one flipped index and the rest of the file is noise. Sums of integers do not, as long as
every partial sum is representable. Here trained networks are turned into integer ones, held in
float64, where integers below 2^53 are exact:

    weights        integers of at most 16 bits (26 where channels do not mix), scaled by a power
                   of two, layer by layer
    activations    integers of at most 28 bits, scaled by a power of two, known at export
    accumulators   sum |weights| * max |activation| + |bias| < 2^53, proved at export

After each layer the accumulator is rescaled, rounded and clipped.

A `Network` is a list of operations (common/integer_ops.py) in order. It is stored with the exported
model and never recomputed; common/transforms/contract.py makes it of Keras layers, by means of a
`Builder` (common/integer_builder.py), which chooses the bits and proves the bounds.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from common import integer_ops
from common.reach import Reach, beside

ACCUMULATOR_BITS = 53


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """Properties of a tensor in a network, known at export.

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


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """Operations in order, each on outputs of earlier ones.

    Attributes:
      ops: the operations.
      channels: of the output of each.
      outputs: the values that a call returns.
    """

    ops: tuple[integer_ops.Op, ...]
    channels: tuple[int, ...]
    outputs: tuple[Value, ...]

    def __call__(self, *inputs: tf.Tensor) -> list[tf.Tensor]:
        """Whole tensors of integers [B, H, W, C], any numeric type, to float64 [B, H', W', C']."""
        with tf.device("CPU:0"):
            values = []
            last_use = {i: k for k, op in enumerate(self.ops) for i in op.inputs}
            kept = {value.index for value in self.outputs}
            for k, op in enumerate(self.ops):
                if isinstance(op, integer_ops.Input):
                    values.append(tf.cast(inputs[op.number], tf.float64))
                else:
                    values.append(op(*(values[i] for i in op.inputs)))
                for i in op.inputs:
                    if last_use[i] == k and i not in kept:
                        values[i] = None  # large images should not hold every layer
            return [values[value.index] for value in self.outputs]

    def reach(self) -> Reach:
        """How far the outputs see. Raises NotLocal if one sees the whole image."""
        reaches: list[Reach] = []
        for op in self.ops:
            before = beside(reaches[i] for i in op.inputs) if op.inputs else Reach()
            reaches.append(before.then(op.reach()))
        return beside(reaches[value.index] for value in self.outputs)

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
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Network":
        """The inverse of `to_arrays`. Raises KeyError, TypeError or ValueError for other arrays."""
        program, channels, outputs = json.loads(str(arrays["program"]))
        ops = []
        for fields in map(dict, program):
            kind = integer_ops.BY_NAME[fields.pop("op")]
            fields["inputs"] = tuple(fields["inputs"])
            if not all(0 <= i < len(ops) for i in fields["inputs"]):
                raise ValueError(f"operation {len(ops)} reads outputs of later ones")
            values: dict[str, Any] = {
                name: arrays[value["array"]] if isinstance(value, dict) else value
                for name, value in fields.items()}
            ops.append(kind(**values))
        outputs = tuple(Value(**value) for value in outputs)
        if not outputs or not all(0 <= value.index < len(ops) for value in outputs):
            raise ValueError("the network has no outputs, or some that are not there")
        return cls(tuple(ops), tuple(channels), outputs)
