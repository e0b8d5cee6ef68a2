"""Objects whose class and arguments a config names."""

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from common.cli import UserError


def check(what: str, cls: Callable, *given, **arguments) -> None:
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
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {close[0]}?" if close else takes
        raise UserError(f"{what}: it takes no {', '.join(unknown)}; {hint}")
    missing = [p.name for p in parameters
               if p.name in known and p.default is p.empty and p.name not in arguments]
    if missing:
        raise UserError(f"{what}: it needs {', '.join(missing)}, which the config does not have; "
                        f"{takes}")


def construct(what: str, cls: Callable, *given, **arguments) -> Any:
    """`cls(*given, **arguments)`; arguments as of `check`.

    Raises:
      UserError: it does not take these arguments, or not these values.
    """
    check(what, cls, *given, **arguments)
    try:
        return cls(*given, **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"{what}: {error}") from error
