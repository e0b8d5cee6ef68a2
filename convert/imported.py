"""A model of another code base, as the modules of this package describe it, and its export.

Each of these modules reads a checkpoint and returns an `Imported`: the config of the same model
here, and the weights of each of its parts, layer by layer. Layers are matched by what weights they
have, in the order in which they compute: the third convolution of the analysis there is the third
here, whatever norms and activations lie between them.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from common import export, zoo
from common.errors import UserError
from common.lazy import Codec, weights
from convert import kernels

# The weights of one layer by the names that common/weights.py gives them.
Layer = dict[str, np.ndarray]


@dataclasses.dataclass
class Imported:
    """A model that was read from a checkpoint.

    Attributes:
      name: of the model there, e.g. "CompressAI's mbt2018-mean".
      package, module: where its class is here.
      model: arguments of the class.
      parts: for each transform and prior, its layers that have weights, in order.
      rd_lambda: of bpp + rd_lambda * distortion; None where the checkpoint does not say.
      train: what else config.json has under "train".
    """

    name: str
    package: str
    model: dict
    parts: dict[str, list[Layer]]
    module: str = "models"
    rd_lambda: float | None = None
    train: dict = dataclasses.field(default_factory=dict)

    def build(self) -> Codec:
        """The model with its weights.

        Raises:
          UserError: the weights do not fit the model that the checkpoint seemed to hold.
        """
        model = export.build(zoo.CODECS[f"{self.package}.{self.module}"], {"model": self.model})
        parts = weights.parts(model)
        if parts.keys() != self.parts.keys():
            raise UserError(f"{self.name} has other parts than expected: "
                            f"{_listed(self.parts.keys() ^ parts.keys())}")
        for name, part in parts.items():
            _assign(self.name, {name: part}, self.parts[name])
        return model


def convolution(kernel: np.ndarray, bias: np.ndarray | None = None) -> Layer:
    """A convolution by its kernel [rows, columns, inputs, outputs] and bias [outputs]."""
    return {"kernel": kernel} if bias is None else {"kernel": kernel, "bias": bias}


def gdn(beta: np.ndarray, gamma: np.ndarray) -> Layer:
    """GDN by the variables beta [C] and gamma [inputs, outputs], as they are trained."""
    return {"reparam_beta": beta, "reparam_gamma": gamma}


def norm(gamma: np.ndarray, beta: np.ndarray) -> Layer:
    """A normalisation by factors and summands [C]."""
    return {"gamma": np.ravel(gamma), "beta": np.ravel(beta)}


def density(matrices: Sequence, biases: Sequence, factors: Sequence,
            median: np.ndarray | None = None) -> Layer:
    """A learned density of C channels (Ballé et al. 2018, appendix 6.1).

    Args:
      matrices, biases, factors: of its layers, [C, outputs, inputs], [C, outputs, 1] and
        [C, outputs, 1]; the last factor is that of the logits, if there is one more.
      median: of each channel [C], on which the integer grid lies; by default an integer.
    """
    layer = {}
    for name, arrays in ("matrix", matrices), ("bias", biases), ("factor", factors):
        layer |= {f"{name}_{i}": array for i, array in enumerate(arrays)}
    if len(factors) == len(matrices):
        layer["last_factor"] = np.ravel(layer.pop(f"factor_{len(factors) - 1}"))
    if median is None:
        median = np.zeros(np.shape(matrices[0])[0], np.float32)
    layer["offset"] = kernels.offset(median)
    return layer


def reordered(layer: Layer, order: np.ndarray, axis: int = -1) -> Layer:
    """A convolution whose outputs (axis -1) or inputs (axis -2) stand in another order."""
    moved = {**layer, "kernel": np.take(layer["kernel"], order, axis)}
    if axis == -1 and "bias" in layer:
        moved["bias"] = layer["bias"][order]
    return moved


def widths(layers: list[Layer]) -> list[int]:
    """Outputs of the convolutions among layers."""
    return [layer["kernel"].shape[-1] for layer in layers if "kernel" in layer]


def halves_swapped(channels: int) -> np.ndarray:
    """The order in which the second half of `channels` comes first."""
    return np.roll(np.arange(channels), channels // 2)


def _assign(name: str, part: dict, given: Iterable[Layer]) -> None:
    """Replaces the weights of a part by those of the layers given. Raises UserError."""
    (part_name, _), = part.items()
    ours: dict[str, dict[str, Any]] = collections.defaultdict(dict)
    for weight_name, weight in weights.named(part).items():
        prefix, _, key = weight_name.rpartition("/")
        ours[prefix][key] = weight
    kinds = _by_kind(ours.values()), _by_kind(given)
    for kind in sorted(kinds[0].keys() | kinds[1].keys()):
        here, there = (found.get(kind, []) for found in kinds)
        if len(here) != len(there):
            raise UserError(f"{name}: the {part_name} has {len(there)} layers of {_listed(kind)}; "
                            f"{len(here)} were expected")
        for number, (own, new) in enumerate(zip(here, there)):
            for key in kind:
                value = np.asarray(new[key], np.float32)
                if tuple(own[key].shape) != value.shape:
                    raise UserError(
                        f"{name}: {key} {number} of the {part_name} is {list(value.shape)}; "
                        f"expected {list(own[key].shape)}")
                own[key].assign(value)


def _by_kind(layers: Iterable[dict[str, Any]]) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """Layers in order by the names of their weights."""
    kinds = collections.defaultdict(list)
    for layer in layers:
        kinds[tuple(sorted(layer))].append(layer)
    return kinds


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
