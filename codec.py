"""Real files: compress | decompress | info | benchmark | inspect.

    python -m codec compress photo.png [photo.ntc]
    python -m codec compress --quality 70 photo.png
    python -m codec compress --max_bytes 200000 folder -o small
    python -m codec compress --refine sga photo.png
    python -m codec compress --model joint_ar photo.png
    convert photo.tif png:- | python -m codec compress - > photo.ntc
    python -m codec decompress photo.ntc [photo.decoded.png]
    python -m codec decompress photo.ntc photo.npz
    python -m codec info photo.ntc
    python -m codec benchmark --dataset kodak
    python -m codec inspect photo.png [figure.png]
    python -m codec inspect --filters [photo.png ...] [filters.png]

The model is `zoo.DEFAULT` unless `--model` names another. Several inputs, or folders, may be
given at once: the model is loaded once. Where outputs go is said in common/file_jobs.py; `-` is
standard input, or as an output standard output.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import resource
import sys
from collections.abc import Callable

import numpy as np

import ntc
from common import export, file_jobs, images, methods, peek, result_tables, zoo
from common import image_formats as formats
from common import precision as precisions
from common.cli import advising, printable, report
from common.container import SUFFIX, Container
from common.errors import NotInZoo, OutOfReach, UserError
from common.files import replacing
from common.lazy import (
    Codec,
    Latents,
    coding,
    data,
    filters,
    inspection,
    metrics,
    refinement,
    targets,
)

# Of files with latents.
LATENTS = ".npz"


def load_encoder(args: argparse.Namespace
                 ) -> tuple[Codec, Callable[[Codec, np.ndarray, int | None], Latents]]:
    """The model, and where latents come from, as arguments of `REFINEMENT` and --model ask for.

    Raises:
      UserError: there is no such model or method.
    """
    if not args.refine:
        if args.refine_steps is not None or args.refine_lambda is not None:
            raise UserError("--refine_steps and --refine_lambda need --refine METHOD")
        return zoo.load(args.model, args.precision), coding.infer
    method = methods.method(args.refine)
    if args.refine_steps is not None:
        method.num_steps = args.refine_steps
    model = zoo.load(args.model, args.precision)
    objective = refinement.objective(export.find(args.model), rd_lambda=args.refine_lambda)
    return model, refinement.Refiner(model, method, objective).infer


def compress(args: argparse.Namespace) -> None:
    """Image files to .ntc files."""
    target = _target(args)
    planned = file_jobs.plan(args, formats.SUFFIXES, SUFFIX, outputs=(SUFFIX,))
    if export.read_module(export.find(args.model)) == zoo.BITS_BACK:
        raise UserError(f"{args.model} is a bits-back model: code with `chain`, not `codec`")
    model, to_latents = load_encoder(args)
    if target:
        targets.require_levels(model, str(target))  # before the first file is read

    def compress_one(source, output):
        image = file_jobs.read_image(source, args.max_pixels)
        with advising(OutOfReach, "--closest takes that"):
            coded = targets.compress(model, image, target, closest=args.closest,
                                     to_latents=to_latents, max_pixels=args.max_pixels)
        file_jobs.write(output, coded.ntc)
        pixels = image.shape[0] * image.shape[1]
        reached = [f"{len(coded.ntc)} bytes", f"{8 * len(coded.ntc) / pixels:.4f} bpp"]
        if coded.level is not None and model.levels:
            reached.append(f"quality {model.levels.quality(coded.level):g}")
        if target and target.kind == "psnr":
            reached.append(f"{coded.psnr:.2f} dB")
        return f"{file_jobs.shown(output)}: {', '.join(reached)}"

    file_jobs.run(planned, compress_one)


def _target(args) -> targets.Target | None:
    target = targets.only(**{kind: getattr(args, kind) for kind in targets.KINDS})
    if args.closest and (not target or target.kind == "quality"):
        raise UserError("--closest is for --bpp, --max_bytes and --psnr, which may be out of reach")
    return target


def decompress(args: argparse.Namespace) -> None:
    """.ntc files to image files, or, to a name that ends in .npz, to their latents."""
    def is_original(target, named):
        return not named and target.with_suffix(SUFFIX).exists()

    planned = file_jobs.plan(args, (SUFFIX,), ".decoded.png", (*formats.WRITTEN, LATENTS),
                             is_original)
    load = functools.cache(zoo.load)

    def decompress_one(source, target):
        file = file_jobs.read(source)
        to_latents = target.suffix.lower() == LATENTS
        if not file_jobs.is_pipe(target) and not to_latents:
            fields = Container.unpack(file, args.max_pixels)
            images.check_size(target, fields.height, fields.width)
        model = load(args.model, args.precision) if args.model else None
        with advising(NotInZoo, "name the model with --model"):
            if to_latents:
                return _write_latents(target, ntc.decode(file, model, args.max_pixels))
            image = ntc.decompress(file, model, args.max_pixels, args.precision)
        file_jobs.write_image(target, image)
        return f"{file_jobs.shown(target)}: {image.shape[1]} x {image.shape[0]}"

    file_jobs.run(planned, decompress_one)


def _write_latents(target, decoded):
    """Writes what `np.load` reads: every latent, as `common.coding.Decoded` has it."""
    latents = {name: np.asarray(value) for name, value in decoded.latents.items()}
    with replacing(target) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **latents)
    shapes = (f"{name} {' x '.join(map(str, value.shape))}" for name, value in latents.items())
    return f"{file_jobs.shown(target)}: {', '.join(shapes)}"


def info(args: argparse.Namespace) -> None:
    """Prints what a .ntc file says of itself."""
    def describe(source, _):
        file = file_jobs.read(source)
        fields = Container.unpack(file, args.max_pixels)
        name = args.model or zoo.released(fields.fingerprint)
        at = ""
        if name:
            path = export.find(name)
            if not export.fingerprint(path).startswith(fields.fingerprint):
                raise UserError(f"written by model {fields.fingerprint}, not by {name}")
            levels = export.read_levels(path)
            if levels:
                at = f", level {peek.read_level(path, fields)} of 0 to {levels['count'] - 1}"
        return (f"{file_jobs.shown(source, 'standard input')}: {fields.width} x {fields.height}, "
                f"{len(file)} bytes ({8 * len(file) / fields.width / fields.height:.4f} bpp), "
                f"stream of {len(fields.stream)} bytes, model {fields.fingerprint} "
                f"({name or 'not in the zoo'}){at}")

    found, failed = file_jobs.expand(args.paths, (SUFFIX,), formats.SUFFIXES, args.recursive)
    file_jobs.run(file_jobs.Jobs([(path, None) for path, _ in found], failed), describe)


def benchmark(args: argparse.Namespace) -> None:
    """Rate, distortion and seconds of every image of a data set, and their means."""
    model = zoo.load(args.model, args.precision)
    level = targets.level(model, args.quality)
    rows = [row for row, _ in coding.measure_all(model, data.find(args.dataset), level=level)]
    rows.append(result_tables.mean_row(rows))
    print(result_tables.render(rows, columns=(
        "image", "bytes", "bpp", "estimated_bpp", "integer_bpp", *metrics.METRICS,
        *sorted(key for key in rows[0] if "_time" in key))))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB -> GiB
    cost = rows[-1]["integer_bpp"] / rows[-1]["estimated_bpp"] - 1
    print(f"the integer networks' rate differs from the float networks' by {cost:+.4%}")
    print(f"peak memory {peak:.2f} GiB, model {model.exported[1][:8]}, "
          f"transforms in {model.precision}")
    if args.output:
        result_tables.save(args.output, rows, model=args.model, fingerprint=model.fingerprint,
                           dataset=args.dataset, peak_memory_gib=peak,
                           precision=model.precision, level=level)
        print(f"written: {args.output}.json, {args.output}.csv")


def inspect(args: argparse.Namespace) -> None:
    """Figures of what a model makes of images: its latents, and where the bits go."""
    if args.filters:
        _inspect_filters(args)
        return
    if not args.paths:
        raise UserError("name the photographs to inspect, or ask for --filters")
    planned = file_jobs.plan(
        args, formats.SUFFIXES, ".inspect.png", inspection.SUFFIXES,
        lambda target, named: inspection.is_photograph(target), pipes=False)
    model = zoo.load(args.model)
    level = targets.level(model, args.quality)

    def inspect_one(source, target):
        image = file_jobs.read_image(source, args.max_pixels)
        inspected = inspection.inspect(model, image, args.max_pixels, level)
        at = ""
        if model.levels and level is not None:
            at = f", quality {model.levels.quality(level):g}"
        title = printable(f"{source.name}, {args.model}{at}")
        inspection.draw(target, inspected, title)
        return str(target)

    file_jobs.run(planned, inspect_one)


def _inspect_filters(args):
    """One figure of what each channel adds to an image, channels as some photographs use them."""
    *photos, output = args.paths + [args.output or "filters.png"] * (
        not args.paths or args.output is not None)
    folder = file_jobs.is_folder(output)
    target = pathlib.Path(output, "filters.png") if folder else file_jobs.to_path(output)
    if target.suffix.lower() not in inspection.SUFFIXES:
        raise UserError(f"{target}: the last path is the figure; its name should end in one of "
                        f"{' '.join(inspection.SUFFIXES)}")
    sources, failed = file_jobs.expand(
        photos, formats.SUFFIXES, inspection.SUFFIXES, args.recursive)
    free = file_jobs.check_free([target], [source for source, _ in sources], args.force,
                                inspection.is_photograph, named=not folder)
    if failed or not free:
        sys.exit(2)
    model = zoo.load(args.model)
    level = targets.level(model, args.quality)
    uses = [filters.measure_channels(model, file_jobs.read_image(source, args.max_pixels), level)
            for source, _ in sources]
    target.parent.mkdir(parents=True, exist_ok=True)
    filters.draw(target, model, printable(args.model), uses, level)
    print(target)


def precision_option(default: str) -> argparse.ArgumentParser:
    """The argument of commands that run a model's transforms."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--precision", choices=precisions.CHOICES, default=default,
                        help="of the transforms; auto is bfloat16 where the device has it in "
                        "hardware, and float32 elsewhere (default: %(default)s)")
    return parser


# Arguments of commands that encode.
REFINEMENT = argparse.ArgumentParser(add_help=False)
REFINEMENT.add_argument("--refine", metavar="METHOD", help="optimise the latents of each image "
                        f"before coding, which takes long; one of: {', '.join(methods.METHODS)}")
REFINEMENT.add_argument("--refine_steps", "--refine-steps", type=int, metavar="N",
                        help="for so many steps (default: the method's)")
REFINEMENT.add_argument("--refine_lambda", "--refine-lambda", type=float, metavar="X",
                        help="for the loss bpp + X * distortion (default: the model's training)")


def quality_option() -> argparse.ArgumentParser:
    """The argument of commands that take a model with levels at one of them."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--quality", type=float, metavar="Q", help="of a model with levels: 0 "
                        "(smallest files) to 100 (default: 50)")
    return parser


def _add_targets(command: argparse.ArgumentParser) -> None:
    """The dials of `compress`."""
    group = command.add_argument_group(
        "dials", "what files of a model with levels should be: at most one of these")
    group = group.add_mutually_exclusive_group()
    group.add_argument("--quality", type=float, metavar="Q",
                       help="0 (smallest files) to 100 (default: 50)")
    group.add_argument("--bpp", type=float, metavar="R",
                       help="the best file of at most R bits per pixel")
    group.add_argument("--max_bytes", "--max-bytes", type=float, metavar="N",
                       help="the best file of at most N bytes")
    group.add_argument("--psnr", type=float, metavar="D",
                       help="the smallest file with a PSNR of at least D dB")
    command.add_argument("--closest", action="store_true",
                         help="if that is out of reach, the file that comes closest")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m codec", description="Learned image compression: files.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    model_help = ("folder of an exported model, of a run or of an experiment with one run, or a "
                  "name of the zoo (default: {})")
    encoder_help = model_help.format(zoo.DEFAULT)
    decoder_help = model_help.format("the zoo's, by fingerprint")

    def files(nargs="+", max_pixels=images.MAX_PIXELS, outputs=", the last of several is the "
              "output, unless it is a file, or its name ends as that of an input"):
        parser = argparse.ArgumentParser(add_help=False)
        parser.add_argument("paths", nargs=nargs, metavar="PATH", help="files and folders, - is "
                            "standard input" + outputs)
        parser.add_argument("-r", "--recursive", action="store_true", help="take what folders "
                            "within folders have, and keep their structure below an output folder")
        parser.add_argument("--max_pixels", type=int, default=max_pixels, metavar="N",
                            help="refuse larger images (default: %(default)s)")
        return parser

    def outputs(new_suffix, force="replace earlier outputs, but never an input"):
        parser = argparse.ArgumentParser(add_help=False)
        file_jobs.add_output(parser, f"beside each input, NAME{new_suffix}")
        parser.add_argument("--force", action="store_true", help=force)
        return parser

    command = commands.add_parser(
        "compress", parents=[files(), outputs(SUFFIX), REFINEMENT, precision_option("auto")],
        help=compress.__doc__)
    command.add_argument("--model", default=zoo.DEFAULT, help=encoder_help)
    _add_targets(command)
    command.set_defaults(command=compress)
    command = commands.add_parser(
        "decompress", help=decompress.__doc__, parents=[
            files(), precision_option("auto"), outputs(
                ".decoded.png", "replace earlier outputs, or the file that is named as the output, "
                "but never the original beside a .ntc file")])
    command.add_argument("--model", help=decoder_help)
    command.set_defaults(command=decompress)
    command = commands.add_parser("info", parents=[files(outputs="")], help=info.__doc__)
    command.add_argument("--model", help=decoder_help)
    command.set_defaults(command=info)
    command = commands.add_parser(
        "benchmark", parents=[precision_option("float32"), quality_option()],
        help=benchmark.__doc__)
    command.add_argument("--model", default=zoo.DEFAULT, help=encoder_help)
    command.add_argument("--dataset", default="photos/validation",
                         help="name of a data set, folder or glob (default: %(default)s)")
    command.add_argument("-o", "--output", help="write OUTPUT.json and OUTPUT.csv")
    command.set_defaults(command=benchmark)
    command = commands.add_parser(
        "inspect", parents=[
            files("*", images.MAX_WHOLE_PIXELS), outputs(".inspect.png"), quality_option()],
        help=inspect.__doc__)
    command.add_argument("--model", default=zoo.DEFAULT, help=encoder_help)
    command.add_argument("--filters", action="store_true", help="draw what each channel of y adds "
                         "to an image; the last path is the figure (default: filters.png), those "
                         "before are photographs, by whose rates the channels are sorted")
    command.set_defaults(command=inspect)
    return parser.parse_args(argv)


@report
def main(argv: list[str]) -> None:
    """The command line."""
    args = _parse(argv)
    args.command(args)


if __name__ == "__main__":
    main(sys.argv[1:])
