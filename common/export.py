"""Exported models: a folder with all that coding needs, and a fingerprint of it.

    config.json          the configuration of the run
    weights.*            tf.train.Checkpoint of the codec (Keras's own formats lose the priors)
    tables.npz           the range coder's tables
    networks.npz         in integers, the networks that encoder and decoder must agree on
    fingerprint          SHA-256 over package, architecture and all of these, in hexadecimal
"""

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import types

import numpy as np
import tensorflow as tf

import configs
from common import precision as precisions
from common.cli import UserError
from common.entropy import Tables
from common.exact import Network
from common.files import NPZ_ERRORS, replacing, write_json
from common.model import Codec


def save(model: Codec, config: dict, path: str | os.PathLike) -> str:
    """Builds tables and integer networks, and writes the model to the folder `path`, or nothing.

    Returns:
      The fingerprint.

    Raises:
      UserError: the weights are not finite or have no fixed-point form, or the folder cannot be
        written.
    """
    require_finite(model, path)
    model.prepare_coding()
    with replacing(path) as folder:
        folder.mkdir(parents=True)
        write_json(folder / "config.json", config)
        tf.train.Checkpoint(codec=model).write(str(folder / "weights"))
        np.savez_compressed(folder / "tables.npz", **dataclasses.asdict(model.tables))
        np.savez_compressed(folder / "networks.npz", **{
            f"{name}/{key}": array for name, network in model.networks.items()
            for key, array in network.to_arrays().items()})
        fingerprint = _fingerprint(folder, config)
        (folder / "fingerprint").write_text(fingerprint + "\n")
    return fingerprint


def load(model_class: type[Codec], path: str | os.PathLike, precision: str = "float32") -> Codec:
    """Loads an exported model, ready to code. Its `fingerprint` attribute is set.

    Args:
      model_class: its class.
      path: its folder.
      precision: of its transforms, as `precision.choose` returns it.

    Raises:
      UserError: a file is missing, damaged, or belongs to another architecture.
    """
    path = pathlib.Path(path)
    config = read_config(path)
    if not (path / "networks.npz").exists():
        raise UserError(f"{path} has no networks.npz: it was exported by an earlier version; train "
                        "on from it (train.warm_start) to export it again")
    if _fingerprint(path, config) != fingerprint(path):
        raise UserError(f"{path}: the model's files do not match its fingerprint; "
                        "copy or export it again")
    with precisions.policy(precision):
        model = build(model_class, config)
    load_weights(model, path)
    try:
        model.tables = Tables(**_arrays(path / "tables.npz"))
        networks = collections.defaultdict(dict)
        for key, array in _arrays(path / "networks.npz").items():
            name, _, key = key.partition("/")
            networks[name][key] = array
        model.networks = types.MappingProxyType(
            {name: Network.from_arrays(arrays) for name, arrays in networks.items()})
    except NPZ_ERRORS as error:
        raise UserError(f"{path}: its tables or networks cannot be read ({error})") from None
    model.fingerprint, model.precision = fingerprint(path), precision
    return model


def build(model_class: type[Codec], config: dict) -> Codec:
    """A model with fresh weights, as `config["model"]` describes it.

    Raises:
      UserError: the model does not take these arguments, or its parts do not fit together.
    """
    try:
        model = model_class(**config["model"])
    except TypeError as error:
        raise UserError(f"the model cannot be built from its config: {error}") from error
    try:
        model.initialize()
    except (tf.errors.InvalidArgumentError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError("the channels of the model's parts do not fit together; what depends on "
                        f"each is in the package's configs ({reason})") from error
    return model


def load_weights(model: Codec, path: str | os.PathLike) -> None:
    """Replaces the weights of `model` by those of an exported model of the same architecture.

    Raises:
      UserError: they are missing, not finite, or of another architecture.
    """
    _read_weights(tf.train.Checkpoint(codec=model), path)
    require_finite(model, path)


def warm_start(model: Codec, path: str | os.PathLike) -> list[str]:
    """Replaces the weights of those parts of `model` that an exported model has too.

    Parts are known by their attribute: a joint_ar model takes analysis, synthesis and the hyper
    transforms of an mshyper model.

    Returns:
      The parts that keep their fresh weights.

    Raises:
      UserError: no part, or one of another architecture, or weights that are not finite.
    """
    try:
        keys = tf.train.load_checkpoint(str(pathlib.Path(path) / "weights")
                                        ).get_variable_to_shape_map()
    except (tf.errors.OpError, ValueError) as error:
        raise UserError(f"{path}: its weights cannot be read ({error})") from None
    names = {part for part, value in vars(model).items()
             if isinstance(value, tf.keras.layers.Layer) and value.weights}
    common = names & {key.split("/")[1] for key in keys if key.startswith("codec/")}
    if not common:
        raise UserError(f"{path} has none of the parts of this model ({', '.join(sorted(names))})")
    parts = {name: getattr(model, name) for name in common}
    _read_weights(tf.train.Checkpoint(codec=tf.train.Checkpoint(**parts)), path)
    require_finite(model, path)
    return sorted(names - common)


def _read_weights(checkpoint: tf.train.Checkpoint, path) -> None:
    try:
        status = checkpoint.read(str(pathlib.Path(path) / "weights"))
        status.assert_existing_objects_matched()
    except (tf.errors.OpError, AssertionError, IndexError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: its weights do not fit the model ({reason})") from None


def read_config(path: str | os.PathLike) -> dict:
    """The configuration of an exported model.

    Raises:
      UserError: there is none.
    """
    path = pathlib.Path(path)
    try:
        return json.loads((path / "config.json").read_text())
    except OSError:
        raise UserError(f"{path} is not an exported model (it has no config.json)") from None
    except ValueError as error:
        raise UserError(f"{path / 'config.json'} is damaged ({error})") from None


def read_module(path: str | os.PathLike) -> str:
    """The module of an exported model's class: "mshyper.models". Raises UserError."""
    config = read_config(path)
    # Earlier versions had one module a package, and did not name it.
    return f"{config.get('package')}.{config.get('module', 'models')}"


def fingerprint(path: str | os.PathLike) -> str:
    """The stored fingerprint of an exported model, 64 hexadecimal digits. Raises UserError."""
    try:
        return (pathlib.Path(path) / "fingerprint").read_text().strip()
    except OSError:
        raise UserError(f"{path} is not an exported model (it has no fingerprint)") from None


def find(name: str | os.PathLike) -> pathlib.Path:
    """The folder of an exported model.

    Args:
      name: the folder itself, a run's folder (its `model/` is taken), or the name of a released
        model: `mshyper-small-1` is `zoo/mshyper-small/1`.

    Raises:
      UserError: there is no such model.
    """
    path = pathlib.Path(name)
    family, _, number = str(name).rpartition("-")
    for candidate in (path, path / "model", configs.ZOO_DIR / family / number):
        if (candidate / "fingerprint").is_file():
            return candidate
    if (path / "checkpoints").is_dir():
        raise UserError(f"{path} has no exported model yet; run its training command again")
    raise UserError(f"no model '{name}': neither an exported model, nor a run, nor one of the zoo "
                    f"({', '.join(released_models()) or 'empty'})")


def released_models() -> dict[str, pathlib.Path]:
    """The folders of all released models by name."""
    folders = sorted(path.parent for path in configs.ZOO_DIR.glob("*/*/fingerprint"))
    return {f"{folder.parent.name}-{folder.name}": folder for folder in folders}


def require_finite(model: Codec, path: str | os.PathLike) -> None:
    """Raises UserError, naming `path` and the weight, unless all weights are finite."""
    for variable in model.variables:
        if not np.all(np.isfinite(variable.numpy())):
            raise UserError(f"{path}: weight {variable.name} is not finite; "
                            "the model is damaged or its training diverged")


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def _fingerprint(path: pathlib.Path, config: dict) -> str:
    digest = hashlib.sha256()
    digest.update(json.dumps([config.get("package"), config.get("model")], sort_keys=True).encode())
    try:
        reader = tf.train.load_checkpoint(str(path / "weights"))
        arrays = {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()
                  if key.endswith("VARIABLE_VALUE")}
        arrays |= _arrays(path / "tables.npz") | _arrays(path / "networks.npz")
    except (tf.errors.OpError, RuntimeError, IndexError, *NPZ_ERRORS) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: the model's files are damaged ({reason})") from None
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        digest.update(f"{key} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
