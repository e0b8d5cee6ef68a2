"""A codec's weights as `weights.safetensors`, which other frameworks and later versions can read.

Names follow the architecture, and depend neither on Python's attributes nor on Keras's numbers:

    analysis/0/kernel                      part of the codec / layer of the transform / weight
    synthesis/0/activation/reparam_gamma   of the GDN that is the activation of that layer
    analysis/9/0/trunk/2/1/bias            a list of layers within a layer is numbered too
    z_prior/matrix_0, z_prior/offset       of a learned density
    levels/log_gain, levels/analysis.9.0   gains of y, and scales of that layer's outputs by level

Layers are counted from 0 in the order in which they compute, those without weights too. Kernels are
[rows, columns, inputs, outputs], but for Keras's transposed convolutions, which `layers.deconv` has
for some: [rows, columns, outputs, inputs]. Arrays are what is trained: GDN's gamma is
max(reparam_gamma, 2^-18)^2 - 2^-36, and beta alike, but at least 1e-6.
"""

import os
import pathlib

import numpy as np
import safetensors
import safetensors.numpy
import tensorflow as tf

from common.errors import UserError

FILE = "weights.safetensors"
# What trained weights may be stored in. In half the bytes they have 11 bits, the exponent aside.
DTYPES = ("float32", "float16")

Parts = dict[str, tf.keras.layers.Layer]


def parts(codec: tf.keras.Model) -> Parts:
    """The parts of a codec that have weights, by name: its transforms and its priors."""
    return {name: part for name, part in vars(codec).items()
            if isinstance(part, tf.keras.layers.Layer) and part.weights}


def named(layers: Parts) -> dict[str, tf.Variable]:
    """All weights of layers by their names, which begin with those of the layers.

    Raises:
      ValueError: two would have one name.
    """
    found = {}
    for prefix, layer in layers.items():
        inner = named(within(layer))
        known = {weight.ref() for weight in inner.values()}
        own = [weight for weight in layer.weights if weight.ref() not in known]
        found |= {f"{prefix}/{name}": weight for name, weight in inner.items()}
        for weight in own:
            name = f"{prefix}/{weight.name.rpartition('/')[2].partition(':')[0]}"
            if name in found:
                raise ValueError(f"two weights would be called {name}")
            found[name] = weight
    return found


def within(layer: tf.keras.layers.Layer) -> Parts:
    """The layers that a layer holds."""
    if isinstance(layer, tf.keras.Model):
        held = {"layers": layer.layers}
    else:
        held = {name: value for name, value in vars(layer).items()
                if name != "_self_tracked_trackables"}  # all of them again
    layers = {}
    for name, value in held.items():
        listed = isinstance(value, list | tuple)
        for number, part in enumerate(value if listed else [value]):
            if isinstance(part, tf.keras.layers.Layer):
                key = str(number) if listed else name.strip("_")
                if key in layers:
                    raise ValueError(f"two parts of {type(layer).__name__} would be called {key}")
                layers[key] = part
    return layers


def stored(weight: tf.Variable, dtype: str) -> np.ndarray:
    """A weight as a file has it: in `dtype` if it is trained, for statistics and offsets need all
    digits and the whole range of float32."""
    with np.errstate(over="ignore"):
        return weight.numpy().astype(dtype if weight.trainable else np.float32)


def write(codec: tf.keras.Model, path: pathlib.Path, dtype: str = "float32") -> None:
    """Writes the weights of a codec into the folder `path`."""
    arrays = {name: stored(weight, dtype) for name, weight in named(parts(codec)).items()}
    # `save_file` makes files that nobody else can read, whatever the umask.
    (path / FILE).write_bytes(safetensors.numpy.save(arrays))


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays in the folder `path` by name.

    Raises:
      UserError: they are missing or damaged.
    """
    try:
        return safetensors.numpy.load_file(pathlib.Path(path) / FILE)
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: its weights are damaged ({error})") from None


def restore(layers: Parts, path: str | os.PathLike, leave: tuple[str, ...] = ()) -> None:
    """Replaces the weights of `layers`, all or none, by those that the folder `path` has of them.

    Those whose names begin with one of `leave` stay as they are.

    Raises:
      UserError: they are missing, damaged, or of another architecture.
    """
    arrays = read(path)
    weights = {name: weight for name, weight in named(layers).items()
               if not name.startswith(leave)}
    there = {name: array for name, array in arrays.items()
             if name.partition("/")[0] in layers and not name.startswith(leave)}
    for name in sorted(there.keys() | weights.keys()):
        ours, theirs = (found[name].shape if name in found else None for found in (weights, there))
        if ours is None or theirs is None or tuple(ours) != theirs:
            raise UserError(f"{path}: its weights do not fit the model ({name} is "
                            f"{_described(theirs)} there and {_described(ours)} here)")
    for name, weight in weights.items():
        weight.assign(there[name].astype(np.float32))


def _described(shape) -> str:
    return "missing" if shape is None else str(list(shape))
