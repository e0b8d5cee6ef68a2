"""Real files: compress | decompress | info | benchmark | inspect.

    python -m codec compress --model mshyper-small-1 photo.png [photo.ntc]
    python -m codec compress --model mshyper-small-3 --quality 70 photo.png
    python -m codec compress --model mshyper-small-3 --max_bytes 200000 folder --output_dir small
    python -m codec compress --model mshyper-small-3 --refine sga photo.png
    convert photo.tif png:- | python -m codec compress --model mshyper-small-3 - > photo.ntc
    python -m codec decompress photo.ntc [photo.png]
    python -m codec info photo.ntc
    python -m codec benchmark --model mshyper-small-1 --dataset kodak
    python -m codec inspect --model mshyper-small-1 photo.png [figure.png]
    python -m codec inspect --filters --model mshyper-small-1 [photo.png ...] [filters.png]

Several inputs, or folders, may be given at once: the model is loaded once. `-` is standard input,
or as an output standard output.
"""

import argparse
import os
import pathlib
import resource
import sys
from collections.abc import Callable

import numpy as np
import tqdm

from common import coding, data, export, images, inspection, itinf, tables, targets
from common import precision as precisions
from common.cli import UserError, report
from common.container import SUFFIX, Container
from common.files import replacing
from common.levels import DEFAULT_QUALITY
from common.model import Codec, Latents
from factorized.models import FactorizedPrior
from hific.mixture import HiFiCMixture
from hific.models import HiFiC
from joint_ar.models import JointAutoregressive
from mshyper.bits_back import BitsBackHyperprior
from mshyper.models import MeanScaleHyperprior

# As an input standard input, as an output standard output.
PIPE = pathlib.Path("-")

# All classes of codecs, by what exported models say of theirs (`export.read_module`).
CODECS = {
    "factorized.models": FactorizedPrior,
    "mshyper.models": MeanScaleHyperprior,
    "mshyper.bits_back": BitsBackHyperprior,
    "joint_ar.models": JointAutoregressive,
    "hific.models": HiFiC,
    "hific.mixture": HiFiCMixture,
}


def find_class(path: pathlib.Path) -> type[Codec]:
    """The class of the exported model in the folder `path`.

    Raises:
      UserError: there is no model, or this version does not have its class.
    """
    module = export.read_module(path)
    if module not in CODECS:
        raise UserError(f"{path}: its config names the model of '{module}', which this version "
                        "does not have")
    return CODECS[module]


def load_model(name: str, precision: str = "float32") -> Codec:
    """Loads an exported model by its folder, its run's folder, or its name in the zoo.

    Args:
      name: which.
      precision: of its transforms; see common/precision.py. Results in float32 repeat on other
        machines up to their last digits.

    Raises:
      UserError: there is none, or it is damaged.
    """
    path = export.find(name)
    return export.load(find_class(path), path, precisions.choose(precision))


def load_encoder(args: argparse.Namespace
                 ) -> tuple[Codec, Callable[[Codec, np.ndarray, int | None], Latents]]:
    """The model, and where latents come from, as arguments of `REFINEMENT` and --model ask for.

    Raises:
      UserError: there is no such model or method.
    """
    if not args.refine:
        if args.refine_steps is not None or args.refine_lambda is not None:
            raise UserError("--refine_steps and --refine_lambda need --refine METHOD")
        return load_model(args.model, args.precision), coding.infer
    method = itinf.method(args.refine)
    if args.refine_steps is not None:
        method.num_steps = args.refine_steps
    model = load_model(args.model, args.precision)
    objective = itinf.objective(export.find(args.model), rd_lambda=args.refine_lambda)
    return model, itinf.Refiner(model, method, **objective).infer


def compress(args: argparse.Namespace) -> None:
    """Image files to .ntc files."""
    target = _target(args)
    jobs = _jobs(args, images.SUFFIXES, SUFFIX, outputs=(SUFFIX,), pipes=True)
    model, to_latents = load_encoder(args)
    if target:
        targets.require_levels(model, str(target))
    elif model.levels:
        target = targets.Target("quality", DEFAULT_QUALITY)

    def compress_one(source, output):
        image = images.read(read(source) if source == PIPE else source, args.max_pixels)
        if target:
            coded = targets.compress(model, image, target, closest=args.closest,
                                     to_latents=to_latents, max_pixels=args.max_pixels)
        else:
            coded = targets.Coded(coding.compress(model, image, args.max_pixels, to_latents))
        write(output, coded.ntc)
        pixels = image.shape[0] * image.shape[1]
        reached = [f"{len(coded.ntc)} bytes", f"{8 * len(coded.ntc) / pixels:.4f} bpp"]
        if coded.level is not None:
            reached.append(f"quality {model.levels.quality(coded.level):g}")
        if target and target.kind == "psnr":
            reached.append(f"{coded.psnr:.2f} dB")
        return f"{_shown(output)}: {', '.join(reached)}"

    _run(jobs, compress_one)


def _target(args) -> targets.Target | None:
    given = [(kind, getattr(args, kind)) for kind in targets.KINDS
             if getattr(args, kind) is not None]
    if args.closest and (not given or given[0][0] == "quality"):
        raise UserError("--closest is for --bpp, --max_bytes and --psnr, which may be out of reach")
    return targets.Target(*given[0]) if given else None


def decompress(args: argparse.Namespace) -> None:
    """.ntc files to image files."""
    jobs = _jobs(args, (SUFFIX,), ".png", outputs=images.WRITTEN, pipes=True)
    loaded = {}

    def decompress_one(source, target):
        ntc = read(source)
        fingerprint = Container.unpack(ntc, args.max_pixels).fingerprint
        name = args.model or _find_by_fingerprint(fingerprint)
        if name not in loaded:
            loaded[name] = load_model(name, args.precision)
        image = coding.decompress(loaded[name], ntc, args.max_pixels)
        if target == PIPE:
            write(target, images.to_png(image))
        else:
            images.write(target, image)
        return f"{_shown(target)}: {image.shape[1]} x {image.shape[0]}"

    _run(jobs, decompress_one)


def info(args: argparse.Namespace) -> None:
    """What a .ntc file says of itself."""
    def describe(source, _):
        ntc = read(source)
        fields = Container.unpack(ntc, args.max_pixels)
        name = args.model or _released(fields.fingerprint)
        at = ""
        if name:
            path = export.find(name)
            if not export.fingerprint(path).startswith(fields.fingerprint):
                raise UserError(f"written by model {fields.fingerprint}, not by {name}")
            level = coding.read_level(path, fields)
            if level is not None:
                at = f", level {level} of 0 to {export.read_levels(path)['count'] - 1}"
        return (f"{source}: {fields.width} x {fields.height}, {len(ntc)} bytes "
                f"({8 * len(ntc) / fields.width / fields.height:.4f} bpp), stream of "
                f"{len(fields.stream)} bytes, model {fields.fingerprint} "
                f"({name or 'not in the zoo'}){at}")

    _run([(path, None) for path in _expand(args.paths, (SUFFIX,))], describe)


def benchmark(args: argparse.Namespace) -> None:
    """Rate, distortion and seconds of every image of a data set, and their means."""
    model = load_model(args.model, args.precision)
    level = targets.level(model, args.quality)
    rows = [row for row, _ in coding.measure_all(model, data.find(args.dataset), level=level)]
    rows.append(tables.mean_row(rows))
    print(tables.render(rows, columns=(
        "image", "bytes", "bpp", "estimated_bpp", "integer_bpp", "psnr", "ms_ssim",
        *sorted(key for key in rows[0] if "_time" in key))))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB -> GiB
    cost = rows[-1]["integer_bpp"] / rows[-1]["estimated_bpp"] - 1
    print(f"the integer networks' rate differs from the float networks' by {cost:+.4%}")
    print(f"peak memory {peak:.2f} GiB, model {model.fingerprint[:8]}, "
          f"transforms in {model.precision}")
    if args.output:
        tables.save(args.output, rows, model=args.model, fingerprint=model.fingerprint,
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
    # A second image is a figure to be written unless there is a folder for that.
    outputs = () if args.output_dir else inspection.SUFFIXES
    jobs = _jobs(args, images.SUFFIXES, ".inspect.png", outputs, inspection.is_photograph)
    model = load_model(args.model)
    level = targets.level(model, args.quality)

    def inspect_one(source, target):
        image = images.read(source, args.max_pixels)
        inspected = inspection.inspect(model, image, args.max_pixels, level)
        at = "" if level is None else f", quality {model.levels.quality(level):g}"
        inspection.draw(target, inspected, f"{source.name}, {args.model}{at}")
        return str(target)

    _run(jobs, inspect_one)


def _inspect_filters(args):
    """One figure of what each channel adds to an image, channels as some photographs use them."""
    if args.paths and not args.output_dir:
        *photos, target = map(pathlib.Path, args.paths)
    else:
        photos, target = args.paths, pathlib.Path(args.output_dir or ".", "filters.png")
    if target.suffix.lower() not in inspection.SUFFIXES:
        raise UserError(f"{target}: the last path is the figure; its name should end in one of "
                        f"{' '.join(inspection.SUFFIXES)}")
    _require_free([target], args, inspection.is_photograph)
    sources = _expand(photos, images.SUFFIXES)
    model = load_model(args.model)
    level = targets.level(model, args.quality)
    uses = [inspection.measure_channels(model, images.read(source, args.max_pixels), level)
            for source in sources]
    inspection.draw_filters(target, model, args.model, uses, level)
    print(target)


def _jobs(args, suffixes, new_suffix, outputs, is_input=None, pipes=False
          ) -> list[tuple[pathlib.Path, pathlib.Path]]:
    """Pairs of input and output file. Raises UserError before any work as `_require_free`."""
    paths = [pathlib.Path(path) for path in args.paths]
    if pipes and PIPE in paths:
        return _pipes(paths, args, outputs)
    if len(paths) == 2 and paths[1].suffix.lower() in outputs and not paths[0].is_dir():
        if args.output_dir:
            raise UserError(f"give either the output {paths[1]} or --output_dir, not both")
        jobs = [(paths[0], paths[1])]
    else:
        jobs = [(path, pathlib.Path(args.output_dir or path.parent, path.stem + new_suffix))
                for path in _expand(paths, suffixes)]
    _require_free([target for _, target in jobs], args, is_input)
    return jobs


def _pipes(paths, args, outputs):
    """`_jobs` where one of the paths is standard input or output."""
    source, target = paths[0], paths[-1]
    if args.output_dir or len(paths) > 2 or (
            target != PIPE and target.suffix.lower() not in outputs):
        raise UserError("- is standard input, or as the second of two paths standard output; it "
                        f"goes with one output ({' '.join(outputs)}), and no --output_dir")
    if target != PIPE:
        _require_free([target], args)
    return [(source, target)]


def _require_free(targets, args, is_input=None):
    """Makes the folder for outputs. Raises UserError if one of these would be overwritten.

    Args:
      targets: the outputs.
      args: of the command line.
      is_input: says of a file whether not even --force should overwrite it. Where inputs and
        outputs have one suffix, two inputs look like an input and its output.
    """
    if args.output_dir:
        pathlib.Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    for target in targets:
        if is_input and is_input(target):
            raise UserError(f"{target} is an input, where an output is expected; name the output "
                            "last, or give --output_dir")
        if target.exists() and not args.force:
            raise UserError(f"{target} exists already; --force overwrites it")
        if targets.count(target) > 1:
            raise UserError(f"several inputs would be written to {target}; give them one by one")


def _expand(paths, suffixes) -> list[pathlib.Path]:
    files = []
    for path in map(pathlib.Path, paths):
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in suffixes)
        if not inside:
            raise UserError(f"{path}: no {' '.join(suffixes)} files in this folder")
        files += inside
    return files


def _shown(output) -> str:
    return "standard output" if output == PIPE else str(output)


def _run(jobs, job: Callable) -> None:
    """Runs every job; a broken input does not keep the others from being done."""
    failures = 0
    out = sys.stderr if any(target == PIPE for _, target in jobs) else sys.stdout
    for source, target in tqdm.tqdm(jobs, unit="file", disable=None if len(jobs) > 1 else True):
        try:
            tqdm.tqdm.write(job(source, target), file=out)
        except UserError as error:
            failures += 1
            name = "standard input" if source == PIPE else str(source)
            message = str(error) if name in str(error) else f"{name}: {error}"
            tqdm.tqdm.write(f"error: {message}", file=sys.stderr)
    if failures:
        if len(jobs) > 1:
            print(f"error: {failures} of {len(jobs)} files failed", file=sys.stderr)
        sys.exit(2)


def read(path: pathlib.Path) -> bytes:
    """The bytes of a file, or of standard input. Raises UserError."""
    if path == PIPE:
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


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


def _find_by_fingerprint(fingerprint: str) -> str:
    name = _released(fingerprint)
    if name is None:
        raise UserError(f"written by model {fingerprint}, which is not in the zoo; name the model "
                        "with --model")
    return name


def _released(fingerprint: str) -> str | None:
    return next((name for name, path in export.released_models().items()
                 if export.fingerprint(path).startswith(fingerprint)), None)


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
                        f"before coding, which takes long; one of: {', '.join(itinf.METHODS)}")
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
    model_help = "folder of an exported model or of a run, or a name of the zoo"

    def files(nargs="+", max_pixels=images.MAX_PIXELS):
        parser = argparse.ArgumentParser(add_help=False)
        parser.add_argument("paths", nargs=nargs, metavar="PATH", help="files or folders; of two "
                            "paths, the second is the output if its suffix says so")
        parser.add_argument("--max_pixels", type=int, default=max_pixels, metavar="N",
                            help="refuse larger images (default: %(default)s)")
        return parser

    outputs = argparse.ArgumentParser(add_help=False)
    outputs.add_argument("--output_dir", help="where outputs go (default: beside the inputs)")
    outputs.add_argument("--force", action="store_true", help="overwrite existing files")

    command = commands.add_parser(
        "compress", parents=[files(), outputs, REFINEMENT, precision_option("auto")],
        help=compress.__doc__)
    command.add_argument("--model", required=True, help=model_help)
    _add_targets(command)
    command.set_defaults(command=compress)
    command = commands.add_parser(
        "decompress", parents=[files(), outputs, precision_option("auto")],
        help=decompress.__doc__)
    command.add_argument("--model", help=model_help + " (default: the zoo's, by fingerprint)")
    command.set_defaults(command=decompress)
    command = commands.add_parser("info", parents=[files()], help=info.__doc__)
    command.add_argument("--model", help=model_help + " (default: the zoo's, by fingerprint)")
    command.set_defaults(command=info)
    command = commands.add_parser(
        "benchmark", parents=[precision_option("float32"), quality_option()],
        help=benchmark.__doc__)
    command.add_argument("--model", required=True, help=model_help)
    command.add_argument("--dataset", default="photos/validation",
                         help="name of a data set, folder or glob (default: %(default)s)")
    command.add_argument("--output", help="write OUTPUT.json and OUTPUT.csv")
    command.set_defaults(command=benchmark)
    command = commands.add_parser(
        "inspect", parents=[files("*", coding.MAX_WHOLE_PIXELS), outputs, quality_option()],
        help=inspect.__doc__)
    command.add_argument("--model", required=True, help=model_help)
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
