"""Images to .ntc files and back, with any model of the zoo."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tqdm

from common import data, images, metrics, quantizers, tiles
from common.container import Container
from common.errors import CodingError, NotLocal, UserError
from common.model import Codec, Latents
from common.range_coding import BitCounter, RangeDecoder, RangeEncoder
from common.timing import recording, stage
from common.transforms import contract


class Decoded(NamedTuple):
    """The content of a .ntc file.

    Attributes:
      latents: by name, quantised: y, and of most models z, float32 [1, h, w, channels] each; of a
        model with levels the level too, int32 [1].
      height, width: of the image, in pixels.
    """

    latents: Latents
    height: int
    width: int


def as_rgb(image: np.ndarray) -> np.ndarray:
    """The image, uint8 [H, W, 3], that an array stands for. All functions that take one call this.

    Args:
      image: [H, W, 3], or grey [H, W] or [H, W, 1]; uint8 from 0 to 255, or floats from 0 to 1,
        which are rounded.

    Raises:
      UserError: it is not an array, or not an image; the message says why.
    """
    need = "need a uint8 array [height, width, 3], or floats from 0 to 1"
    if not isinstance(image, np.ndarray | tf.Tensor):
        hint = "; np.asarray makes one" if isinstance(image, list | tuple) else ""
        raise UserError(f"an image of type {type(image).__name__} is not an array{hint}; {need}")
    image = np.asarray(image)
    shape = " x ".join(map(str, image.shape)) or "no axes"
    if image.ndim == 4:
        raise UserError(f"an array of {shape} is a batch; {need}: one image at a time")
    if image.ndim not in (2, 3):
        raise UserError(f"an array of {shape} is not an image; {need}")
    if not image.size:
        raise UserError(f"an image of {shape} has no pixels")
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels == 4:
        raise UserError(f"an image of {shape} has a fourth channel, for transparency it may be; "
                        f"lay it over a background first (images.read does, over white): {need}")
    if channels not in (1, 3):
        hint = ", with channels last" if image.shape[0] in (1, 3) else ""
        raise UserError(f"an image of {shape} has {channels} channels; {need}{hint}")
    if np.issubdtype(image.dtype, np.floating):
        # NaN fails the comparison.
        low, high = np.min(image), np.max(image)
        if not 0 <= low <= high <= 1:
            raise UserError(f"an image of {image.dtype} has values from {low:g} to {high:g}; "
                            f"{need}: round those from 0 to 255 to uint8")
        image = np.round(image.astype(np.float32) * 255).astype(np.uint8)
    if image.dtype != np.uint8:
        hint = ": of 16 bits, divide by 65535" if image.dtype == np.uint16 else ""
        raise UserError(f"an image of {image.dtype}; {need}{hint}")
    return image if channels == 3 else np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)


def infer(model: Codec, image: np.ndarray, level: int | None = None) -> Latents:
    """The latents of an image, as `as_rgb` takes it, in a batch of one; see `Codec.infer`."""
    image = as_rgb(image)
    with stage("analysis"):
        latents = model.infer(image[None], level=level)
        for latent in latents.values():
            np.asarray(latent)  # waits for a GPU, so that the time is that of the work
        return latents


def compress(model: Codec, image: np.ndarray, max_pixels: int = images.MAX_PIXELS,
             to_latents: Callable[[Codec, np.ndarray, int | None], Latents] = infer,
             level: int | None = None) -> bytes:
    """Codes an image.

    Args:
      model: an exported model.
      image: uint8 [H, W, 3], or what else `as_rgb` takes.
      max_pixels: larger images, after padding, are refused.
      to_latents: where its latents come from, by default the encoder networks.
      level: of a model with levels, by default that in the middle; see common/targets.py for one
        that meets a target.

    Returns:
      The bytes of a .ntc file.

    Raises:
      UserError: it is not an image; it is too large, also for tiles where a layer is not local;
        or the model's latents are not finite.
    """
    image = as_rgb(image)
    height, width, _ = image.shape
    check_size(model, height, width, max_pixels)
    return encode(model, to_latents(model, image, level), height, width)


def encode(model: Codec, latents: Latents, height: int, width: int) -> bytes:
    """The bytes of a .ntc file with the latents of one image of `height` x `width` pixels.

    Raises:
      UserError: the latents are not finite, or not those of one image of this size, or the model
        is not an exported one.
    """
    missing = {*model.strides, *(["level"] if model.levels else [])} - {*latents}
    if missing:
        raise UserError(f"there is no {' and no '.join(sorted(missing))} among the latents")
    for name in model.strides:
        shape = tuple(np.shape(latents[name]))[:3]
        if shape != (1, *model.latent_size(height, width, name)):
            raise UserError(f"latents {name} of {' x '.join(map(str, shape))} positions are not "
                            f"those of one image of {width} x {height}")
    tables, fingerprint = model.exported
    coder = RangeEncoder(tables)
    try:
        model.encode(latents, coder)
    except CodingError as error:
        raise UserError(str(error)) from error
    with stage("coding"):
        stream = coder.finish()
    return Container(fingerprint[:8], height, width, stream, coder.crc).pack()


def decompress(model: Codec, ntc: bytes, max_pixels: int = images.MAX_PIXELS) -> np.ndarray:
    """The inverse of `compress`: the bytes of a .ntc file to an image, uint8 [H, W, 3].

    Raises:
      UserError: the file is damaged, of another model, or claims more than `max_pixels` pixels.
    """
    return reconstruct(model, decode(model, ntc, max_pixels))


def reconstruct(model: Codec, decoded: Decoded) -> np.ndarray:
    """The image of decoded latents, uint8 [H, W, 3]."""
    with stage("synthesis"):
        x_hat = model.to_image(decoded.latents["y"], finish=images.to_uint8,
                               level=decoded.latents.get("level"))
        return np.array(np.asarray(x_hat)[0, :decoded.height, :decoded.width])


def decode(model: Codec, ntc: bytes, max_pixels: int = images.MAX_PIXELS) -> Decoded:
    """The content of a .ntc file.

    Raises:
      UserError: as `decompress`.
    """
    container = Container.unpack(ntc, max_pixels)
    tables, fingerprint = model.exported
    if container.fingerprint != fingerprint[:8]:
        raise UserError(f"written by model {container.fingerprint}, not by this one "
                        f"({fingerprint[:8]})")
    check_size(model, container.height, container.width, max_pixels)
    coder = RangeDecoder(tables, container.stream)
    try:
        latents = model.decode(coder, container.height, container.width)
    except CodingError as error:
        raise UserError(f"the file cannot be decoded ({error})") from error
    if coder.crc != container.symbols_crc:
        raise UserError("the file does not decode to the symbols that were written: its stream or "
                        "its header was changed, and its checksum with it")
    return Decoded(latents, container.height, container.width)


def check_size(model: Codec, height: int, width: int, max_pixels: int) -> None:
    """Raises UserError for more pixels than allowed, or than the model can take.

    They are counted after padding: a line becomes a strip.
    """
    stride = model.analysis.stride
    padded = math.prod(model.latent_size(height, width)) * stride**2
    if padded > max(max_pixels, stride**2):
        raise UserError(f"an image of {width} x {height}, padded to {padded / 1e6:.1f} megapixels, "
                        f"exceeds the limit of {max_pixels / 1e6:g}; max_pixels allows more")
    if not tiles.fits(height, width, stride):
        try:
            for transform in model.tiled:
                contract.reach(transform)
        except NotLocal as error:
            raise UserError(
                f"an image of {width} x {height} is too large for this model: what exceeds "
                f"{tiles.SIDE**2 / 1e6:.1f} megapixels is taken in tiles, but {error}") from error


def measure(model: Codec, image: np.ndarray, level: int | None = None
            ) -> tuple[dict[str, float], np.ndarray]:
    """Codes an image for real and measures it.

    Args:
      model: an exported model.
      image: as of `compress`.
      level: as of `compress`.

    Returns:
      By name: bytes of the file, bpp (of that file), estimated_bpp (information content of its
      latents by the float networks), integer_bpp (by the integer networks that coded them; for
      images in tiles estimated_bpp is this too, as `generate` would take them whole), the
      metrics of `metrics.all_metrics`, encoding_time and decoding_time in seconds with their stages
      (encoding_time.analysis, ...); and the decoded image.
    """
    image = as_rgb(image)
    with recording() as encoding:
        start = time.perf_counter()
        ntc = compress(model, image, sys.maxsize, level=level)
        encoding_time = time.perf_counter() - start
    with recording() as decoding:
        start = time.perf_counter()
        decoded = decode(model, ntc, max_pixels=sys.maxsize)
        reconstruction = reconstruct(model, decoded)
        decoding_time = time.perf_counter() - start
    row = {
        **measure_file(model, image, ntc, decoded, reconstruction),
        "encoding_time": encoding_time,
        "decoding_time": decoding_time,
        **{f"encoding_time.{name}": seconds for name, seconds in encoding.items()},
        **{f"decoding_time.{name}": seconds for name, seconds in decoding.items()},
    }
    return row, reconstruction


def measure_file(model: Codec, image: np.ndarray, ntc: bytes, decoded: Decoded,
                 reconstruction: np.ndarray) -> dict[str, float]:
    """The measurements that `measure` returns, of a .ntc file, its content and its image."""
    latents, height, width = decoded
    pixels = height * width
    counter = BitCounter(model.priors)
    model.encode(latents, counter)
    estimate = counter.bits
    if tiles.fits(height, width, model.analysis.stride):
        bits = model.generate(latents, quantizers.Round()).bits
        estimate = sum(float(b[0]) for b in bits.values())
    return {
        "bytes": len(ntc),
        "bpp": 8 * len(ntc) / pixels,
        "estimated_bpp": estimate / pixels,
        "integer_bpp": counter.bits / pixels,
        **metrics.all_metrics(image, reconstruction),
    }


def measure_all(model: Codec, sources: Sequence[data.Source], name: str | None = None,
                level: int | None = None
                ) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """`measure` for every image of a data set, with a progress bar called `name`; at `level`.

    Yields:
      The row of each image, its name under "image", and the decoded image.
    """
    measure(model, sources[0].read(), level)  # the first run of each operation sets it up
    for source in tqdm.tqdm(sources, desc=name, unit="image", disable=None):
        row, decoded = measure(model, source.read(), level)
        yield {"image": source.name, **row}, decoded
