"""Runs: what training and iterative inference share of folders, configs and the command line.

A run lives in <experiments_dir>/<xid>/wid=<n>-<runname>/ and is a function of its config.json.

TensorFlow, whose import takes seconds, is not imported here: see common/lazy.py.
"""

import ast
import collections
import contextlib
import dataclasses
import datetime
import difflib
import functools
import importlib.util
import inspect
import json
import operator
import os
import pathlib
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import config_dict

import configs
from common import cli, export, tables
from common.errors import UserError
from common.files import write_json

if TYPE_CHECKING:
    from common.model import Codec

COMMIT_FILE = "COMMIT"  # in the root of a copy of the code
_ROOT = pathlib.Path(__file__).resolve().parents[1]

flags.disclaim_key_flags()  # `--help` of the program lists the flags defined in `main`

# --- What is saved when a process is to end ---------------------------------------------------

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_savers = []
_busy = 0  # blocks of `unstoppable` that the process is in
_asked = None  # the signal that asks it to end


@contextlib.contextmanager
def saved_by(save: Callable[[], str | None]):
    """While this lasts, `save_all` calls `save`, which saves what is done of a run.

    It may return how far the run is: "step 3 of 10".
    """
    _savers.append(save)
    try:
        yield
    finally:
        _savers.remove(save)


def save_all() -> list[str]:
    """Saves what is done of the runs of this process, which is about to end.

    Returns:
      How far they are, of those that say so.
    """
    return [place for place in [save() for save in _savers] if place]


def stop_on_signals() -> None:
    """From now on Ctrl-C, SIGTERM and SIGHUP save what is done and end the process.

    A second one ends it at once. Those that are ignored, as by nohup, still are.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _ask)


@contextlib.contextmanager
def unstoppable():
    """Delays requests to end the process until the block is done: half of it cannot be saved."""
    global _busy
    _busy += 1
    try:
        yield
    finally:
        _busy -= 1
    stop_if_asked()


def stop_if_asked() -> None:
    """Ends the process if a signal asked for it, and Python dropped that, as it does in __del__."""
    if _asked and not _busy:
        try:
            where = "".join(f" at {place}" for place in save_all())
            text = f"stopped{where}; the same command goes on"
        except UserError as error:
            text = f"error: {error}"
        # Not print, which may be what was interrupted.
        os.write(sys.__stderr__.fileno(), f"{text}\n".encode(errors="backslashreplace"))
        raise SystemExit(128 + _asked)


def _ask(number, _):
    global _asked
    _asked = number
    for each in _SIGNALS:
        if signal.getsignal(each) is _ask:
            signal.signal(each, signal.SIG_DFL)
    stop_if_asked()


# --- The command line -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Program:
    """The program of a package's train.py or itinf.py.

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
        """The arguments of a `Program`."""
        return self.config, self.workdir


def folder_name(wid: int, runname: str) -> str:
    """The name of a run's folder."""
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
    argv, finish = _split(program, sys.argv)

    def start(argv):
        run = finish(flags.FLAGS, argv)
        stop_on_signals()
        program(*run.arguments)

    cli.run(start, argv)


def read(program: Program, argv: list[str]) -> Run:
    """The run that `main` would start with the command line `argv`, its config resolved.

    Raises:
      UserError: a mistake in the command line.
    """
    values = flags.FlagValues()
    _define_flags(values)
    argv, finish = _split(program, argv)
    run = finish(values, cli.parse_flags(values, argv))
    return dataclasses.replace(run, config=run.config.copy_and_resolve_references())


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "config", None, "config file, and after a colon the recipe (training) or the method "
        "(inference), if not the file's own; --config.<key>=<value> overrides an entry, for "
        "example --config.seed=1", flag_values=values)
    flags.DEFINE_integer("hid", None, "take entry number HID of get_hyper()", flag_values=values)
    flags.DEFINE_string("experiments_dir", str(configs.EXPERIMENTS_DIR), "where runs live",
                        flag_values=values)
    flags.DEFINE_string(
        "xid", None, "name of the experiment; by default that of package, config "
        "file, and recipe or method", flag_values=values)


def _split(program, argv):
    """Splits a command line: flags for absl, and a function that makes the `Run` of the rest.

    The function takes the flags and what absl left over.
    """
    argv, amend = program.split(argv)
    argv, overrides = overrides_of(argv)

    def finish(values, rest):
        if len(rest) > 1:
            raise UserError(f"'{rest[1]}' belongs to no flag; flags are given as --xid=NAME and "
                            "--config.<key>=<value>")
        if not values.config:
            raise UserError("--config is missing: --config <package>/configs/<paper>.py")
        return _assemble(values, program.package, overrides, amend)

    return argv, finish


_OVERRIDE = re.compile(r"--?(no)?config\.([^=]*)(?:=(.*))?", re.DOTALL)


def overrides_of(argv: list[str]) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Takes --config.<key>=<value>, --config.<key> <value> and --noconfig.<key> out of `argv`.

    Returns:
      The other arguments, and (key, value) of each in their order; the value is None if the key
      has to be one that is true or false.
    """
    rest, overrides, arguments = [], [], collections.deque(argv)
    while arguments:
        argument = arguments.popleft()
        match = _OVERRIDE.fullmatch(argument)
        if not match:
            rest.append(argument)
            continue
        no, key, value = match.groups()
        if no:
            value = "False"
        elif value is None and arguments and not arguments[0].startswith("--"):
            value = arguments.popleft()
        overrides.append((key, value))
    return rest, overrides


def override(config: config_dict.ConfigDict, key: str, text: str | None) -> Any:
    """Sets an entry of a config as the command line says; returns the value.

    Args:
      config: the config.
      key: "train.num_steps".
      text: of the value; None for True.

    Raises:
      UserError: the config has no such entry, or it takes no such value.
    """
    flag = f"--config.{key}" + ("" if text is None else f"={text}")
    *sections, name = key.split(".")
    section = config
    for i, each in enumerate(sections):
        section = section.get(each) if each in section else None
        if not isinstance(section, config_dict.ConfigDict):
            raise _no_such(config, key, ".".join(sections[:i + 1]))
    if name not in section:
        raise _no_such(config, key, key)
    kind = section.get_type(name)
    if issubclass(kind, config_dict.ConfigDict):
        known = ", ".join(f"{key}.{each}" for each in section[name])
        raise UserError(f"{flag}: {key} is a section of the config; give an entry of it: {known}")
    if kind not in _KINDS:
        raise UserError(f"{flag}: {key} is a {kind.__name__}, which is set in the config file only")
    described, parse = _KINDS[kind]
    if text is None and kind is not bool:
        raise UserError(f"{flag}: need {described} for it, as --config.{key}=<value>")
    try:
        value = True if text is None else parse(text)
        section[name] = value
    except (ValueError, TypeError, SyntaxError, KeyError):
        raise UserError(f"{flag}: need {described}") from None
    return value


def _no_such(config, key, wrong):
    known = [*_flat(config.to_dict())]
    close = difflib.get_close_matches(key, known, n=1) or difflib.get_close_matches(
        key.rpartition(".")[2], [each.rpartition(".")[2] for each in known], n=1)
    close = [each for each in known if each == close[0] or each.endswith(f".{close[0]}")
             ] if close else []
    hint = f"did you mean {' or '.join(close)}?" if close else (
        f"it has {', '.join(config)}")
    return UserError(f"--config.{key}: the config has no key {wrong}; {hint}")


def _parse_tuple(text):
    value = ast.literal_eval(text)
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _parse_bool(text):
    return {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}[
        text.lower()]


# What entries of a config can be: in words, and the function that reads it.
_KINDS = {
    int: ("a whole number", int),
    float: ("a number", float),
    str: ("a text", str),
    bool: ("true or false", _parse_bool),
    tuple: ("several values in brackets, as '(1, 2)'", _parse_tuple),
}


def _assemble(values: flags.FlagValues, package: str, overrides: list[tuple[str, str | None]],
              amend: Callable[[config_dict.ConfigDict], None]) -> Run:
    path, _, recipe = values.config.partition(":")
    config_module = load_config_module(path)
    config, hyper_entry, telling = _config(config_module, path, recipe), {}, []
    if values.hid is not None:
        hyper = sweep(path)
        apply_hyper(config, hyper, values.hid)
        hyper_entry, telling = hyper[values.hid], _telling(hyper, values.hid)
    # What the command line says goes before what the sweep says.
    given = {key: override(config, key, text) for key, text in overrides}
    amend(config)
    name = "-".join(filter(None, (package, pathlib.Path(path).stem, recipe)))
    runname = (config_module.get_runname(config) if hasattr(config_module, "get_runname")
               else _runname(name, config, telling, given))
    return Run(config, hyper_entry, values.hid or 0, runname, values.experiments_dir, values.xid,
               name)


def _config(module, path, recipe) -> config_dict.ConfigDict:
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} has no get_config(), so it is no config file; see the folders "
                        "<package>/configs")
    if recipe and not inspect.signature(module.get_config).parameters:
        raise UserError(f"{path}:{recipe}: its get_config() takes no recipe or method; leave out "
                        f"':{recipe}'")
    with _mistakes_in(path):
        return module.get_config(*[recipe][:bool(recipe)]).lock()


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
    """Imports a config file by its path. Raises UserError if there is none, or it is wrong."""
    if not os.path.isfile(path):
        raise UserError(f"no config file {path}; see the folders <package>/configs")
    spec = importlib.util.spec_from_file_location("config_module", path)
    if spec is None:
        raise UserError(f"{path} is no config file, which ends in .py")
    module = importlib.util.module_from_spec(spec)
    with _mistakes_in(path):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _mistakes_in(path):
    """Names the line of a config file that raises an error."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                 if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        raise UserError(f"{path}{f', line {line}' if line else ''}: "
                        f"{type(error).__name__}: {error}") from None


def sweep(path: str) -> list[dict[str, Any]]:
    """get_hyper() of a config file. Raises UserError if there is none."""
    module = load_config_module(path)
    if not hasattr(module, "get_hyper"):
        raise UserError(f"{path} has no get_hyper(), a list of overrides with an entry for each "
                        "run: [{'train.rd_lambda': 0.01}, ...]")
    with _mistakes_in(path):
        return module.get_hyper()


def apply_hyper(config, hyper: list[dict], hid: int) -> None:
    """Applies entry `hid` of a sweep, {"train.rd_lambda": 0.02, ...}, to `config`.

    Raises:
      UserError: the sweep has no such entry.
    """
    if not 0 <= hid < len(hyper):
        raise UserError(f"--hid {hid}: this config's get_hyper() has entries 0 to {len(hyper) - 1}")
    try:
        config.update_from_flattened_dict(hyper[hid])
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        reason = str(error.args[0] if error.args else error).splitlines()[0]
        raise UserError(f"entry {hid} of get_hyper(), {hyper[hid]}, does not fit the config: "
                        f"{reason}") from None


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


def claim(workdir: pathlib.Path, wanted: dict, begun: bool, *,
          may_change: Collection[str] = (), advice: str = "", **facts) -> dict[str, tuple]:
    """Creates the run's folder, or checks that it belongs to a run of the same config.

    Args:
      workdir: the folder.
      wanted: as from `record`.
      begun: whether the folder holds results already. If not, any config may have it.
      may_change: keys in which that of the folder may differ.
      advice: what else to do than to choose another --xid, if it belongs to another run.
      **facts: what else run_info.json is to say.

    Returns:
      What differs: (value there, value here) by key. `record_changes` takes it.

    Raises:
      UserError: it belongs to a run of another config.
    """
    path = workdir / "config.json"
    if not (path.exists() and begun):
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "run_info.json", {**_run_info(wanted["seed"]), **facts})
        write_json(path, wanted)
        return {}
    here, there = _flat(wanted), _flat(_read_json(path))
    different = {key: tuple(json.loads(each.get(key, "null")) for each in (there, here))
                 for key in sorted(here.keys() | there.keys()) if here.get(key) != there.get(key)}
    # A key that came with a later version, where what it brought is not used.
    different = {key: values for key, values in different.items() if key in there or values[1]}
    fixed = [key for key in different if key not in may_change]
    if fixed:
        values = "; ".join("{}: {} there, {} here".format(key, *different[key])
                           for key in fixed[:_NAMED_DIFFERENCES])
        raise UserError(
            f"{workdir} holds a run with another config ({', '.join(fixed)} differ; {values}); "
            f"choose another --xid{advice}")
    return different


_NAMED_DIFFERENCES = 3


def record_changes(workdir: pathlib.Path, wanted: dict, changes: dict[str, tuple],
                   **facts) -> None:
    """Writes down that a run goes on with another config: config.json, and how it came about.

    Args:
      workdir: its folder.
      wanted: as from `record`.
      changes: as from `claim`.
      **facts: what else run_info.json is to say of the change, such as the step.
    """
    path = workdir / "run_info.json"
    info = _read_json(path) if path.exists() else _run_info(wanted["seed"])
    change = {**facts, "command": sys.argv, "git": git_commit(), "config": {
        key: {"before": before, "after": after} for key, (before, after) in changes.items()}}
    write_json(path, {**info, "changes": [*info.get("changes", []), change]})
    write_json(workdir / "config.json", wanted)


def _read_json(path: pathlib.Path) -> dict:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged (it is no object)")
    return content


def fact(workdir: pathlib.Path, name: str):
    """The entry `name` in a run's run_info.json; None if there is none."""
    try:
        return _read_json(workdir / "run_info.json").get(name)
    except UserError:
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
