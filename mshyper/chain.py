"""Chains of images by bits-back coding: `python -m mshyper.chain compress | decompress`.

    python -m mshyper.chain compress --model M --output photos.ntb [--payload letter.txt] a.png ...
    python -m mshyper.chain decompress photos.ntb --output_dir decoded

Each image is coded with bits taken from the one before (see mshyper/bits_back.py), the first with
those of a payload, any file that is to be sent along and comes out again. Where the payload does
not suffice, numbers that the decoder knows fill in: the start-up, which the chain pays for once.

    "NB1"            magic and version                               3 bytes
    fingerprint      first bytes of the model's                      4
    steps, start-up, payload, images, and each image's height and width: varints
    stack            all images, the last on top, upon payload and start-up
    CRC-32           of the decoded symbols, plus that of payload    4, little-endian
                     and start-up
    CRC-32           of all bytes before                             4, little-endian

`steps` is how long the posterior is optimised (mshyper/replay.py), `start-up` and `payload` are
numbers of bytes.
"""

import argparse
import contextlib
import pathlib
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tqdm

import codec
from common import coding, container, entropy, images, tables
from common.cli import UserError, report
from common.files import replacing
from common.model import Latents
from common.stack import Stack
from mshyper.bits_back import Model

SUFFIX = ".ntb"
_MAGIC = b"NB1"
_MOST_IMAGES = 10_000
_MOST_STEPS = 1000

# What the stack keeps for itself at its bottom, in bytes, and rounding.
_HEAD = 8

# Bytes that a sample can take: tables hold 16 bits, and the stack rounds up.
_BYTES_PER_SAMPLE = 3


def compress(model: Model, pictures: Sequence[np.ndarray], payload: bytes = b"",
             infer: Callable[[Model, np.ndarray], Latents] = coding.infer
             ) -> tuple[bytes, list[dict[str, float]]]:
    """Codes images into one chain.

    Args:
      model: an exported bits-back model.
      pictures: uint8 [H, W, 3] each.
      payload: what to send along.
      infer: where latents come from: `coding.infer`, or `Refiner.infer`.

    Returns:
      The bytes of a .ntb file; and for each image its bits: gross (put on the stack), returned
      (taken from it before, which the decoder gets back), net, and information (what an ideal
      coder with the densities of the model would have for net).

    Raises:
      UserError: an image is too large, or its latents are not finite.
    """
    for picture in pictures:
        coding.check_size(model, *picture.shape[:2], coding.MAX_PIXELS)
    latents = [infer(model, picture) for picture in tqdm.tqdm(
        pictures, desc="inference", unit="image", disable=None)]
    whitened = _whiten(payload)
    try:
        start_up = _start_up(model, latents[:1], whitened)
        try:
            start = _noise(start_up) + whitened
            stack, rows = _encode(model, latents, start)
        except entropy.CodingError:  # a small first image leaves too little for a large later one
            start_up = _start_up(model, latents, whitened)
            start = _noise(start_up) + whitened
            stack, rows = _encode(model, latents, start)
    except entropy.CodingError as error:
        raise UserError(str(error)) from error
    header = [model.replay_steps, start_up, len(payload), len(pictures)]
    header += [side for picture in pictures for side in picture.shape[:2]]
    return container.seal(_MAGIC, model.fingerprint[:8], header, stack.finish(),
                          _checksum(stack, start)), rows


def decompress(model: Model, ntb: bytes, max_pixels: int = coding.MAX_PIXELS
               ) -> tuple[list[np.ndarray], bytes]:
    """The inverse of `compress`: images uint8 [H, W, 3], and the payload.

    Raises:
      UserError: the file is damaged, of another model, or claims more than `max_pixels` pixels in
        one image.
    """
    fingerprint, steps, start_up, length, sizes, stream, crc = _unseal(ntb)
    if fingerprint != model.fingerprint[:8]:
        raise UserError(f"written by model {fingerprint}, not by this one "
                        f"({model.fingerprint[:8]})")
    for height, width in sizes:
        if not height or not width:
            raise UserError("the file is malformed (an image has no pixels)")
        coding.check_size(model, height, width, max_pixels)
    stack = Stack(model.tables, stream)
    pictures = []
    with replaying(model, steps):
        try:
            for height, width in tqdm.tqdm(sizes[::-1], unit="image", disable=None):
                y = model.decode(stack, height, width)["y"]
                x_hat = model.to_image(y)[0, :height, :width]
                pictures.insert(0, images.to_uint8(x_hat).numpy())
        except entropy.CodingError as error:
            raise UserError(f"the file cannot be decoded ({error})") from error
    start = stack.finish()
    if _checksum(stack, start) != crc or len(start) != start_up + length:
        raise UserError("the file does not decode to the symbols that were written: its stack or "
                        "its sizes were changed, and its checksum with them")
    return pictures, _whiten(start[start_up:])


def _unseal(ntb):
    fingerprint, rest, crc = container.unseal(ntb, _MAGIC, SUFFIX)
    (steps, start_up, length, count), rest = container.read_varints(rest, 4)
    if count > _MOST_IMAGES or steps > _MOST_STEPS:
        raise UserError(f"the file claims {count} images and {steps} steps; at most "
                        f"{_MOST_IMAGES} and {_MOST_STEPS} are allowed")
    sides, stream = container.read_varints(rest, 2 * count)
    return fingerprint, steps, start_up, length, [*zip(sides[::2], sides[1::2])], stream, crc


@contextlib.contextmanager
def replaying(model: Model, steps: int) -> Iterator[None]:
    """Within the block, coding optimises the posterior for `steps` steps."""
    before, model.replay_steps = model.replay_steps, steps
    try:
        yield
    finally:
        model.replay_steps = before


def _checksum(stack, start):
    return (stack.crc + zlib.crc32(start)) % 2**32


def _start_up(model, latents, payload) -> int:
    """How many bytes are missing below `payload` to code these images."""
    generous = _BYTES_PER_SAMPLE * sum(int(np.prod(each["z"].shape)) for each in latents)
    _, rows = _encode(model, latents, _noise(generous) + payload)
    lowest = min(row["lowest"] for row in rows) // 8
    return max(0, generous - max(0, lowest - _HEAD))


def _encode(model, latents, start):
    stack = Stack(model.tables, start)
    rows = []
    for each in latents:
        before, taken = stack.bits, stack.taken
        counted = _Counted(model.priors, stack)
        model.encode(each, counted)
        returned, net = stack.taken - taken, stack.bits - before
        rows.append({"gross": net + returned, "returned": returned, "net": net,
                     "information": counted.bits, "lowest": before - returned})
    return stack, rows


class _Counted(entropy.BitCounter):
    """A stack, and the net information content of what passes."""

    def __init__(self, priors, stack):
        super().__init__(priors)
        self._stack = stack

    def encode(self, symbols, distributions):
        super().encode(symbols, distributions)
        self._stack.encode(symbols, distributions)

    def sample(self, distributions):
        symbols, before = self._stack.sample(distributions), self.bits
        super().encode(symbols, distributions)
        self.bits = before - (self.bits - before)
        return symbols


def _whiten(payload: bytes) -> bytes:
    """Makes any bytes look random, as samples drawn with them must be; its own inverse."""
    noise = np.frombuffer(_noise(len(payload), key=1), np.uint8)
    return (np.frombuffer(payload, np.uint8) ^ noise).tobytes()


def _noise(length: int, key: int = 0) -> bytes:
    """Pseudo-random bytes. Fewer of them are the last ones of more: the top of the stack."""
    words = np.random.Philox(key=key).random_raw(-(-length // 8)).astype("<u8")
    return words.tobytes()[:length][::-1]


# --- Command line -----------------------------------------------------------------------------


def _compress(args):
    """Images to one .ntb file."""
    output = pathlib.Path(args.output)
    if output.exists() and not args.force:
        raise UserError(f"{output} exists already; --force overwrites it")
    if args.steps is not None and not 0 <= args.steps <= _MOST_STEPS:
        raise UserError(f"--steps {args.steps}: need 0 to {_MOST_STEPS}")
    payload = codec.read(pathlib.Path(args.payload)) if args.payload else b""
    model, infer = codec.load_encoder(args)
    _require(model, args.model)
    pictures = [images.read(path) for path in args.paths]
    with replaying(model, model.replay_steps if args.steps is None else args.steps):
        ntb, rows = compress(model, pictures, payload, infer)
    with replacing(output) as temporary:
        temporary.write_bytes(ntb)
    pixels = [picture.shape[0] * picture.shape[1] for picture in pictures]
    rows = [{"image": pathlib.Path(path).name,
             **{f"{key}_bpp": row[key] / n for key in ("gross", "returned", "net", "information")}}
            for path, row, n in zip(args.paths, rows, pixels)]
    print(tables.render([*rows, tables.mean_row(rows)], columns=[*rows[0]]))
    start_up = _unseal(ntb)[2]
    print(f"{output}: {len(ntb)} bytes, of which payload {len(payload)} and start-up {start_up}; "
          f"net {8 * (len(ntb) - len(payload)) / sum(pixels):.4f} bpp")


def _decompress(args):
    """A .ntb file to images, and its payload."""
    source, folder = pathlib.Path(args.path), pathlib.Path(args.output_dir)
    model = codec.load_model(args.model)
    _require(model, args.model)
    pictures, payload = decompress(model, codec.read(source), args.max_pixels)
    folder.mkdir(parents=True, exist_ok=True)
    digits = len(str(len(pictures) - 1))
    targets = [folder / f"{source.stem}-{i:0{digits}}.png" for i in range(len(pictures))]
    targets += [folder / f"{source.stem}.payload"] if payload else []
    for target in targets:
        if target.exists() and not args.force:
            raise UserError(f"{target} exists already; --force overwrites it")
    for target, picture in zip(targets, pictures):
        images.write(target, picture)
    if payload:
        with replacing(targets[-1]) as temporary:
            temporary.write_bytes(payload)
    print(f"{source}: {len(pictures)} images and a payload of {len(payload)} bytes, in {folder}")


def _require(model, name):
    if not isinstance(model, Model):
        raise UserError(f"{name} is no bits-back model; train one with "
                        "mshyper/configs/mbt2018_bb.py")


@report
def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mshyper.chain", description="Chains of images by bits-back coding.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--model", required=True,
                        help="folder of an exported bits-back model or of its run, or a zoo name")
    common.add_argument("--force", action="store_true", help="overwrite existing files")
    command = commands.add_parser(
        "compress", parents=[common, codec.REFINEMENT], help=_compress.__doc__)
    command.add_argument("paths", nargs="+", metavar="IMAGE", help="image files, in this order")
    command.add_argument("--output", required=True, help="the .ntb file")
    command.add_argument("--payload", help="any file to send along, whose bits the images use")
    command.add_argument("--steps", type=int, default=None, metavar="N",
                         help="for which the posterior is optimised; 0 for bits-back with the "
                         "amortised one (default: the model's)")
    command.set_defaults(command=_compress)
    command = commands.add_parser("decompress", parents=[common], help=_decompress.__doc__)
    command.add_argument("path", help="the .ntb file")
    command.add_argument("--output_dir", required=True, help="where images and payload go")
    command.add_argument("--max_pixels", type=int, default=coding.MAX_PIXELS, metavar="N",
                         help="refuse larger images (default: %(default)s)")
    command.set_defaults(command=_decompress)
    args = parser.parse_args(argv)
    args.command(args)


if __name__ == "__main__":
    main(sys.argv[1:])
