"""Exported models: a folder with all that coding needs, and a fingerprint of it.

    config.json          the configuration of the run, and the `format` of the folder
    weights.safetensors  the weights, named by the architecture (common/weights.py)
    tables.npz           the range coder's tables
    networks.npz         in integers, the networks that encoder and decoder must agree on
    fingerprint          SHA-256 over all that a decoder depends on, in hexadecimal: format, class
                         and arguments of the codec, weights, tables and networks

Folders of format 1, which has no number and its weights in a tf.train.Checkpoint, are read too.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import inspect
import json
import os
import pathlib
import types

import numpy as np

import configs
from common import precision as precisions
from common.coding_tables import CodingTables
from common.errors import UserError
from common.files import NPZ_ERRORS, replacing, write_json
from common.lazy import Codec, Levels, Network, format1, tf, weights

FORMAT = 2


def save(model: Codec, config: dict, path: str | os.PathLike, dtype: str = "float32") -> str:
    """Builds tables and integer networks, and writes the model to the folder `path`, or nothing.

    Args:
      model: the model. With float32, tables and networks become its own.
      config: as from `runs.record`.
      path: the folder.
      dtype: of the trained weights in the file, one of `weights.DTYPES`. They are rounded before
        anything else is made of them: what is exported is a float32 model with such values.

    Returns:
      The fingerprint.

    Raises:
      UserError: the weights are not finite, are too large for `dtype` or have no integer form,
        or the folder cannot be written.
    """
    require_finite(model, path)
    if dtype != "float32":
        model = _rounded(model, config, dtype)
    model.prepare_coding()
    with replacing(path) as folder:
        folder.mkdir(parents=True)
        write_json(folder / "config.json", {**config, "format": FORMAT})
        weights.write(model, folder, dtype)
        assert model.tables is not None
        np.savez_compressed(folder / "tables.npz", **dataclasses.asdict(model.tables))
        np.savez_compressed(folder / "networks.npz", **{
            f"{name}/{key}": array for name, network in model.networks.items()
            for key, array in network.to_arrays().items()})
        fingerprint = _fingerprint(folder, read_config(folder))
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
    # Before anything is made of what it says.
    if _fingerprint(path, config) != fingerprint(path):
        raise UserError(f"{path}: the model's files do not match its fingerprint; "
                        "copy or export it again")
    with precisions.policy(precision):
        model = build(model_class, config)
    load_weights(model, path)
    model.tables = read_tables(path)
    if model.tables.digits != sum(prior.distributions for prior in model.priors):
        raise UserError(f"{path}: its tables do not fit the model")
    try:
        networks = collections.defaultdict(dict)
        for key, array in _arrays(path / "networks.npz").items():
            name, _, key = key.partition("/")
            networks[name][key] = array
        model.networks = types.MappingProxyType(
            {name: Network.from_arrays(arrays) for name, arrays in networks.items()})
    except NPZ_ERRORS as error:
        raise UserError(f"{path}: its networks cannot be read ({error})") from None
    model.fingerprint, model.precision = fingerprint(path), precision
    return model


def read_tables(path: str | os.PathLike) -> CodingTables:
    """The range coder's tables of an exported model. Raises UserError."""
    arrays = read_arrays(path, "tables")
    try:
        tables = CodingTables(**arrays)
        tables.check()
        return tables
    except NPZ_ERRORS as error:
        raise UserError(f"{path}: its tables cannot be read ({error})") from None


def read_arrays(path: str | os.PathLike, name: str) -> dict[str, np.ndarray]:
    """The content of a .npz file of an exported model. Raises UserError."""
    try:
        return _arrays(pathlib.Path(path) / f"{name}.npz")
    except NPZ_ERRORS as error:
        raise UserError(f"{path}: its {name} cannot be read ({error})") from None


def build(model_class: type[Codec], config: dict) -> Codec:
    """A model with fresh weights, as `config["model"]` describes it.

    Raises:
      UserError: the model does not take these arguments, or its parts do not fit together.
    """
    try:
        model = model_class(**config["model"])
    except UserError:
        raise
    except Exception as error:  # of any kind: arguments of wrong types get far
        raise UserError(f"the model cannot be built from its config: {error}") from error
    try:
        model.initialize()
    except (tf.errors.InvalidArgumentError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError("the channels of the model's parts do not fit together; what depends on "
                        f"each is in the package's configs ({reason})") from error
    return model


def load_weights(model: Codec, path: str | os.PathLike) -> None:
    """Replaces the weights of `model` by those of an exported model of the same architecture.

    Raises:
      UserError: they are missing, not finite, or of another architecture.
    """
    _file(read_config(path)).restore(weights.parts(model), path)
    require_finite(model, path)


def warm_start(model: Codec, path: str | os.PathLike) -> list[str]:
    """Replaces the weights of those parts of `model` that an exported model has too.

    Parts are known by their name: a joint_ar model takes analysis, synthesis and the hyper
    transforms of an mshyper model. A transform of another class there is another part, and what
    levels scale of it (common/levels.py) is fresh too.

    Returns:
      The parts that keep their fresh weights.

    Raises:
      UserError: no part, or one of another architecture, or weights that are not finite.
    """
    config = read_config(path)
    file = _file(config)
    # Keys of format 1 begin with "codec/".
    theirs = {key.removeprefix("codec/").partition("/")[0] for key in file.read(path)}
    parts = weights.parts(model)
    common = {name: part for name, part in parts.items()
              if name in theirs and _same_class(config["model"].get(name), part)}
    if not common:
        raise UserError(f"{path} has none of the parts of this model ({', '.join(sorted(parts))})")
    fresh = sorted(parts.keys() - common.keys())
    file.restore(common, path, leave=tuple(f"levels/{name}." for name in fresh))
    require_finite(model, path)
    return fresh


def other_settings(model: Codec, config: dict, path: str | os.PathLike) -> list[str]:
    """What makes weights mean something else in `model` than in an exported one, as lines.

    Only shapes must agree for a warm start. Here is what else differs of the parts that both have:
    activations, padding, alignment; the range of pixels; what scales are made of; the levels.

    Args:
      model: the model.
      config: its section of a config.
      path: the exported model.

    Raises:
      UserError: its config cannot be read.
    """
    theirs, found = read_config(path)["model"], []

    def compare(name, own, other, default=None):
        # As JSON has them.
        own, other, default = (json.loads(json.dumps(value)) for value in (own, other, default))
        here, there = (default if value is None else value for value in (own, other))
        if here != there:
            found.append(f"{name} is {there} there and {here} here")

    for name in sorted({*config, *theirs}):
        own, other = config.get(name), theirs.get(name)
        if name == "levels":
            if own and other:
                compare("levels.rd_lambda", own["rd_lambda"], other["rd_lambda"])
                compare("levels.scales", own.get("scales"), other.get("scales"), False)
            elif other:
                found.append("levels are there and not here, with gains that their y needs")
        elif isinstance(own, dict) and isinstance(other, dict) and "cls" in own:
            part = getattr(model, name)
            if _same_class(other, part):
                for key, default in _defaults(type(part)).items():
                    if key != "channels":  # a matter of shapes
                        compare(f"{name}.{key}", own.get(key), other.get(key), default)
        elif name in _defaults(type(model)):
            compare(name, own, other, _defaults(type(model))[name])
    return found


def _defaults(cls: type) -> dict:
    """Of the arguments of a class that have some."""
    return {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()
            if parameter.default is not inspect.Parameter.empty}


def _same_class(section, part) -> bool:
    """Whether a part is of the class that the config of a model names, if it does."""
    return not isinstance(section, dict) or section.get("cls") in (None, type(part).__name__)


def _file(config: dict) -> types.ModuleType:
    """The module that reads the weights of an exported model with this config."""
    return format1 if config["format"] == 1 else weights


def _rounded(model: Codec, config: dict, dtype: str) -> Codec:
    """A model with the weights of `model` rounded to `dtype`, whose training may go on."""
    rounded = build(type(model), config)
    for own, given in zip(rounded.variables, model.variables):
        own.assign(weights.stored(given, dtype).astype(np.float32))
        if not np.all(np.isfinite(own.numpy())):
            raise UserError(f"weight {given.name} is too large for {dtype}; export the model in "
                            "float32 (train.export_dtype)")
    return rounded


_NUMBER = (int, float, types.NoneType)
# Types of the entries of a config that are read. All but `model` are optional.
_TYPES = {"format": int, "package": str, "module": str, "model": dict, "train": dict}
_TYPES_OF_TRAIN = {"rd_lambda": _NUMBER, "rate_target": _NUMBER, "rate_weight": _NUMBER,
                   "lpips_weight": _NUMBER, "distortion": (str, types.NoneType)}


def read_config(path: str | os.PathLike) -> dict:
    """The configuration of an exported model; the one place that knows of all formats.

    Raises:
      UserError: there is none, it is damaged, or of a later version.
    """
    path = pathlib.Path(path)
    try:
        config = json.loads((path / "config.json").read_text("utf-8"))
    except OSError:
        raise UserError(f"{path} is not an exported model (it has no config.json)") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path / 'config.json'} is damaged ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path / 'config.json'} is damaged (it holds no sections)")
    # Without a number it is format 1, in which packages had one module at first, not named.
    config = {"format": 1, "module": "models", **config}
    if isinstance(config["format"], int) and config["format"] not in (1, FORMAT):
        raise UserError(f"{path} is of format {config['format']}, which a later version of this "
                        f"software writes; this one reads formats 1 to {FORMAT}")
    for section, known in ((config, _TYPES), (config.get("train"), _TYPES_OF_TRAIN)):
        for name, kinds in known.items():
            if section and name in section and not isinstance(section[name], kinds):
                raise UserError(f"{path / 'config.json'} is damaged (its {name} is of type "
                                f"{type(section[name]).__name__})")
    if "model" not in config:
        raise UserError(f"{path / 'config.json'} is damaged (it has no section \"model\")")
    return config


def read_levels(path: str | os.PathLike) -> dict | None:
    """Arguments of an exported model's `Levels`, but for the channels; None if it has one rate.

    Raises:
      UserError: as `read_config`.
    """
    return read_config(path)["model"].get("levels")


def build_levels(path: str | os.PathLike) -> Levels | None:
    """The levels of an exported model, but with initial gains; None if it has one rate.

    Raises:
      UserError: as `read_config`, or its config is damaged.
    """
    arguments = read_levels(path)
    try:
        return Levels(channels=1, **arguments) if arguments else None
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: its config is damaged ({error})") from None


def read_module(path: str | os.PathLike) -> str:
    """The module of an exported model's class: "mshyper.models". Raises UserError."""
    config = read_config(path)
    return f"{config.get('package')}.{config['module']}"


def fingerprint(path: str | os.PathLike) -> str:
    """The stored fingerprint of an exported model, 64 hexadecimal digits. Raises UserError."""
    try:
        return (pathlib.Path(path) / "fingerprint").read_text("ascii").strip()
    except OSError:
        raise UserError(f"{path} is not an exported model (it has no fingerprint)") from None
    except ValueError:
        raise UserError(f"{path}: its fingerprint is damaged; copy or export it again") from None


def find(name: str | os.PathLike) -> pathlib.Path:
    """The folder of an exported model.

    Args:
      name: the folder itself, a run's folder (its `model/` is taken), that of an experiment with
        one run, or the name of a released model: see `released_models`.

    Raises:
      UserError: there is no such model.
    """
    path = pathlib.Path(name)
    family, _, number = str(name).rpartition("-")
    for candidate in (path, path / "model", configs.ZOO_DIR / path,
                      configs.ZOO_DIR / family / number):
        if (candidate / "fingerprint").is_file():
            return candidate
    runs = sorted(path.glob("wid=*"))
    if len(runs) == 1:
        return find(runs[0])
    if runs:
        raise UserError(f"{path} is an experiment of {len(runs)} runs; name one of them: "
                        f"{', '.join(map(str, runs))}")
    if (path / "checkpoints").is_dir():
        raise UserError(f"{path} has no exported model yet; run its training command again")
    raise UserError(f"no model '{name}': neither an exported model, nor a run, nor one of the zoo "
                    f"({', '.join(released_models()) or 'empty'})")


def released_models() -> dict[str, pathlib.Path]:
    """The folders of all released models by name: `mine` is `zoo/mine`.

    Models of one rate come as families: `mine-2` is `zoo/mine/2`.
    """
    folders = sorted(path.parent for pattern in ("*/fingerprint", "*/*/fingerprint")
                     for path in configs.ZOO_DIR.glob(pattern))
    return {"-".join(folder.relative_to(configs.ZOO_DIR).parts): folder for folder in folders}


def require_finite(model: Codec, path: str | os.PathLike) -> None:
    """Raises UserError, naming `path` and the weight, unless all weights are finite."""
    for name, weight in weights.named(weights.parts(model)).items():
        if not np.all(np.isfinite(weight.numpy())):
            raise UserError(f"{path}: weight {name} is not finite; "
                            "the model is damaged or its training diverged")


def _arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def _fingerprint(path: pathlib.Path, config: dict) -> str:
    arrays = _file(config).read(path)
    try:
        npz = {name: _arrays(path / f"{name}.npz") for name in ("tables", "networks")}
    except NPZ_ERRORS as error:
        raise UserError(f"{path}: the model's tables or networks are damaged ({error})") from None
    if config["format"] == 1:
        facts = [config.get("package"), config.get("model")]
        arrays |= npz["tables"] | npz["networks"]
    else:
        facts = [config.get(key) for key in ("format", "package", "module", "model")]
        arrays = {f"{file}/{key}": array for file, content in {"weights": arrays, **npz}.items()
                  for key, array in content.items()}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        digest.update(f"{key} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
