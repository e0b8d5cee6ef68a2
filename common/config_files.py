"""Config files: Python modules with get_config() and, to be launched, get_hyper(), their sweep."""

import contextlib
import dataclasses
import importlib.util
import inspect
import os
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import config_dict

from common.errors import UserError


@dataclasses.dataclass(frozen=True)
class ConfigFile:
    """The names that a config file defines.

    Attributes:
      path: of the file.
      names: of its module: get_config, get_hyper, perhaps get_runname, TITLE and PAPER.
    """

    path: str
    names: Mapping[str, Any]

    def get_config(self, recipe: str = "") -> config_dict.ConfigDict:
        """The config, locked.

        Args:
          recipe: argument of the file's get_config(): of training a recipe, of refinement a
            method. "" for the file's own.

        Raises:
          UserError: the file has no get_config(), or one that takes no recipe, or it is wrong.
        """
        if "get_config" not in self.names:
            raise UserError(f"{self.path} has no get_config(), so it is not a config file; see the "
                            "folders <package>/configs")
        if recipe and not inspect.signature(self.names["get_config"]).parameters:
            raise UserError(f"{self.path}:{recipe}: its get_config() takes no recipe or method; "
                            f"leave out ':{recipe}'")
        with _mistakes_in(self.path):
            return self.names["get_config"](*[recipe][:bool(recipe)]).lock()

    def get_hyper(self) -> list[dict[str, Any]]:
        """The sweep. Raises UserError if there is none, or it is wrong."""
        if "get_hyper" not in self.names:
            raise UserError(f"{self.path} has no get_hyper(), a list of overrides with an entry "
                            "for each run: [{'train.rd_lambda': 0.01}, ...]")
        with _mistakes_in(self.path):
            return self.names["get_hyper"]()

    def runname(self, config: config_dict.ConfigDict) -> str | None:
        """The name that the file's get_runname() gives a run; None without one."""
        if "get_runname" not in self.names:
            return None
        with _mistakes_in(self.path):
            return self.names["get_runname"](config)


def load(path: str) -> ConfigFile:
    """Imports a config file by its path. Raises UserError if there is none, or it is wrong."""
    if not os.path.isfile(path):
        raise UserError(f"no config file {path}; see the folders <package>/configs")
    spec = importlib.util.spec_from_file_location("config_module", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a config file, which ends in .py")
    module = importlib.util.module_from_spec(spec)
    with _mistakes_in(path):
        spec.loader.exec_module(module)
    return ConfigFile(path, vars(module))


@contextlib.contextmanager
def _mistakes_in(path: str) -> Iterator[None]:
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
