"""Programs: the command line of a package's train.py and itinf.py, and the run that it asks for.

TensorFlow, whose import takes seconds, is not imported here: see common/lazy.py.
"""

import dataclasses
import functools
import operator
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from ml_collections import config_dict

import configs
from common import cli, config_files, lazy, overrides, runs, stopping, sweeps
from common.errors import FolderTaken, UserError

flags.disclaim_key_flags()  # `--help` of the program lists the flags defined in `main`


@dataclasses.dataclass(frozen=True)
class Program:
    """The program of a package's train.py or itinf.py.

    Attributes:
      package: the package, which names experiments.
      work: does the work, given the config and the folder of a run.
      override: sets what the command line gives of the config; arguments as of
        `overrides.apply_all`.
      check: raises UserError, given the config and the folder of a run, for what can be told before
        the work begins: that data or a model are not there.
      load: imports what the others need, which takes seconds.
    """

    package: str
    work: Callable[[config_dict.ConfigDict, pathlib.Path], None]
    override: Callable[[config_dict.ConfigDict, list[tuple[str, str | None]]], None] = (
        overrides.apply_all)
    check: Callable[[config_dict.ConfigDict, pathlib.Path], None] = lambda config, workdir: None
    load: Callable[[], object] = lambda: None

    def __call__(self, config: config_dict.ConfigDict, workdir: pathlib.Path) -> None:
        with cli.advising(FolderTaken, "another --xid is another folder"):
            self.work(config, workdir)


def of(package: str) -> Callable[[Callable[[], Program]], Program]:
    """Decorator: turns a function that returns a program of `package` into that program.

    The function, which imports what the program needs, is called on first use: --help does not wait
    for TensorFlow.
    """
    def decorate(function):
        @functools.cache
        def load():
            with lazy.importing():
                return function()

        return Program(package, lambda *run: load().work(*run),
                       lambda *given: load().override(*given), lambda *run: load().check(*run),
                       load)

    return decorate


def main(program: Program) -> None:
    """The command line of a package's train.py and itinf.py."""
    _define_flags(flags.FLAGS)
    if not cli.wants_help(sys.argv):
        # TensorFlow has a hook for absl's start, and makes its context there. If it is imported
        # after that start, its import makes it, before eager mode is on: in graphs, `==` of
        # tensors is then that of Python objects, as in version 1.
        program.load()
    argv, given = overrides.take(sys.argv)

    def start(argv):
        run = _assemble(flags.FLAGS, argv, program, given)
        stopping.stop_on_signals()
        with stopping.stoppable():
            program(*run.arguments)

    cli.run(start, argv)


def read(program: Program, argv: Sequence[str]) -> runs.Run:
    """The run that `main` would start with the command line `argv`, its config resolved.

    Raises:
      UserError: a mistake in the command line.
    """
    values = flags.FlagValues()
    _define_flags(values)
    argv, given = overrides.take(argv)
    run = _assemble(values, cli.parse_flags(values, argv), program, given)
    return dataclasses.replace(run, config=run.config.copy_and_resolve_references())


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "config", None, "config file, and after a colon the recipe (training) or the method "
        "(refinement), if not the file's own; --config.<key>=<value> overrides an entry, for "
        "example --config.seed=1", flag_values=values)
    flags.DEFINE_integer("hid", None, "take entry number HID of get_hyper()", flag_values=values)
    flags.DEFINE_string("experiments_dir", str(configs.EXPERIMENTS_DIR), "where runs live",
                        flag_values=values)
    flags.DEFINE_string(
        "xid", None, "name of the experiment; by default that of package, config "
        "file, and recipe or method", flag_values=values)


def _assemble(values, rest, program, given) -> runs.Run:
    """The run of a command line: absl's flags, what it left over, and overrides of the config."""
    if len(rest) > 1:
        raise UserError(f"'{rest[1]}' belongs to no flag; flags are given as --xid=NAME and "
                        "--config.<key>=<value>")
    if not values.config:
        raise UserError("--config is missing: --config <package>/configs/<paper>.py")
    path, _, recipe = values.config.partition(":")
    file = config_files.load(path)
    config, entry, telling = file.get_config(recipe), {}, []
    if values.hid is not None:
        sweep = file.get_hyper()
        sweeps.apply(config, sweep, values.hid)
        entry, telling = sweep[values.hid], sweeps.telling_keys(sweep, values.hid)
    program.override(config, given)  # which goes before what the sweep says
    name = "-".join(filter(None, (program.package, pathlib.Path(path).stem, recipe)))
    runname = file.runname(config) or _runname(
        name, config, [*telling, *(key for key, _ in given if key in _NAMED)])
    return runs.Run(config, entry, values.hid or 0, runname, values.experiments_dir, values.xid,
                    name)


# Runs of an experiment may differ in these, as entries of its sweep do. Of runs that differ in
# others, the points would be of one curve.
_NAMED = ("seed", "train.rd_lambda", "train.rate_target", "rd_lambda", "quality", "model")


def _runname(name, config, keys) -> str:
    values = {key: functools.reduce(operator.getitem, key.split("."), config) for key in keys}
    return "-".join([name, *(f"{key.rpartition('.')[2]}={_word(value)}"
                             for key, value in values.items())])


def _word(value: Any) -> str:
    """A value as a part of a folder's name: 0.01, or 24,3, or the name of a model by its path."""
    if isinstance(value, tuple | list):
        return ",".join(map(_word, value))
    if isinstance(value, float):
        return f"{value:g}"
    path = pathlib.Path(str(value))
    return re.sub(r"[^\w.,=+-]+", "_", path.parent.name if path.name == "model" else path.name)
