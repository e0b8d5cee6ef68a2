"""Runs: their folders, and what is written there of how they came about.

A run lives in <experiments_dir>/<xid>/wid=<n>-<runname>/ and is a function of its config.json. To
resume one is to `claim` its folder again. What a program does of it is in common/programs.py, what
is saved when it is stopped in common/stopping.py.

TensorFlow, whose import takes seconds, is not imported here: see common/lazy.py.
"""

import contextlib
import dataclasses
import datetime
import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from ml_collections import config_dict

from common import export, overrides, result_tables
from common.errors import FolderTaken, UserError
from common.files import write_json

if TYPE_CHECKING:
    from common.model import Codec

COMMIT_FILE = "COMMIT"  # in the root of a copy of the code
_ROOT = pathlib.Path(__file__).resolve().parents[1]


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
        """The run's folder, the same in every job of a cluster: the same command goes on there."""
        return pathlib.Path(self.experiments_dir, self.xid or self.name,
                            folder_name(self.wid, self.runname))

    @property
    def arguments(self) -> tuple[config_dict.ConfigDict, pathlib.Path]:
        """The arguments of a `programs.Program`."""
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
        raise UserError(f"{folder} is not the folder of a run; these are called wid=<n>-<name>")
    return int(match[1]), match[2]


def record(model_class: type["Codec"], config: config_dict.ConfigDict) -> dict[str, Any]:
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
          may_change: Collection[str] = (), advice: str = "", **facts: Any) -> dict[str, tuple]:
    """Creates the run's folder, or checks that it belongs to a run of the same config.

    Args:
      workdir: the folder.
      wanted: as from `record`.
      begun: whether the folder holds results already. If not, any config may have it.
      may_change: keys in which that of the folder may differ.
      advice: what else to do than to choose another folder, if it belongs to another run.
      **facts: what else run_info.json is to say.

    Returns:
      What differs: (value there, value here) by key. `record_changes` takes it.

    Raises:
      FolderTaken: it belongs to a run of another config.
      UserError: its config.json is damaged.
    """
    path = workdir / "config.json"
    if not (path.exists() and begun):
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "run_info.json", {**_run_info(wanted["seed"]), **facts})
        write_json(path, wanted)
        return {}
    here, there = _texts(wanted), _texts(_read_json(path))
    different = {key: tuple(json.loads(each.get(key, "null")) for each in (there, here))
                 for key in sorted(here.keys() | there.keys()) if here.get(key) != there.get(key)}
    # A key that came with a later version, where what it brought is not used. Not so the argument
    # of a class: 0 may be another value than its default.
    different = {key: values for key, values in different.items()
                 if key in there or values[1] or f"{key.rpartition('.')[0]}.cls" in here}
    fixed = [key for key in different if key not in may_change]
    if fixed:
        values = "; ".join("{}: {} there, {} here".format(key, *different[key])
                           for key in fixed[:_NAMED_DIFFERENCES])
        raise FolderTaken(
            f"{workdir} holds a run with another config ({', '.join(fixed)} differ; {values}); "
            f"choose another folder{advice}")
    return different


_NAMED_DIFFERENCES = 3


def _texts(config):
    """The entries of a config by their keys, each as JSON has it."""
    return {key: json.dumps(value) for key, value in overrides.flat(config).items()}


def record_changes(workdir: pathlib.Path, wanted: dict, changes: dict[str, tuple],
                   **facts: Any) -> None:
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
        raise UserError(f"{path} is damaged (it is not an object)")
    return content


def fact(workdir: pathlib.Path, name: str) -> Any:
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
        A run without an entry of a sweep has wid 0, and may also start from an experiment's only
        run, whatever the wid of that.
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


def git_commit() -> str | None:
    """The commit of the code that runs, if it is known; a launch's copy of the code has a file."""
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
        **result_tables.environment(),
    }
