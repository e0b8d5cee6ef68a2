"""The .ntb file: a chain of images by bits-back coding; the command is `python -m chain`.

Each image is coded with bits taken from the one before (see mshyper/bits_back.py), the first with
those of a payload, any file that is to be sent along and comes out again. Where the payload does
not suffice, numbers that the decoder knows fill in: the start-up, which the chain pays for once.

    "NB2"            magic and version                               3 bytes
    fingerprint      first bytes of the model's                      4
    steps, start-up, payload, images, and each image's height and width: varints
    names            of the model and of the images, or none: UTF-8, a zero byte
                     after each, and another one
    stack            all images, the last on top, upon payload and start-up
    CRC-32           of the decoded symbols, plus that of payload    4, little-endian
                     and start-up, and that of what is before the stack
    CRC-32           of all bytes before                             4, little-endian

`steps` is how long the posterior is optimised (mshyper/posterior_search.py), `start-up` and
`payload` are numbers of bytes. Files of version 1 have no names, and a checksum without what is
before the stack.
"""

import contextlib
import math
import os
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tqdm

from common import coding, container, images
from common.ans import AnsStack
from common.errors import CodingError, UserError
from common.images import MAX_CHAIN_PIXELS as MAX_PIXELS
from common.model import Latents
from common.range_coding import BitCounter
from mshyper.bits_back import BitsBackHyperprior

SUFFIX = ".ntb"
_MAGIC, _FIRST = b"NB2", b"NB1"
MAX_STEPS = 1000

# What the stack keeps for itself at its bottom, in bytes, and rounding.
_HEAD = 8


def compress(model: BitsBackHyperprior, pictures: Sequence[np.ndarray], payload: bytes = b"",
             to_latents: Callable[[BitsBackHyperprior, np.ndarray], Latents] = coding.infer,
             max_pixels: int = MAX_PIXELS, names: Sequence[str] = ()
             ) -> tuple[bytes, list[dict[str, float]]]:
    """Codes images into one chain.

    Args:
      model: an exported bits-back model.
      pictures: uint8 [H, W, 3] each; at least one.
      payload: what to send along.
      to_latents: where latents come from: `coding.infer`, or `Refiner.infer`.
      max_pixels: more, in all images together, are refused.
      names: that of the model, and those of the images' files, without their folders; for who
        decodes, see `read_names`.

    Returns:
      The bytes of a .ntb file; and for each image its bits: gross (put on the stack), returned
      (taken from it before, which the decoder gets back), net, and information (what an ideal
      coder with the densities of the model would have for net).

    Raises:
      UserError: the images are too large, or their latents not finite, or the model is not an
        exported one.
    """
    sizes = [picture.shape[:2] for picture in pictures]
    _check(model, sizes, model.replay_steps, max_pixels)
    _, fingerprint = model.exported
    latents = [to_latents(model, picture) for picture in tqdm.tqdm(
        pictures, desc="analysis", unit="image", disable=None)]
    payload_noise = _whiten(payload)
    try:
        for start_up in _start_ups(model, latents, payload_noise):
            start = _noise(start_up) + payload_noise
            try:
                stack, rows = _encode(model, latents, start)
                break
            except CodingError:  # of the last, it is none of too few bits
                if start_up == _most(latents):
                    raise
    except CodingError as error:
        raise UserError(str(error)) from error
    header = [model.replay_steps, start_up, len(payload), len(pictures), *sum(sizes, ())]
    named = _pack_names(names)
    crc = _checksum(stack, start) + _checksum_before(header, named)
    return container.seal(_MAGIC, fingerprint[:8], header, named + stack.finish(),
                          crc % 2**32), rows


def decompress(model: BitsBackHyperprior, ntb: bytes, max_pixels: int = MAX_PIXELS
               ) -> tuple[list[np.ndarray], bytes]:
    """The inverse of `compress`: images uint8 [H, W, 3], and the payload.

    Raises:
      UserError: the file is damaged, of another model, or claims more than `max_pixels` pixels.
    """
    tables, fingerprint = model.exported
    written_by, steps, start_up, length, sizes, stream, crc = unseal(ntb)
    if written_by != fingerprint[:8]:
        raise UserError(f"written by model {written_by}, not by this one ({fingerprint[:8]})")
    _check(model, sizes, steps, max_pixels)
    expected = 0
    if not ntb.startswith(_FIRST):
        _, named, stream = _unpack_names(stream)
        expected = _checksum_before(
            [steps, start_up, length, len(sizes), *sum(sizes, ())], named)
    stack = AnsStack(tables, stream)
    pictures = []
    with searching(model, steps):
        try:
            for height, width in tqdm.tqdm(sizes[::-1], unit="image", disable=None):
                latents = model.decode(stack, height, width)
                x_hat = model.to_image(latents["y"], level=latents.get("level"))
                x_hat = x_hat[0, :height, :width]
                pictures.insert(0, images.to_uint8(x_hat).numpy())
        except CodingError as error:
            raise UserError(f"the file cannot be decoded ({error})") from error
    start = stack.finish()
    if ((_checksum(stack, start) + expected) % 2**32 != crc or len(start) != start_up + length
            or start[:start_up] != _noise(start_up)):
        raise UserError("the file does not decode to the symbols that were written: its stack or "
                        "its sizes were changed, and its checksum with them")
    return pictures, _whiten(start[start_up:])


def unseal(ntb: bytes) -> tuple:
    """Fingerprint, steps, start-up, payload, [(height, width)], names and stack, and CRC.

    Raises:
      UserError: not a .ntb file, or damaged.
    """
    magic = _FIRST if ntb.startswith(_FIRST) else _MAGIC
    fingerprint, rest, crc = container.unseal(ntb, magic, SUFFIX)
    (steps, start_up, length, count), rest = container.read_varints(rest, 4)
    if 2 * count > len(rest):
        raise UserError(f"the file is malformed (it has no room for the sizes of {count} images)")
    sides, stream = container.read_varints(rest, 2 * count)
    return fingerprint, steps, start_up, length, [*zip(sides[::2], sides[1::2])], stream, crc


def read_names(ntb: bytes) -> list[str]:
    """The names of the model and of the images' files, which have no folders; or none at all.

    Raises:
      UserError: the file is damaged.
    """
    *_, sizes, stream, _ = unseal(ntb)
    names = [] if ntb.startswith(_FIRST) else _unpack_names(stream)[0]
    # Nothing that a name could make a decoder write elsewhere.
    safe = all(name == os.path.basename(name) and name not in ("", ".", "..") for name in names[1:])
    if names and len(names) != 1 + len(sizes) or not safe:
        raise UserError("the file cannot be decoded (its names are not those of files)")
    return names


def _pack_names(names) -> bytes:
    return b"".join(os.fsencode(name) + b"\0" for name in names) + b"\0"


def _unpack_names(stream: bytes) -> tuple[list[str], bytes, bytes]:
    """The names, their bytes in the file, and the stack after them. Raises UserError."""
    if stream.startswith(b"\0"):
        return [], stream[:1], stream[1:]
    content, end, stack = stream.partition(b"\0\0")
    if not end:
        raise UserError("the file cannot be decoded (it ends within its names)")
    return [*map(os.fsdecode, content.split(b"\0"))], content + end, stack


def _checksum_before(header, named) -> int:
    return zlib.crc32(named, zlib.crc32(np.asarray(header, "<i8").tobytes()))


def _check(model, sizes, steps, max_pixels):
    """Raises UserError for what neither encoder nor decoder should take on."""
    if not sizes:
        raise UserError("a chain needs at least one image")
    if not 0 <= steps <= MAX_STEPS:
        raise UserError(f"{steps} steps of the posterior's search; need 0 to {MAX_STEPS}")
    if not all(height and width for height, width in sizes):
        raise UserError("an image of the chain has no pixels")
    stride = model.analysis.stride
    padded = [math.prod(model.latent_size(*size)) * stride**2 for size in sizes]
    if max(padded) > images.MAX_WHOLE_PIXELS:
        raise UserError(f"an image of {max(padded) / 1e6:.1f} megapixels, padded; chains take up "
                        f"to {images.MAX_WHOLE_PIXELS / 1e6:g} each")
    pixels = sum(padded)
    if pixels > max(max_pixels, len(sizes) * stride**2):
        raise UserError(f"{len(sizes)} images of together {pixels / 1e6:.1f} megapixels, padded, "
                        f"exceed the limit of {max_pixels / 1e6:g}; max_pixels allows more")


@contextlib.contextmanager
def searching(model: BitsBackHyperprior, steps: int) -> Iterator[None]:
    """Makes coding search the posterior for `steps` steps, within the block."""
    before, model.replay_steps = model.replay_steps, steps
    try:
        yield
    finally:
        model.replay_steps = before


def _checksum(stack, start):
    return (stack.crc + zlib.crc32(start)) % 2**32


def _start_ups(model, latents, payload) -> Iterator[int]:
    """Numbers of bytes to lay below `payload`, the least first; one of them is enough.

    What the first image takes from a stack with the most bytes is what is missing below it. Where
    a small first image leaves too little for a large later one, all of them are tried.
    """
    most = _most(latents)
    for tried in (latents[:1], latents):
        _, rows = _encode(model, tried, _noise(most) + payload)
        untouched = min(row["lowest"] for row in rows) // 8 - _HEAD
        # Whole words: what lies above them is drawn from as before.
        yield most - max(0, min(untouched, most)) // 4 * 4
    yield most


def _most(latents):
    return 4 * sum(int(np.prod(each["z"].shape)) for each in latents)


def _encode(model, latents, start):
    stack = _Counted(model, start)
    rows = []
    for each in latents:
        before, taken, stack.information = stack.bits, stack.taken, 0.0
        model.encode(each, stack)
        returned, net = stack.taken - taken, stack.bits - before
        rows.append({"gross": net + returned, "returned": returned, "net": net,
                     "information": stack.information, "lowest": before - returned})
    return stack, rows


class _Counted(AnsStack):
    """A stack, and the net information content of what passes."""

    def __init__(self, model, start):
        super().__init__(model.tables, start)
        self._priors = model.priors
        self.information = 0.0

    def encode(self, symbols, distributions, bounded=False):
        super().encode(symbols, distributions, bounded)
        self.information += self._content(symbols, distributions)

    def sample(self, distributions):
        symbols = super().sample(distributions)
        self.information -= self._content(symbols, distributions)
        return symbols

    def _content(self, symbols, distributions):
        counter = BitCounter(self._priors)
        counter.encode(symbols, distributions)
        return counter.bits


def _whiten(payload: bytes) -> bytes:
    """Makes any bytes look random, as samples drawn with them must be; its own inverse."""
    noise = np.frombuffer(_noise(len(payload), key=1), np.uint8)
    return (np.frombuffer(payload, np.uint8) ^ noise).tobytes()


def _noise(length: int, key: int = 0) -> bytes:
    """Pseudo-random bytes; fewer of them are the last ones of more, the top of the stack."""
    words = np.random.Philox(key=key).random_raw(-(-length // 8)).astype("<u8")
    return words.tobytes()[:length][::-1]
