"""Exported models: a folder with all that coding needs, and a fingerprint of it.

    config.json          the configuration of the run
    weights.*            tf.train.Checkpoint of the codec (Keras's own formats lose the priors)
    tables.npz           the range coder's tables
    fingerprint          SHA-256 over package, architecture, weights and tables, in hexadecimal
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import zipfile
import zlib

import numpy as np
import tensorflow as tf

import configs
from common.cli import UserError
from common.entropy import Tables
from common.files import replacing, write_json
from common.model import Model

_NPZ_ERRORS = (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def save(model: Model, config: dict, path: str | os.PathLike) -> str:
    """Builds the model's tables and writes it to the folder `path`, whole or not at all.

    Returns:
      The fingerprint.

    Raises:
      UserError: the weights are not finite, or the folder cannot be written.
    """
    require_finite(model, path)
    model.build_tables()
    with replacing(path) as folder:
        folder.mkdir(parents=True)
        write_json(folder / "config.json", config)
        tf.train.Checkpoint(codec=model).write(str(folder / "weights"))
        np.savez_compressed(folder / "tables.npz", **dataclasses.asdict(model.tables))
        fingerprint = _fingerprint(folder, config)
        (folder / "fingerprint").write_text(fingerprint + "\n")
    return fingerprint


def load(model_class: type[Model], path: str | os.PathLike) -> Model:
    """Loads an exported model, ready to code. Its `fingerprint` attribute is set.

    Raises:
      UserError: a file is missing, damaged, or belongs to another architecture.
    """
    path = pathlib.Path(path)
    config = read_config(path)
    if _fingerprint(path, config) != fingerprint(path):
        raise UserError(f"{path}: the model's files do not match its fingerprint; "
                        "copy or export it again")
    model = build(model_class, config)
    load_weights(model, path)
    try:
        with np.load(path / "tables.npz") as tables:
            model.tables = Tables(**tables)
    except _NPZ_ERRORS as error:
        raise UserError(f"{path / 'tables.npz'} cannot be read ({error})") from None
    model.fingerprint = fingerprint(path)
    return model


def build(model_class: type[Model], config: dict) -> Model:
    """A model with fresh weights, as `config["model"]` describes it.

    Raises:
      UserError: the model does not take these arguments.
    """
    try:
        model = model_class(**config["model"])
    except TypeError as error:
        raise UserError(f"the model cannot be built from its config: {error}") from error
    model.initialize()
    return model


def load_weights(model: Model, path: str | os.PathLike) -> None:
    """Replaces the weights of `model` by those of an exported model of the same architecture.

    Raises:
      UserError: they are missing, not finite, or of another architecture.
    """
    path = pathlib.Path(path)
    try:
        status = tf.train.Checkpoint(codec=model).read(str(path / "weights"))
        status.assert_existing_objects_matched()
    except (tf.errors.OpError, AssertionError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: its weights do not fit the model ({reason})") from None
    require_finite(model, path)


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
    released = ", ".join(sorted(f"{p.parent.name}-{p.name}" for p in released_models()))
    raise UserError(f"no model '{name}': neither an exported model, nor a run, nor one of the zoo "
                    f"({released or 'empty'})")


def released_models() -> list[pathlib.Path]:
    """The folders of all released models."""
    return [path.parent for path in configs.ZOO_DIR.glob("*/*/fingerprint")]


def require_finite(model: Model, path: str | os.PathLike) -> None:
    """Raises UserError, naming `path` and the weight, unless all weights are finite."""
    for variable in model.variables:
        if not np.all(np.isfinite(variable.numpy())):
            raise UserError(f"{path}: weight {variable.name} is not finite; "
                            "the model is damaged or its training diverged")


def _fingerprint(path: pathlib.Path, config: dict) -> str:
    digest = hashlib.sha256()
    digest.update(json.dumps([config.get("package"), config.get("model")], sort_keys=True).encode())
    try:
        reader = tf.train.load_checkpoint(str(path / "weights"))
        arrays = {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()
                  if key.endswith("VARIABLE_VALUE")}
        with np.load(path / "tables.npz") as tables:
            arrays |= dict(tables)
    except (tf.errors.OpError, RuntimeError, *_NPZ_ERRORS) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: the model's files are damaged ({reason})") from None
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        digest.update(f"{key} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
