"""Overrides of a config on the command line: --config.train.num_steps=1000."""

import ast
import collections
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ml_collections import config_dict

from common import arguments
from common.errors import UserError

_OVERRIDE = re.compile(r"--?(no)?config\.([^=]*)(?:=(.*))?", re.DOTALL)


def take(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Takes --config.<key>=<value>, --config.<key> <value> and --noconfig.<key> from `argv`.

    Returns:
      The other arguments, and (key, value) of each in their order; the value is None if none was
      given, as for keys that are true or false.
    """
    rest, overrides, left = [], [], collections.deque(argv)
    while left:
        argument = left.popleft()
        match = _OVERRIDE.fullmatch(argument)
        if not match:
            rest.append(argument)
            continue
        no, key, value = match.groups()
        if no:
            value = "False"
        elif value is None and left and not left[0].startswith("--"):
            value = left.popleft()
        overrides.append((key, value))
    return rest, overrides


def apply_all(config: config_dict.ConfigDict, given: Iterable[tuple[str, str | None]]) -> None:
    """Sets all entries that `take` returned, as `apply` does."""
    for key, text in given:
        apply(config, key, text)


def apply(config: config_dict.ConfigDict, key: str, text: str | None) -> None:
    """Sets an entry of a config as the command line says.

    Args:
      config: the config.
      key: "train.num_steps".
      text: of the value; None for True.

    Raises:
      UserError: the config has no such entry, or it takes no such value.
    """
    flag = f"--config.{key}" + ("" if text is None else f"={text}")
    *sections, name = key.split(".")
    section = config
    for i, each in enumerate(sections):
        section = section.get(each) if each in section else None
        if not isinstance(section, config_dict.ConfigDict):
            raise _no_such(config, key, ".".join(sections[:i + 1]))
    if name not in section:
        raise _no_such(config, key, key)
    kind = section.get_type(name)
    if issubclass(kind, config_dict.ConfigDict):
        known = ", ".join(f"{key}.{each}" for each in section[name])
        raise UserError(f"{flag}: {key} is a section of the config; give an entry of it: {known}")
    if kind not in _KINDS:
        raise UserError(f"{flag}: {key} is a {kind.__name__}, which is set in the config file only")
    described, parse = _KINDS[kind]
    if text is None and kind is not bool:
        raise UserError(f"{flag}: need {described} for it, as --config.{key}=<value>")
    try:
        section[name] = True if text is None else parse(text)
    except (ValueError, TypeError, SyntaxError, KeyError):
        raise UserError(f"{flag}: need {described}") from None


def _no_such(config, key, wrong):
    known = [*flat(config.to_dict())]
    close = arguments.nearest(key, known) or arguments.nearest(
        key.rpartition(".")[2], [each.rpartition(".")[2] for each in known])
    meant = [each for each in known if each == close or each.endswith(f".{close}")]
    hint = f"did you mean {' or '.join(meant)}?" if meant else (
        f"it has {', '.join(config)}")
    return UserError(f"--config.{key}: the config has no key {wrong}; {hint}")


def _parse_tuple(text):
    value = ast.literal_eval(text)
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _parse_bool(text):
    return {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}[
        text.lower()]


# What entries of a config can be: in words, and the function that reads it.
_KINDS: dict[type, tuple[str, Callable[[str], Any]]] = {
    int: ("a whole number", int),
    float: ("a number", float),
    str: ("a text", str),
    bool: ("true or false", _parse_bool),
    tuple: ("several values in brackets, as '(1, 2)'", _parse_tuple),
}




def flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    """The entries of a config by their keys, such as "train.num_steps"."""
    entries = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            entries |= flat(value, f"{prefix}{key}.")
        else:
            entries[prefix + key] = value
    return entries
