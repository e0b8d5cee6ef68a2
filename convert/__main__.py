"""Models of other code bases as exported models of this one.

    python -m convert ~/bmshj2018-hyperprior-4-1234abcd.pth.tar --output models/bmshj2018-4
    python -m convert ~/shallow-ntc/two_layer_syn/rd_lambda=0.08 --output models/two_layer
    python -m convert --list

What comes out is like any model here: codec, evaluate and itinf take its folder with --model, and
training with train.warm_start. Weights keep the terms of those who published them.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import textwrap

import convert
from common import file_jobs
from common.cli import report
from common.errors import UserError


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m convert", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT",
                        help="a file of PyTorch; of TensorFlow a file, its name without .index, "
                        "or the folder it lies in")
    parser.add_argument("--output", "-o", metavar="FOLDER", help="of the model, new")
    parser.add_argument("--rd_lambda", type=float, metavar="LAMBDA",
                        help="it was trained with, of bpp + LAMBDA * MSE on 0 to 255; needed where "
                        "neither file nor name says so")
    parser.add_argument("--force", action="store_true", help="replace a model in FOLDER")
    parser.add_argument("--list", action="store_true", help="what can be imported, and as what")
    args = parser.parse_args(argv)
    if not args.list and not (args.checkpoint and args.output):
        parser.error("CHECKPOINT and --output are needed (or --list)")
    return args


@report
def main(argv: list[str]) -> None:
    """The command; see the module."""
    args = _parse(argv)
    if args.list:
        print(_listing())
        return
    source, output = pathlib.Path(args.checkpoint).expanduser(), file_jobs.to_path(args.output)
    if output.exists() and not (args.force and (output / "fingerprint").is_file()):
        raise UserError(f"{output} exists" + (
            "; --force replaces models only" if args.force else "; --force replaces a model"))
    imported = convert.read(source)
    if args.rd_lambda is not None:
        imported.rd_lambda = args.rd_lambda
    if imported.rd_lambda is None:
        raise UserError(f"{source}: {imported.name} does not say which lambda it was trained with: "
                        "give --rd_lambda")
    fingerprint = convert.save(imported, source, output)
    print(f"{imported.name}, as {imported.package}.{imported.module}: {output}\n"
          f"fingerprint {fingerprint}")


def _listing() -> str:
    rows = []
    for code, models, becomes, where in convert.KNOWN:
        rows += [code, *(textwrap.fill(f"{label:<8}{text}", 96, initial_indent="  ",
                                       subsequent_indent=" " * 10)
                         for label, text in (("models", models), ("become", becomes),
                                             ("files", where)))]
    return "\n".join(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
