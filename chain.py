"""Chains of images by bits-back coding: compress | decompress.

    python -m chain compress --model M -o photos.ntb [--payload letter.txt] a.png b.png ...
    python -m chain decompress photos.ntb -o decoded/
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import codec
from common import export, file_jobs, images, result_tables, zoo
from common.cli import advising, report
from common.errors import NotInZoo, UserError
from common.lazy import Codec, importing, targets


def load_model(name: str, precision: str = "float32") -> Codec:
    """Loads a bits-back model, as `zoo.load`. Raises UserError for any other."""
    require_bits_back(name)
    return zoo.load(name, precision)


def require_bits_back(name: str) -> None:
    """Raises UserError unless this is the name of a bits-back model."""
    if export.read_module(export.find(name)) != zoo.BITS_BACK:
        raise UserError(f"{name} is not a bits-back model; the zoo's is mshyper-small_bb-2, and "
                        "mshyper/configs/mbt2018_bb.py trains others")


def _compress(args):
    """Images to one .ntb file."""
    with importing():  # TensorFlow, which --help should not wait for
        from mshyper import chain

    output = file_jobs.to_path(args.output)
    paths = [file_jobs.to_path(path) for path in args.paths]
    if args.steps is not None and not 0 <= args.steps <= chain.MAX_STEPS:
        raise UserError(f"--steps {args.steps}: need 0 to {chain.MAX_STEPS}")
    payload_path = [file_jobs.to_path(args.payload)] if args.payload else []
    if not file_jobs.check_free([output], [*paths, *payload_path], args.force, named=True):
        sys.exit(2)
    payload = b"".join(map(file_jobs.read, payload_path))
    require_bits_back(args.model)
    model, to_latents = codec.load_encoder(args)
    level = targets.level(model, args.quality)
    pictures = [file_jobs.read_image(path, args.max_pixels) for path in paths]
    names = [_name(args.model), *(path.name for path in paths)]
    with chain.searching(model, model.replay_steps if args.steps is None else args.steps):
        ntb, rows = chain.compress(
            model, pictures, payload, lambda model, image: to_latents(model, image, level),
            args.max_pixels, names)
    file_jobs.write(output, ntb)
    pixels = [picture.shape[0] * picture.shape[1] for picture in pictures]
    rows = [{"image": path.name,
             **{f"{key}_bpp": row[key] / n for key in ("gross", "returned", "net", "information")}}
            for path, row, n in zip(paths, rows, pixels)]
    start_up = chain.unseal(ntb)[2]
    print(f"{result_tables.render([*rows, result_tables.mean_row(rows)], columns=[*rows[0]])}\n"
          f"{file_jobs.shown(output)}: {len(ntb)} bytes, of which payload {len(payload)} and "
          f"start-up {start_up}; net {8 * (len(ntb) - len(payload)) / sum(pixels):.4f} bpp",
          file=sys.stderr if file_jobs.is_stdout(output) else sys.stdout)


def _name(model: str) -> str:
    """The name of a model for those who decode: its name in the zoo, or that of its folder."""
    path = export.find(model).resolve()
    return zoo.released(export.fingerprint(path)) or (
        path.parent if path.name == "model" else path).name


def _decompress(args):
    """A .ntb file to images, and its payload."""
    with importing():
        from mshyper import chain

    source = file_jobs.to_path(args.path)
    folder = pathlib.Path(args.output or source.parent)
    ntb = file_jobs.read(source)
    fingerprint, _, _, length, sizes, _, _ = chain.unseal(ntb)
    found = chain.read_names(ntb)
    called, names = (found[0], found[1:]) if found else (None, [])
    stem = "chain" if source == file_jobs.PIPE else source.stem
    outputs = [folder / name for name in _decoded_names(names, stem, len(sizes))]
    outputs += [folder / f"{stem}.payload"] if length else []
    if len(file_jobs.check_free(outputs, [source], args.force)) < len(outputs):
        sys.exit(2)
    with advising(NotInZoo, "name the model with --model"):
        name = args.model or zoo.find_by_fingerprint(fingerprint, called)
    model = load_model(name, args.precision)
    pictures, payload = chain.decompress(model, ntb, args.max_pixels)
    folder.mkdir(parents=True, exist_ok=True)
    for target, picture in zip(outputs, pictures):
        images.write(target, picture)
    if payload:
        file_jobs.write(outputs[-1], payload)
    print(f"{file_jobs.shown(source, 'standard input')}: {len(pictures)} images and a payload of "
          f"{len(payload)} bytes, in {folder}")


def _decoded_names(names: list[str], stem: str, count: int) -> list[str]:
    """Names of decoded images, no two alike: of their files, or numbers where there are none."""
    if not names:
        return [f"{stem}-{i:0{len(str(count - 1))}}.png" for i in range(count)]
    found = {}
    for i, name in enumerate(names):
        stem = pathlib.Path(name).stem
        while stem.lower() in found:
            stem += f"-{i}"
        found[stem.lower()] = f"{stem}.decoded.png"
    return [*found.values()]


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m chain", description="Chains of images by bits-back coding.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = codec.precision_option("auto")
    model_help = "a bits-back model's folder, or that of its run, or a name of the zoo"
    shared.add_argument("--force", action="store_true", help="overwrite existing files")
    shared.add_argument("--max_pixels", type=int, default=images.MAX_CHAIN_PIXELS, metavar="N",
                        help="refuse more, in all images together (default: %(default)s)")
    command = commands.add_parser(
        "compress", parents=[shared, codec.REFINEMENT, codec.quality_option()],
        help=_compress.__doc__)
    command.add_argument("paths", nargs="+", metavar="IMAGE", help="image files, in this order")
    command.add_argument("--model", required=True, help=model_help)
    command.add_argument("-o", "--output", required=True,
                         help="the .ntb file; - is standard output")
    command.add_argument("--payload", help="any file to send along, whose bits the images use")
    command.add_argument("--steps", type=int, default=None, metavar="N",
                         help="for which the posterior is optimised; 0 for bits-back with the "
                         "amortised one (default: the model's)")
    command.set_defaults(command=_compress)
    command = commands.add_parser("decompress", parents=[shared], help=_decompress.__doc__)
    command.add_argument("path", help="the .ntb file; - is standard input")
    command.add_argument("--model", help=model_help + " (default: the zoo's, by fingerprint)")
    command.add_argument("-o", "--output", metavar="FOLDER", help="where images go, as "
                         "NAME.decoded.png, and the payload; made if missing (default: beside the "
                         "file)")
    command.add_argument("--output_dir", dest="output", help=argparse.SUPPRESS,
                         default=argparse.SUPPRESS)
    command.set_defaults(command=_decompress)
    return parser.parse_args(argv)


@report
def main(argv: list[str]) -> None:
    """The command line."""
    args = _parse(argv)
    args.command(args)


if __name__ == "__main__":
    main(sys.argv[1:])
