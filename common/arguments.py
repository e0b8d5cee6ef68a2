"""Objects whose class and arguments a config names."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from common.errors import UserError


def build(what: str, known: Mapping[str, Callable], config: Mapping, *given: Any) -> Any:
    """Builds what a config names: its `cls`, one of `known`, with the other entries as arguments.

    Args:
      what: it is to the user: "schedule".
      known: classes or functions by name.
      config: dict(cls="WarmupDrop", drop_at=0.8).
      *given: first arguments, which no config names.

    Raises:
      UserError: there is none of this name, or it does not take these arguments.
    """
    arguments = dict(config)
    name = arguments.pop("cls", None)
    if name not in known:
        raise unknown(what, name, known)
    return construct(f"{what} {name}", known[name], *given, **arguments)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that a mistyped one is most like; None if none is near."""
    return next(iter(difflib.get_close_matches(name, [*known], 1)), None)


def unknown(what: str, name: str | None, known: Iterable[str]) -> UserError:
    """The error for an unknown name.

    It suggests the nearest known name, and lists all if they are few or none is near.
    """
    known = [*known]
    close = nearest(str(name), known)
    hints = [f"did you mean '{close}'?"] if close else []
    if not hints or len(known) < 10:
        hints.insert(0, f"known: {', '.join(known)}")
    return UserError(f"unknown {what} '{name}'; {'; '.join(hints)}")


def check(what: str, cls: Callable, *given: Any, **arguments: Any) -> None:
    """Raises UserError, which begins with `what`, unless `cls` takes these arguments.

    Args:
      what: it is to the user: "schedule WarmupDrop".
      cls: a class or function.
      *given: its first arguments, which no config names.
      **arguments: the others, from a config.
    """
    parameters = [*inspect.signature(cls).parameters.values()][len(given):]
    known = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    unknown = [name for name in arguments if name not in known]
    takes = f"it takes {', '.join(known)}" if known else "it takes none"
    if unknown and not any(p.kind == p.VAR_KEYWORD for p in parameters):
        close = nearest(unknown[0], known)
        hint = f"did you mean {close}?" if close else takes
        raise UserError(f"{what}: it takes no {', '.join(unknown)}; {hint}")
    missing = [p.name for p in parameters
               if p.name in known and p.default is p.empty and p.name not in arguments]
    if missing:
        raise UserError(f"{what}: it needs {', '.join(missing)}, which the config does not have; "
                        f"{takes}")


def construct(what: str, cls: Callable, *given: Any, **arguments: Any) -> Any:
    """`cls(*given, **arguments)`; arguments as of `check`.

    Raises:
      UserError: it does not take these arguments, or not these values.
    """
    check(what, cls, *given, **arguments)
    try:
        return cls(*given, **arguments)
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{name}={value}" for name, value in arguments.items())
        raise UserError(f"{what}: {error} (with {given or 'no arguments'})") from error
