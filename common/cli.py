"""Shared parts of the command-line programs: one clear line for a user's mistake, exit code 2."""

import argparse
import contextlib
import errno
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from logging import basicConfig
from typing import Any

from absl import app, flags, logging

from common import arguments, lazy
from common.errors import UserError

# Of commands: TensorFlow, which they import later, reads this then, and is silent about missing
# accelerators from level 3 on.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
lazy.freeze_tensorflow = True


def report(main: Callable[..., None]) -> Callable[..., None]:
    """Wraps `main` so that a `UserError` or `OSError` is one line on stderr and exit code 2.

    So are errors of TensorFlow's file system. Pillow's warnings are not shown. What a stream
    cannot print, as a byte of a file name that is not UTF-8, it prints as `\\xe4`.
    """

    def wrapped(*args):
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        basicConfig(format="warning: %(message)s")  # unless absl has said how
        # Of what is odd in an image file but does not keep it from being shown.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            main(*args)
            sys.stdout.flush()
        except UserError as error:
            sys.exit(_fail(error))
        except BrokenPipeError:  # whoever reads the output has seen enough, as `head` has
            # Or Python tries again when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as error:  # a full disk, a folder that cannot be written
            sys.exit(_fail(f"{error.filename}: {error.strerror}" if error.filename else error))
        except KeyboardInterrupt:
            sys.exit(130)
        except Exception as error:
            if not _is_of_files(error):
                raise
            sys.exit(_fail(str(error).strip().splitlines()[0]))

    return wrapped


@contextlib.contextmanager
def advising(kind: type[UserError], advice: str) -> Iterator[None]:
    """Adds to errors of a kind what the command's user can do about them."""
    try:
        yield
    except kind as error:
        raise UserError(f"{error}; {advice}") from None


def printable(text: str) -> str:
    """`text` without what is not a character, as bytes of a file name that are not UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def run(main: Callable[[list[str]], None], argv: list[str]) -> None:
    """Runs an absl program: flags are parsed first, and mistakes in them are reported alike.

    Args:
      main: the program.
      argv: the command line.
    """

    def parse(argv):
        if wants_help(argv):
            try:
                return app.parse_flags_with_usage(argv)
            except SystemExit:  # absl calls that a failure
                sys.exit(0)
        try:
            return parse_flags(flags.FLAGS, argv)
        except UserError as error:
            sys.exit(_fail(error))

    logging.set_verbosity(logging.WARNING)
    app.run(report(main), argv, flags_parser=parse)


def add_option(parser: argparse.ArgumentParser, names: Sequence[str], older: Sequence[str],
               **options: Any) -> None:
    """`parser.add_argument` with names of which the older ones are understood, but not shown."""
    parser.add_argument(*names, *older, **options).option_strings = [*names]


def parse_flags(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """The rest of a command line after absl's `values` have taken theirs.

    Raises:
      UserError: a mistake in the flags.
    """
    try:
        return values(argv)
    except flags.IllegalFlagValueError as error:
        raise UserError(re.sub(r"invalid literal for int\(\).*", "need a whole number", str(error))
                        ) from None
    except flags.UnrecognizedFlagError as error:
        close = arguments.nearest(error.flagname, values)
        hint = f"did you mean --{close}?" if close else "see --help"
        raise UserError(f"there is no flag --{error.flagname}; {hint}") from None
    except flags.Error as error:
        raise UserError(str(error)) from None


def _is_of_files(error: Exception) -> bool:
    """Whether TensorFlow's file system raised it: as "<path>; No space left on device".

    TensorFlow, whose import takes seconds, is not imported for this.
    """
    return type(error).__module__.startswith("tensorflow.") and any(
        f"; {os.strerror(number)}" in str(error) for number in errno.errorcode)


def wants_help(argv: list[str]) -> bool:
    """Whether a command line of absl asks for help."""
    return any(arg.lstrip("-") in ("help", "helpfull", "helpshort") for arg in argv[1:])


def _fail(message) -> int:
    print("error: " + " ".join(str(message).split()), file=sys.stderr)
    return 2
