"""Analysis, synthesis and hyper transforms, one module a paper, built by name from a config."""

import inspect
from collections.abc import Mapping

from common import arguments
from common.transforms import (
    advdnic,
    bls2017,
    cheng2020,
    elic2022,
    hific2020,
    mbt2018,
    pixelcnn,
    residual,
    yang2023,
)
from common.transforms.composites import AnyTransform

_MODULES = (advdnic, bls2017, cheng2020, elic2022, hific2020, mbt2018, pixelcnn, residual,
            yang2023)

REGISTRY = {
    name: cls
    for module in _MODULES
    for name, cls in inspect.getmembers(module, inspect.isclass)
    if cls.__module__ == module.__name__
}


def build(config: Mapping) -> AnyTransform:
    """Builds the transform that `config` names, e.g. dict(cls="MBT2018Synthesis", channels=...).

    Raises:
      UserError: there is no such transform, or it does not take these arguments.
    """
    return arguments.build("transform", REGISTRY, config)
