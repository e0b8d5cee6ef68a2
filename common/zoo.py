"""Models by name: released ones, runs, and whatever folder has an exported one."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib

from common import export
from common import precision as precisions
from common.container import Container
from common.errors import NotInZoo, UserError
from common.lazy import Codec, import_module

# The model that commands take when none is named.
DEFAULT = "mshyper"


class _Codecs(dict):
    """Classes by their modules, from their names; each is imported when it is looked up."""

    def __getitem__(self, module):
        return getattr(import_module(module), super().__getitem__(module))


BITS_BACK = "mshyper.bits_back"  # whose models code chains, not single images

# All classes of codecs, by what exported models say of theirs (`export.read_module`).
CODECS = _Codecs({
    "factorized.models": "FactorizedPrior",
    "mshyper.models": "MeanScaleHyperprior",
    BITS_BACK: "BitsBackHyperprior",
    "joint_ar.models": "JointAutoregressive",
    "hific.models": "HiFiC",
    "hific.mixture": "HiFiCMixture",
})


def find_class(path: pathlib.Path) -> type[Codec]:
    """The class of the exported model in the folder `path`.

    Raises:
      UserError: there is no model, or this version does not have its class.
    """
    module = export.read_module(path)
    if module not in CODECS:
        raise UserError(f"{path}: its config names the model of '{module}', which this version "
                        "does not have")
    return CODECS[module]


def load(name: str | os.PathLike, precision: str = "float32") -> Codec:
    """Loads an exported model by its folder, its run's folder, or its name in the zoo.

    Args:
      name: folder of a model or of a run, or a name of the zoo.
      precision: of its transforms: "float32", "bfloat16", or "auto" for bfloat16 where the device
        has it in hardware (common/precision.py). Results in float32 repeat on other
        machines up to their last digits.

    Raises:
      UserError: there is none, or it is damaged.
    """
    path = export.find(name)
    return export.load(find_class(path), path, precisions.choose(precision))


def load_for(file: Container, precision: str = "float32") -> Codec:
    """The model of the zoo that wrote a .ntc file. The last four of these are kept.

    Args:
      file: the file.
      precision: as in `load`.

    Raises:
      NotInZoo: it is not there.
      UserError: it is damaged.
    """
    return _keep(find_by_fingerprint(file.fingerprint), file.fingerprint, precision)


@functools.lru_cache(maxsize=4)
def _keep(name, fingerprint, precision):  # a name may have become another model's
    return load(name, precision)


def find_by_fingerprint(fingerprint: str, called: str | None = None) -> str:
    """The name of the model of the zoo that wrote a file.

    Args:
      fingerprint: its first digits.
      called: what else is known of its name.

    Raises:
      NotInZoo: it is not there.
    """
    name = released(fingerprint)
    if name is None:
        raise NotInZoo(f"written by model {fingerprint}" + f", called '{called}'" * bool(called)
                       + ", which is not in the zoo")
    return name


def released(fingerprint: str) -> str | None:
    """The name of the model of the zoo whose fingerprint begins so; None if there is none."""
    for name, path in export.released_models().items():
        with contextlib.suppress(UserError):  # a damaged one does not hide the others
            if export.fingerprint(path).startswith(fingerprint):
                return name
    return None
