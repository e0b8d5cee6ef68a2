"""`ntc`, one command for all: what `python -m` runs, where the package is installed.

    ntc compress photo.png                               python -m codec compress ...
    ntc train mshyper/configs/mbt2018.py --hid 2         python -m mshyper.train --config ...
    ntc refine mshyper/configs/itinf.py:sga              python -m mshyper.itinf --config ...
    ntc evaluate | launch | convert | chain ...          python -m evaluate ...
    ntc --version

Of `codec` there are compress, decompress, info, benchmark and inspect.
"""

import pathlib
import runpy
import sys

import ntc
from common import arguments, zoo
from common.cli import report
from common.errors import UserError

_OF_CODEC = ("compress", "decompress", "info", "benchmark", "inspect")
_OF_PACKAGES = {"train": "train", "refine": "itinf"}
_MODULES = ("evaluate", "launch", "convert", "chain")


@report
def main() -> None:
    """Runs the command that `sys.argv` asks for."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(__doc__)
        return
    if name == "--version":
        print(f"ntc-zoo {ntc.__version__}")
        return
    if name in _OF_CODEC:
        module, argv = "codec", [name, *rest]
    elif name in _OF_PACKAGES:
        module, argv = _of_package(name, rest)
    elif name in _MODULES:
        module, argv = name, rest
    else:
        raise arguments.unknown("command", name, [*_OF_CODEC, *_OF_PACKAGES, *_MODULES])
    sys.argv = [f"ntc {name}", *argv]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _of_package(name, rest):
    """The module that trains a config or refines by one, and its arguments."""
    config, *others = rest or [""]
    known = {module.partition(".")[0] for module in zoo.CODECS}
    parts = pathlib.PurePath(config.partition(":")[0]).parts
    packages = [part for part in parts if part in known]
    if not packages:
        raise UserError(
            f"ntc {name} takes a config first, as mshyper/configs/mbt2018.py, in the folder of its "
            f"package; not '{config}'")
    return f"{packages[-1]}.{_OF_PACKAGES[name]}", ["--config", config, *others]
