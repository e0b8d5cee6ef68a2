"""Lazy imports of TensorFlow and matplotlib, which take seconds, and of modules that need them.

    from common.lazy import coding, tf    # like `from common import coding`, and TensorFlow

In this way programs import what their work needs, and modules what few of their functions need: a
command line is read, and --help printed, before any import that takes long. Annotations would
trigger one; where they name such classes, `from __future__ import annotations` keeps them from
being evaluated.
"""

import contextlib
import gc
import importlib
import sys
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what each name is, for mypy
    import bjontegaard
    import matplotlib
    import tensorflow as tf
    import tensorflow_compression as tfc
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator
    from scipy.interpolate import PchipInterpolator
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph
    from tensorflow.python.framework import ops

    from common import (
        checkpoints,
        coding,
        data,
        export,
        fid,
        filters,
        format1,
        inspection,
        itinf,
        metrics,
        objectives,
        optimizers,
        pictures,
        quantizers,
        schedules,
        targets,
        tiles,
        training,
        transforms,
        weights,
    )
    from common.inception import Inception
    from common.integer_networks import Network
    from common.levels import Levels
    from common.lpips import Lpips
    from common.model import Codec, Latents
    from common.priors import Prior

# Others than modules of `common`.
_PLACES = {
    "tf": ("tensorflow", None),
    "tfc": ("tensorflow_compression", None),
    "ops": ("tensorflow.python.framework.ops", None),
    "matplotlib": ("matplotlib", None),
    "bjontegaard": ("bjontegaard", None),
    "Axes": ("matplotlib.axes", "Axes"),
    "Codec": ("common.model", "Codec"),
    "Figure": ("matplotlib.figure", "Figure"),
    "FigureCanvasAgg": ("matplotlib.backends.backend_agg", "FigureCanvasAgg"),
    "Inception": ("common.inception", "Inception"),
    "Latents": ("common.model", "Latents"),
    "Levels": ("common.levels", "Levels"),
    "LogLocator": ("matplotlib.ticker", "LogLocator"),
    "LogNorm": ("matplotlib.colors", "LogNorm"),
    "Lpips": ("common.lpips", "Lpips"),
    "Network": ("common.integer_networks", "Network"),
    "PchipInterpolator": ("scipy.interpolate", "PchipInterpolator"),
    "Prior": ("common.priors", "Prior"),
    "TrackableObjectGraph": ("tensorflow.core.protobuf.trackable_object_graph_pb2",
                             "TrackableObjectGraph"),
}


# Commands set this. Of a notebook's process more would be frozen than what TensorFlow made.
freeze_tensorflow = False


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """For imports that take long: Python searches for no garbage meanwhile.

    TensorFlow's makes a million objects, none of them garbage, and Python would go through them
    again and again. With `freeze_tensorflow` it does not later either, which at a process's end
    saves another second.
    """
    first, enabled = "tensorflow" not in sys.modules, gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if freeze_tensorflow and first:
            gc.freeze()
        if enabled:
            gc.enable()


def import_module(name: str) -> types.ModuleType:
    """`importlib.import_module`, of a module that may import TensorFlow."""
    if name not in sys.modules:
        with importing():
            return importlib.import_module(name)
    return importlib.import_module(name)  # waits for a thread that is importing it


class _Lazy:
    """A stand-in for a module, or for a class in it, also where it is patched."""

    __slots__ = ("_module", "_name")

    def __init__(self, module: str, name: str | None):
        object.__setattr__(self, "_module", module)
        object.__setattr__(self, "_name", name)

    @property
    def __dict__(self):  # type: ignore[override]
        return vars(self._get())

    def _get(self):
        module = import_module(self._module)
        return getattr(module, self._name) if self._name else module

    def __getattr__(self, name):
        return getattr(self._get(), name)

    def __setattr__(self, name, value):
        setattr(self._get(), name, value)

    def __delattr__(self, name):
        delattr(self._get(), name)

    def __call__(self, *args, **kwargs):
        return self._get()(*args, **kwargs)


def __getattr__(name: str) -> _Lazy:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Lazy(*_PLACES.get(name, (f"common.{name}", None)))
