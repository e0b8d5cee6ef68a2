"""Chains of images by bits-back coding: compress | decompress.

    python -m chain compress --model M --output photos.ntb [--payload letter.txt] a.png b.png ...
    python -m chain decompress --model M photos.ntb --output_dir decoded
"""

import argparse
import functools
import pathlib
import sys

import codec
from common import export, images, tables, targets
from common.cli import UserError, report
from common.files import replacing
from mshyper import chain
from mshyper.bits_back import BitsBackHyperprior


def load_model(name: str, precision: str = "float32") -> BitsBackHyperprior:
    """As `codec.load_model`, of a bits-back model. Raises UserError for any other."""
    require_bits_back(name)
    return codec.load_model(name, precision)


def require_bits_back(name: str) -> None:
    """Raises UserError unless this is the name of a bits-back model."""
    if codec.find_class(export.find(name)) is not BitsBackHyperprior:
        raise UserError(f"{name} is no bits-back model; the zoo's is mshyper-small_bb-2, and "
                        "mshyper/configs/mbt2018_bb.py trains others")


def _compress(args):
    """Images to one .ntb file."""
    output = pathlib.Path(args.output)
    if output.exists() and not args.force:
        raise UserError(f"{output} exists already; --force overwrites it")
    if args.steps is not None and not 0 <= args.steps <= chain.MAX_STEPS:
        raise UserError(f"--steps {args.steps}: need 0 to {chain.MAX_STEPS}")
    payload = codec.read(pathlib.Path(args.payload)) if args.payload else b""
    require_bits_back(args.model)
    model, to_latents = codec.load_encoder(args)
    to_latents = functools.partial(to_latents, level=targets.level(model, args.quality))
    pictures = [images.read(path, args.max_pixels) for path in args.paths]
    with chain.replaying(model, model.replay_steps if args.steps is None else args.steps):
        ntb, rows = chain.compress(model, pictures, payload, to_latents, args.max_pixels)
    with replacing(output) as temporary:
        temporary.write_bytes(ntb)
    pixels = [picture.shape[0] * picture.shape[1] for picture in pictures]
    rows = [{"image": pathlib.Path(path).name,
             **{f"{key}_bpp": row[key] / n for key in ("gross", "returned", "net", "information")}}
            for path, row, n in zip(args.paths, rows, pixels)]
    print(tables.render([*rows, tables.mean_row(rows)], columns=[*rows[0]]))
    start_up = chain.unseal(ntb)[2]
    print(f"{output}: {len(ntb)} bytes, of which payload {len(payload)} and start-up {start_up}; "
          f"net {8 * (len(ntb) - len(payload)) / sum(pixels):.4f} bpp")


def _decompress(args):
    """A .ntb file to images, and its payload."""
    source, folder = pathlib.Path(args.path), pathlib.Path(args.output_dir)
    ntb = codec.read(source)
    _, _, _, length, sizes, _, _ = chain.unseal(ntb)
    digits = len(str(len(sizes) - 1))
    outputs = [folder / f"{source.stem}-{i:0{digits}}.png" for i in range(len(sizes))]
    outputs += [folder / f"{source.stem}.payload"] if length else []
    for target in outputs:
        if target.exists() and not args.force:
            raise UserError(f"{target} exists already; --force overwrites it")
    pictures, payload = chain.decompress(
        load_model(args.model, args.precision), ntb, args.max_pixels)
    folder.mkdir(parents=True, exist_ok=True)
    for target, picture in zip(outputs, pictures):
        images.write(target, picture)
    if payload:
        with replacing(outputs[-1]) as temporary:
            temporary.write_bytes(payload)
    print(f"{source}: {len(pictures)} images and a payload of {len(payload)} bytes, in {folder}")


@report
def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m chain", description="Chains of images by bits-back coding.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = codec.precision_option("auto")
    shared.add_argument("--model", required=True,
                        help="folder of an exported bits-back model or of its run, or a zoo name")
    shared.add_argument("--force", action="store_true", help="overwrite existing files")
    shared.add_argument("--max_pixels", type=int, default=chain.MAX_PIXELS, metavar="N",
                        help="refuse more, in all images together (default: %(default)s)")
    command = commands.add_parser(
        "compress", parents=[shared, codec.REFINEMENT, codec.quality_option()],
        help=_compress.__doc__)
    command.add_argument("paths", nargs="+", metavar="IMAGE", help="image files, in this order")
    command.add_argument("--output", required=True, help="the .ntb file")
    command.add_argument("--payload", help="any file to send along, whose bits the images use")
    command.add_argument("--steps", type=int, default=None, metavar="N",
                         help="for which the posterior is optimised; 0 for bits-back with the "
                         "amortised one (default: the model's)")
    command.set_defaults(command=_compress)
    command = commands.add_parser("decompress", parents=[shared], help=_decompress.__doc__)
    command.add_argument("path", help="the .ntb file")
    command.add_argument("--output_dir", required=True, help="where images and payload go")
    command.set_defaults(command=_decompress)
    args = parser.parse_args(argv)
    args.command(args)


if __name__ == "__main__":
    main(sys.argv[1:])
