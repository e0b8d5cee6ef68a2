"""Jobs of commands on files: inputs and outputs by one rule, and a line about each.

It is a part of their command lines, and speaks of their options.

Inputs are files and folders. The output is what --output names. Without it, the last of several
paths is the output, unless it is a file, or missing with an input's suffix; of two paths, the
second always is if it has an output's suffix. As an output, `-` is standard output; a folder is one
that exists, or a name without a suffix or with a slash at its end, and is made if missing; all else
is a file. If there is no output, files are written beside their inputs.
"""

import argparse
import collections
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tqdm

from common import images
from common.errors import UserError
from common.files import is_stream, replacing

# As an input standard input, as an output standard output.
PIPE = pathlib.Path("-")

RULE = ("- is standard output; a folder is one that exists, or a name without a suffix or with a / "
        "at its end, and is made if missing; all else is a file")


class Jobs(NamedTuple):
    """The files that a command has to process.

    Attributes:
      pairs: input and output of each.
      failed: how many inputs were refused, each with a line that said so.
      folder: whether outputs go to a folder that may have to be made.
    """

    pairs: list[tuple[pathlib.Path, pathlib.Path | None]]
    failed: int = 0
    folder: bool = False


def add_output(parser: argparse.ArgumentParser, default: str, **settings: Any) -> None:
    """The argument that names the output; `default` says where outputs go without."""
    parser.add_argument("-o", "--output", metavar="OUTPUT",
                        help=f"{RULE} (default: {default})", **settings)
    # As it was called when it was always a folder.
    parser.add_argument("--output_dir", "--output-dir", dest="output", help=argparse.SUPPRESS,
                        type=lambda name: os.path.join(name, ""), default=argparse.SUPPRESS)


def is_pipe(path: pathlib.Path) -> bool:
    """Whether `path` is standard input or output, a pipe or a device, by whatever name."""
    return path == PIPE or is_stream(path)


def plan(args: argparse.Namespace, suffixes: Sequence[str], new_suffix: str,
         outputs: Sequence[str],
         is_input: Callable[[pathlib.Path, bool], bool] = lambda target, named: False,
         pipes: bool = True) -> Jobs:
    """The jobs that the paths of a command line ask for. If none can be done, the program ends.

    What would overwrite something, and inputs that would share an output, are refused with a line;
    the others are done.

    Args:
      args: of the command line: paths, output, recursive and force.
      suffixes: of the files that are taken from folders.
      new_suffix: replaces the suffix of an input in the name of its output.
      outputs: the suffixes that outputs may have.
      is_input: (an output that exists, whether the user named it) -> whether it may be an input of
        another time, which not even --force overwrites.
      pipes: whether - is standard input and output.

    Raises:
      UserError: the paths do not go together.
    """
    names, output = _split(args, suffixes, outputs)
    if "-" in (*names, output):
        _check_pipes(names, output, outputs, pipes)
    folder = output is not None and is_folder(output)
    found, failed = expand(names, suffixes, outputs, args.recursive)
    if output is None:
        pairs = [(path, path if path == PIPE else path.with_name(path.stem + new_suffix))
                 for path, _ in found]
    elif folder:
        pairs = [(path, pathlib.Path(output, place.parent, place.stem + new_suffix))
                 for path, place in found]
    else:
        target = to_path(output)
        if _suffix(output) not in outputs and not (pipes and is_pipe(target)):
            raise UserError(f"{output}: the name of an output ends in one of {' '.join(outputs)}, "
                            "or in / if it is a folder")
        if len(found) + failed > 1:
            raise UserError(f"{output} is one output, of {len(found) + failed} inputs; name a "
                            f"folder, as {os.path.splitext(output)[0]}/")
        pairs = [(path, target) for path, _ in found]
    named = output is not None and not folder
    free = _without_conflicts(pairs)
    targets = check_free([target for _, target in free], [path for path, _ in found], args.force,
                         lambda target: is_input(target, named), named)
    free = [(source, target) for source, target in free if target in targets]
    if not free:
        sys.exit(2)
    return Jobs(free, failed + len(pairs) - len(free), folder)


def _split(args, suffixes, outputs) -> tuple[list[str], str | None]:
    """The inputs, and the output if one is named.

    The last of several paths is the output if it is a folder, as of `cp`, or a pipe, or if there is
    nothing of that name and its suffix is not that of an input. Of two paths, the second is the
    output if it has the suffix of one.
    """
    *names, last = args.paths
    if args.output is not None or not names:
        return args.paths, args.output
    path, suffix = to_path(last), _suffix(last)
    if os.path.isdir(path):
        if images.sift(_inside(path, args.recursive, []), tuple(suffixes))[0]:
            print(f"{path} is where outputs go; what is in it is left out", file=sys.stderr)
        return names, last
    if (is_pipe(path) or len(names) == 1 and suffix in outputs
            or not os.path.lexists(path) and suffix not in suffixes):
        return names, last
    return args.paths, None


def _check_pipes(names, output, outputs, pipes):
    if not pipes:
        raise UserError("- is standard input and output of other commands; name files, or ./- if "
                        "that is the name of one")
    if len(names) > 1 or "-" in names and output is not None and is_folder(output):
        raise UserError("- is standard input, or as the second of two paths standard output; it "
                        f"goes with one output ({' '.join(outputs)}), and no --output")


def is_folder(output: str) -> bool:
    """Whether an output is a folder, by the rule above. Raises UserError if its name is empty."""
    if is_pipe(to_path(output)):
        return False
    return os.path.isdir(output) or not _suffix(output) and not os.path.lexists(output)


def to_path(name: str) -> pathlib.Path:
    """The path of an argument; `-` is `PIPE`, and `./-` a file. Raises UserError if it is empty."""
    if not name:
        raise UserError("the name of a file or a folder is empty")
    path = pathlib.Path(name)
    return path.absolute() if path == PIPE and name != "-" else path


def _suffix(name) -> str:
    return "" if str(name).endswith(os.sep) else pathlib.Path(name).suffix.lower()


def expand(names: Iterable[str], suffixes: Sequence[str], outputs: Sequence[str], recursive: bool
           ) -> tuple[list[tuple[pathlib.Path, pathlib.Path]], int]:
    """Files, and for each its place below the folder that was named; how many names failed.

    What is left out of a folder is printed, except for what the command itself writes there.

    Args:
      names: files and folders.
      suffixes: of files that are taken from folders.
      outputs: suffixes of files that are left out without a word.
      recursive: whether folders within folders are taken.
    """
    found, failed = {}, 0
    for name in names:
        top = to_path(name)
        if top == PIPE or not os.path.isdir(top):
            found.setdefault(os.path.abspath(top), (top, pathlib.Path(top.name)))
            continue
        errors = []
        inside = [path for path in _inside(top, recursive, errors)
                  if _suffix(path) in suffixes or _suffix(path) not in outputs]
        taken, left = images.sift(inside, tuple(suffixes))
        for error in errors:
            complain(f"{error.filename}: {error.strerror}")
        if not taken and not errors:
            kind = suffixes[0] if len(suffixes) == 1 else "image"
            complain(f"{top}: no {kind} files in this folder" + f", but {left}" * bool(left))
        elif left:
            print(f"left out of {top}: {left}" + "; --recursive takes folders within it" * (
                "folder" in left and not recursive), file=sys.stderr)
        failed += len(errors) or not taken
        for path in taken:
            found.setdefault(os.path.abspath(path), (path, path.relative_to(top)))
    return [*found.values()], failed


def _inside(folder, recursive, errors) -> list[pathlib.Path]:
    """Entries of a folder, sorted, but pipes and devices; folders in it only if not recursive."""
    inside = []
    for parent, folders, names in os.walk(folder, onerror=errors.append):
        folders.sort()
        visited = [name for name in folders
                   if recursive and not os.path.islink(os.path.join(parent, name))]
        paths = [pathlib.Path(parent, name) for name in sorted({*names, *folders} - {*visited})]
        inside += [path for path in paths if not is_stream(path)]
        if not recursive:
            break
    return inside


def _without_conflicts(pairs):
    """The pairs but those with one output for several inputs, of which it says so."""
    sources = collections.defaultdict(list)
    for source, target in pairs:
        sources[os.path.realpath(target)].append(source)
    free = []
    for source, target in pairs:
        shared = sources[os.path.realpath(target)]
        if len(shared) == 1:
            free.append((source, target))
        elif source == shared[0]:
            complain(f"{', '.join(map(str, shared))}: all would be written to {target}; give them "
                     "one by one, each with --output")
    return free


def check_free(targets: Iterable[pathlib.Path], inputs: Iterable[pathlib.Path], force: bool,
               is_input: Callable[[pathlib.Path], bool] = lambda target: False,
               named: bool = False) -> list[pathlib.Path]:
    """The outputs that may be written; the others are refused with a line.

    Args:
      targets: the outputs.
      inputs: none of these is overwritten.
      force: whether other files may be overwritten.
      is_input: an output that exists -> whether it may be an input of another time.
      named: whether the output was named, so that its folder has to exist.
    """
    free, existing = [], []
    inputs = {os.path.realpath(path) for path in inputs if path != PIPE}
    for target in targets:
        if is_pipe(target):
            free.append(target)
            continue
        try:
            place = pathlib.Path(os.path.realpath(target))
            parent = next(folder for folder in place.parents if named or folder.exists())
            if str(place) in inputs or place.exists() and is_input(target):
                complain(f"{target} is an input, where an output is expected; name the output "
                         "last, or a folder with --output")
            elif place.is_dir():
                complain(f"{target} is a folder, where a file would be written")
            elif place.exists() and not force:
                existing.append(target)
            elif not parent.is_dir():
                complain(f"cannot write {target}: there is no folder {parent}")
            elif not os.access(parent, os.W_OK | os.X_OK):
                complain(f"cannot write {target}: the folder {parent} is not writable")
            else:
                free.append(target)
        except OSError as error:
            complain(f"cannot write {target}: {error.strerror}")
    if len(existing) == 1:
        complain(f"{existing[0]} exists already; --force overwrites it")
    elif existing:
        complain(f"{existing[0]} and {len(existing) - 1} more of the outputs exist already; "
                 "--force overwrites them")
    return free


def run(jobs: Jobs, job: Callable[[pathlib.Path, pathlib.Path | None], str]) -> None:
    """Runs every job and prints what it returns; where one has failed, the others are done.

    Raises:
      SystemExit: with code 2, something failed.
    """
    failed, done = jobs.failed, 0
    out = sys.stderr if any(is_stdout(target) for _, target in jobs.pairs) else sys.stdout
    for source, target in tqdm.tqdm(
            jobs.pairs, unit="file", disable=None if len(jobs.pairs) > 1 else True):
        try:
            if jobs.folder:
                target.parent.mkdir(parents=True, exist_ok=True)
            message = job(source, target)
        except (UserError, OSError) as error:
            failed += 1
            name, message = shown(source, "standard input"), str(error)
            if isinstance(error, OSError) and error.filename:
                message = f"{error.filename}: {error.strerror}"
            complain(message if name in message else f"{name}: {message}")
        else:
            done += 1
            tqdm.tqdm.write(message, file=out)
    if failed:
        if done or failed > 1:
            complain(f"{failed} of {done + failed} files failed")
        sys.exit(2)


def is_stdout(target: pathlib.Path | None) -> bool:
    """Whether `target` is where messages would go too."""
    if target is None or target == PIPE:
        return target == PIPE
    try:
        return is_stream(target) and os.path.samestat(os.stat(target), os.fstat(1))
    except OSError:
        return False


def shown(path: pathlib.Path, pipe: str = "standard output") -> str:
    """The name of a path in messages."""
    return pipe if path == PIPE else str(path)


def complain(message: str) -> None:
    """Prints a line about what failed, above a progress bar."""
    tqdm.tqdm.write("error: " + " ".join(message.split()), file=sys.stderr)


def read(path: pathlib.Path) -> bytes:
    """The bytes of a file, or of standard input. Raises UserError."""
    if path == PIPE:
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def read_image(path: pathlib.Path, max_pixels: int) -> np.ndarray:
    """Reads an image as `images.read`, also from standard input and pipes, which cannot seek."""
    return images.read(read(path) if is_pipe(path) else path, max_pixels)


def write(path: pathlib.Path, content: bytes) -> None:
    """Writes a file whole, or to standard output. Raises UserError."""
    if path == PIPE:
        try:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        except OSError as error:
            # Or Python tries again when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise UserError(f"standard output: {error.strerror}") from None
        return
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_image(path: pathlib.Path, image: np.ndarray) -> None:
    """Writes an image as `images.write`, also to standard output, pipes, devices: those as PNG."""
    if is_pipe(path):
        write(path, images.to_png(image))
    else:
        images.write(path, image)
