"""Runs: what training and iterative inference share of folders, configs and the command line.

A run lives in <experiments_dir>/<xid>/wid=<n>-<runname>/ and is a function of its config.json.

TensorFlow, whose import takes seconds, is not imported here: see common/lazy.py.
"""

import contextlib
import dataclasses
import datetime
import functools
import importlib.util
import json
import operator
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_dict, config_flags

import configs
from common import cli, export, tables
from common.cli import UserError
from common.files import write_json

if TYPE_CHECKING:
    from common.model import Codec

COMMIT_FILE = "COMMIT"  # in the root of a copy of the code
_ROOT = pathlib.Path(__file__).resolve().parents[1]

flags.disclaim_key_flags()  # `--help` of the program lists the flags defined in `main`

_savers = []


@contextlib.contextmanager
def saved_by(save: Callable[[], None]):
    """While this lasts, `save_all` calls `save`, which saves what is done of a run."""
    _savers.append(save)
    try:
        yield
    finally:
        _savers.remove(save)


def save_all() -> None:
    """Saves what is done of the runs of this process, which is about to end."""
    for save in _savers:
        save()


@dataclasses.dataclass(frozen=True)
class Program:
    """What `run` is in a package's train.py and itinf.py.

    Attributes:
      package: the package, which names experiments.
      work: does the work, given the config and the folder of a run.
      split: takes a command line; returns what of it absl should parse, and a function that then
        has the last word on the config.
      check: raises UserError, given the config and the folder of a run, for what can be told before
        the work begins: that data or a model are not there.
    """

    package: str
    work: Callable[[config_dict.ConfigDict, pathlib.Path], None]
    split: Callable[[list[str]], tuple[list[str], Callable[[config_dict.ConfigDict], None]]] = (
        lambda argv: (argv, lambda config: None))
    check: Callable[[config_dict.ConfigDict, pathlib.Path], None] = lambda config, workdir: None

    def __call__(self, config: config_dict.ConfigDict, workdir: pathlib.Path) -> None:
        self.work(config, workdir)


def program(package: str) -> Callable[[Callable[[], Program]], Program]:
    """Makes a function, which imports and returns a program of `package`, that program.

    It is called when there is something to do: --help does not wait for TensorFlow.
    """
    def decorate(function):
        load = functools.cache(function)

        def split(argv):
            return (argv, lambda config: None) if cli.wants_help(argv) else load().split(argv)

        return Program(package, lambda *run: load().work(*run), split,
                       lambda *run: load().check(*run))

    return decorate


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that a command line asks for.

    Attributes:
      config: with all overrides.
      overrides: its entry of get_hyper().
      wid: number of that entry.
      runname: `name`, and what tells it from other runs of the experiment, of the entry and of the
        command line; or what get_runname(config) says, if the config file has that.
      experiments_dir: where runs live.
      xid: name of the experiment, if one was given.
      name: of package and config file, and the recipe or method if it is not the file's own.
    """

    config: config_dict.ConfigDict
    overrides: dict[str, Any]
    wid: int
    runname: str
    experiments_dir: str
    xid: str | None
    name: str

    @property
    def workdir(self) -> pathlib.Path:
        """Its folder, whatever job of a cluster this is asked in: the same command goes on."""
        return pathlib.Path(self.experiments_dir, self.xid or self.name,
                            folder_name(self.wid, self.runname))

    @property
    def arguments(self) -> tuple[config_dict.ConfigDict, pathlib.Path]:
        """What a `Program` takes."""
        return self.config, self.workdir


def folder_name(wid: int, runname: str) -> str:
    """What the folder of a run is called."""
    return f"wid={wid}-{runname}"


def split_name(folder: str) -> tuple[int, str]:
    """The wid and the runname that `folder_name` made a name of.

    Raises:
      UserError: it is not one of a run.
    """
    match = re.fullmatch(r"wid=(\d+)-(.*)", folder)
    if not match:
        raise UserError(f"{folder} is no folder of a run; they are called wid=<n>-<name>")
    return int(match[1]), match[2]


def main(program: Program) -> None:
    """The command line of a package's train.py and itinf.py."""
    _define_flags(flags.FLAGS)
    argv, amend = program.split(sys.argv)

    def start(_):
        program(*_assemble(flags.FLAGS, program.package, amend).arguments)

    cli.run(start, argv)


def read(program: Program, argv: list[str]) -> Run:
    """The run that `main` would start with the command line `argv`, its config resolved.

    Raises:
      UserError: a mistake in the command line.
    """
    values = flags.FlagValues()
    _define_flags(values)
    argv, amend = program.split(argv)
    cli.parse_flags(values, argv)
    run = _assemble(values, program.package, amend)
    return dataclasses.replace(run, config=run.config.copy_and_resolve_references())


def _define_flags(values: flags.FlagValues) -> None:
    config_flags.DEFINE_config_file(
        "config", None, "config file, and after a colon the recipe (training) or the method "
        "(inference), if not the file's own; --config.<key>=<value> overrides an entry, for "
        "example --config.seed=1", values, lock_config=True)
    flags.declare_key_flag("config", values)
    flags.DEFINE_integer("hid", None, "take entry number HID of get_hyper()", flag_values=values)
    flags.DEFINE_string("experiments_dir", str(configs.EXPERIMENTS_DIR), "where runs live",
                        flag_values=values)
    flags.DEFINE_string(
        "xid", None, "name of the experiment; by default that of package, config "
        "file, and recipe or method", flag_values=values)
    flags.mark_flag_as_required("config", values)


def _assemble(values: flags.FlagValues, package: str,
              amend: Callable[[config_dict.ConfigDict], None]) -> Run:
    path, _, recipe = config_flags.get_config_filename(values["config"]).partition(":")
    config_module = load_config_module(path)
    config, overrides, telling = values.config, {}, []
    given = config_flags.get_override_values(values["config"])
    if values.hid is not None:
        hyper = sweep(path)
        apply_hyper(config, hyper, values.hid)
        overrides, telling = hyper[values.hid], _telling(hyper, values.hid)
        # What the command line says goes before what the sweep says.
        config.update_from_flattened_dict(given)
    amend(config)
    name = "-".join(filter(None, (package, pathlib.Path(path).stem, recipe)))
    runname = (config_module.get_runname(config) if hasattr(config_module, "get_runname")
               else _runname(name, config, telling, given))
    return Run(config, overrides, values.hid or 0, runname, values.experiments_dir, values.xid,
               name)


# Runs of an experiment may differ in these, as entries of its sweep do. Of runs that differ in
# others, the points would be of one curve.
_NAMED = ("seed", "train.rd_lambda", "train.rate_target", "rd_lambda", "quality", "model")


def _runname(name, config, telling, given) -> str:
    keys = dict.fromkeys([*telling, *(key for key in given if key in _NAMED)])
    values = {key: functools.reduce(operator.getitem, key.split("."), config) for key in keys}
    return "-".join([name, *(f"{key.rpartition('.')[2]}={_word(value)}"
                             for key, value in values.items())])


def _telling(hyper: list[dict], hid: int) -> list[str]:
    """The first keys of an entry of a sweep, as many as tell it from the others."""
    entry, others, keys = hyper[hid], hyper[:hid] + hyper[hid + 1:], []
    for key in entry:
        keys.append(key)
        others = [other for other in others if other.get(key) == entry[key]]
        if not others:
            break
    return keys


def _word(value: Any) -> str:
    """A value as a part of a folder's name: 0.01, or 24,3, or the name of a model by its path."""
    if isinstance(value, tuple | list):
        return ",".join(map(_word, value))
    if isinstance(value, float):
        return f"{value:g}"
    path = pathlib.Path(str(value))
    return re.sub(r"[^\w.,=+-]+", "_", path.parent.name if path.name == "model" else path.name)


def load_config_module(path: str):
    """Imports a config file by its path. Raises UserError if there is none."""
    if not os.path.isfile(path):
        raise UserError(f"no config file {path}; see the folders <package>/configs")
    spec = importlib.util.spec_from_file_location("config_module", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sweep(path: str) -> list[dict[str, Any]]:
    """get_hyper() of a config file. Raises UserError if there is none."""
    module = load_config_module(path)
    if not hasattr(module, "get_hyper"):
        raise UserError(f"{path} has no get_hyper(), a list of overrides with an entry for each "
                        "run: [{'train.rd_lambda': 0.01}, ...]")
    return module.get_hyper()


def apply_hyper(config, hyper: list[dict], hid: int) -> None:
    """Applies entry `hid` of a sweep, {"train.rd_lambda": 0.02, ...}, to `config`.

    Raises:
      UserError: the sweep has no such entry.
    """
    if not 0 <= hid < len(hyper):
        raise UserError(f"--hid {hid}: this config's get_hyper() has entries 0 to {len(hyper) - 1}")
    config.update_from_flattened_dict(hyper[hid])


def record(model_class: type["Codec"], config) -> dict:
    """The config as a run and its exported model keep it: with package and module of the model.

    Raises:
      UserError: the config is one for another module.
    """
    package, module = model_class.__module__.rsplit(".", 1)
    if config.get("module", module) != module:
        raise UserError(f"the config is one for {package}.{config.module}, the model is that of "
                        f"{package}.{module}")
    return json.loads(json.dumps({"package": package, "module": module, **config.to_dict()}))


def claim(workdir: pathlib.Path, wanted: dict, begun: bool, **facts) -> None:
    """Creates the run's folder, or checks that it belongs to a run of the same config.

    Args:
      workdir: the folder.
      wanted: as from `record`.
      begun: whether the folder holds results already. If not, any config may have it.
      **facts: what else run_info.json is to say.

    Raises:
      UserError: it belongs to a run of another config.
    """
    path = workdir / "config.json"
    if path.exists() and begun:
        different = sorted(
            _flat(wanted).items() ^ _flat(json.loads(path.read_text())).items())
        if different:
            keys = ", ".join(sorted({key for key, _ in different}))
            raise UserError(f"{workdir} holds a run with another config ({keys} differ); choose "
                            "another --xid, or remove that folder")
    else:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "run_info.json", {**_run_info(wanted["seed"]), **facts})
        write_json(path, wanted)


def fact(workdir: pathlib.Path, name: str):
    """What run_info.json of a run says of `name`; None if it says nothing, or there is none."""
    try:
        return json.loads((workdir / "run_info.json").read_text()).get(name)
    except (OSError, ValueError):
        return None


def find_model(key: str, name: str, workdir: pathlib.Path) -> pathlib.Path:
    """The folder of the exported model to start from.

    Args:
      key: of the config, for the error.
      name: as in `export.find`, or folder of an experiment, for its run with the wid of `workdir`.
        A run of no entry of a sweep, whose wid is 0, starts from the only one of any wid too.
      workdir: folder of the run that starts from it.

    Raises:
      UserError: there is none, or several runs with that wid.
    """
    wid, runs = workdir.name.partition("-")[0], sorted(pathlib.Path(name).glob("wid=*"))
    same = [run for run in runs if run.name.startswith(f"{wid}-")]
    if not runs:
        return export.find(name)
    if not same and wid == "wid=0":
        with contextlib.suppress(UserError):
            return export.find(name)
    if len(same) != 1:
        found = ", ".join(run.name for run in same) or "none"
        raise UserError(f"{key}: the experiment {name} should have one run {wid}-... "
                        f"like this one; found: {found}")
    return export.find(same[0])


def _flat(tree: dict, prefix: str = "") -> dict[str, str]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value)
    return flat


def git_commit() -> str | None:
    """The commit of the code that runs, if it is known; of a launch's code, the file says it."""
    frozen = _ROOT / COMMIT_FILE
    if frozen.exists():
        return frozen.read_text().strip() or None
    try:
        return subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True,
                              cwd=_ROOT, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _run_info(seed: int) -> dict:
    return {
        "command": sys.argv,
        "git": git_commit(),
        "seed": seed,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **tables.environment(),
    }
