"""Config files: Python modules with get_config() and, to be launched, get_hyper(), their sweep."""

import contextlib
import importlib.util
import inspect
import os
import traceback
import types
from collections.abc import Iterator

from ml_collections import config_dict

from common.errors import UserError


def load(path: str) -> types.ModuleType:
    """Imports a config file by its path. Raises UserError if there is none, or it is wrong."""
    if not os.path.isfile(path):
        raise UserError(f"no config file {path}; see the folders <package>/configs")
    spec = importlib.util.spec_from_file_location("config_module", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a config file, which ends in .py")
    module = importlib.util.module_from_spec(spec)
    with mistakes_in(path):
        spec.loader.exec_module(module)
    return module


def get_config(module: types.ModuleType, path: str, recipe: str) -> config_dict.ConfigDict:
    """The config of a module, locked.

    Args:
      module: as from `load`.
      path: of the file.
      recipe: argument of its get_config(): of training a recipe, of refinement a method. "" for
        the file's own.

    Raises:
      UserError: the module has no get_config(), or one that takes no recipe, or it is wrong.
    """
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} has no get_config(), so it is not a config file; see the folders "
                        "<package>/configs")
    if recipe and not inspect.signature(module.get_config).parameters:
        raise UserError(f"{path}:{recipe}: its get_config() takes no recipe or method; leave out "
                        f"':{recipe}'")
    with mistakes_in(path):
        return module.get_config(*[recipe][:bool(recipe)]).lock()


@contextlib.contextmanager
def mistakes_in(path: str) -> Iterator[None]:
    """Names the line of a config file that raises an error."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
                 if frame.filename == os.path.abspath(path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        raise UserError(f"{path}{f', line {line}' if line else ''}: "
                        f"{type(error).__name__}: {error}") from None
