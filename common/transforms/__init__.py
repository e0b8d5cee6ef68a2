"""Analysis, synthesis and hyper transforms, one module a paper, built by name from a config."""

import difflib
import inspect

import tensorflow as tf

from common.cli import UserError
from common.transforms import (
    advdnic,
    bls2017,
    cheng2020,
    elic2022,
    hific2020,
    hyper2018,
    joint2018,
    mbt2018,
    pixelcnn,
    residual,
    yang2023,
)

_MODULES = (advdnic, bls2017, cheng2020, elic2022, hific2020, hyper2018, joint2018, mbt2018,
            pixelcnn, residual, yang2023)

REGISTRY = {
    name: cls
    for module in _MODULES
    for name, cls in inspect.getmembers(module, inspect.isclass)
    if cls.__module__ == module.__name__
}


def build(config) -> tf.keras.Model:
    """Builds the transform that `config` names, e.g. dict(cls="MBT2018Synthesis", channels=...).

    Raises:
      UserError: there is no such transform, or it does not take these arguments.
    """
    arguments = dict(config)
    name = arguments.pop("cls", None)
    if name not in REGISTRY:
        close = difflib.get_close_matches(str(name), REGISTRY, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(REGISTRY))}"
        raise UserError(f"unknown transform '{name}'; {hint}")
    cls = REGISTRY[name]
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"transform {name}{inspect.signature(cls)} cannot be built from "
                        f"{arguments}: {error}") from error
