"""Runs: what training and iterative inference share of folders, configs and the command line.

A run lives in <experiments_dir>/<xid>/wid=<n>-<runname>/ and is a function of its config.json.
"""

import datetime
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

from absl import flags
from ml_collections import config_dict, config_flags

import configs
from common import cli, export, tables
from common.cli import UserError
from common.files import write_json
from common.model import Model

flags.disclaim_key_flags()  # `--help` of the program lists the flags defined in `main`


def main(run: Callable[[config_dict.ConfigDict, pathlib.Path], None],
         prepare: Callable[[list[str]], list[str]] = list,
         amend: Callable[[config_dict.ConfigDict], None] = lambda config: None) -> None:
    """The command line of a package's train.py and itinf.py.

    Args:
      run: does the work, given the config and the folder.
      prepare: as in `cli.run`.
      amend: has the last word on the config.
    """
    config_flag = config_flags.DEFINE_config_file(
        "config", None, "config file, and after a colon the recipe (training) or the method "
        "(inference), if not the file's own; --config.<key>=<value> overrides an entry, for "
        "example --config.seed=1", lock_config=True)
    flags.declare_key_flag("config")
    hid = flags.DEFINE_integer("hid", None, "take entry number HID of get_hyper()")
    experiments_dir = flags.DEFINE_string(
        "experiments_dir", str(configs.EXPERIMENTS_DIR), "where runs live")
    xid = flags.DEFINE_string(
        "xid", os.environ.get("SLURM_ARRAY_JOB_ID", os.environ.get("SLURM_JOB_ID")),
        "name of the experiment; by default that of the Slurm job, else of the config file and "
        "the recipe or method")
    flags.mark_flag_as_required("config")

    def assemble(_):
        path, _, recipe = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
        config_module = load_config_module(path)
        config = config_flag.value
        wid = hid.value or 0
        if hid.value is not None:
            apply_hyper(config, config_module.get_hyper(), hid.value)
            # What the command line says goes before what the sweep says.
            config.update_from_flattened_dict(
                config_flags.get_override_values(flags.FLAGS["config"]))
        amend(config)
        name = "-".join(filter(None, (pathlib.Path(path).stem, recipe)))
        workdir = pathlib.Path(experiments_dir.value, xid.value or name,
                               f"wid={wid}-{config_module.get_runname(config)}")
        print(f"run: {workdir}")
        run(config, workdir)

    cli.run(assemble, prepare)


def load_config_module(path: str):
    """Imports a config file by its path. Raises UserError if there is none."""
    if not os.path.isfile(path):
        raise UserError(f"no config file {path}; see the folders <package>/configs")
    spec = importlib.util.spec_from_file_location("config_module", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def apply_hyper(config, hyper: list[dict], hid: int) -> None:
    """Applies entry `hid` of a sweep, {"train.rd_lambda": 0.02, ...}, to `config`.

    Raises:
      UserError: the sweep has no such entry.
    """
    if not 0 <= hid < len(hyper):
        raise UserError(f"--hid {hid}: this config's get_hyper() has entries 0 to {len(hyper) - 1}")
    config.update_from_flattened_dict(hyper[hid])


def record(model_class: type[Model], config) -> dict:
    """The config as a run and its exported model keep it: with package and module of the model.

    Raises:
      UserError: the config is one for another module.
    """
    package, module = model_class.__module__.rsplit(".", 1)
    if config.get("module", module) != module:
        raise UserError(f"the config is one for {package}.{config.module}, the model is that of "
                        f"{package}.{module}")
    return json.loads(json.dumps({"package": package, "module": module, **config.to_dict()}))


def claim(workdir: pathlib.Path, wanted: dict, begun: bool) -> None:
    """Creates the run's folder, or checks that it belongs to a run of the same config.

    Args:
      workdir: the folder.
      wanted: as from `record`.
      begun: whether the folder holds results already. If not, any config may have it.

    Raises:
      UserError: it belongs to a run of another config.
    """
    path = workdir / "config.json"
    if path.exists() and begun:
        # Earlier versions had one module only, and did not name it.
        found = {"module": "models", **json.loads(path.read_text())}
        different = sorted(_flat(wanted).items() ^ _flat(found).items())
        if different:
            keys = ", ".join(sorted({key for key, _ in different}))
            raise UserError(f"{workdir} holds a run with another config ({keys} differ); choose "
                            "another --xid, or remove that folder")
    else:
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(workdir / "run_info.json", _run_info(wanted["seed"]))
        write_json(path, wanted)


def find_model(key: str, name: str, workdir: pathlib.Path) -> pathlib.Path:
    """The folder of the exported model to start from.

    Args:
      key: of the config, for the error.
      name: as in `export.find`, or an experiment's folder, for its run with the wid of `workdir`.
      workdir: folder of the run that starts from it.

    Raises:
      UserError: there is none, or several runs with that wid.
    """
    if not any(pathlib.Path(name).glob("wid=*")):
        return export.find(name)
    wid = workdir.name.partition("-")[0]
    runs = sorted(pathlib.Path(name).glob(f"{wid}-*"))
    if len(runs) != 1:
        found = ", ".join(run.name for run in runs) or "none"
        raise UserError(f"{key}: the experiment {name} should have one run {wid}-... "
                        f"like this one; found: {found}")
    return export.find(runs[0])


def _flat(tree: dict, prefix: str = "") -> dict[str, str]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value)
    return flat


def _run_info(seed: int) -> dict:
    try:
        git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True,
                             cwd=pathlib.Path(__file__).parent, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        git = None
    return {
        "command": sys.argv,
        "git": git,
        "seed": seed,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **tables.environment(),
    }
