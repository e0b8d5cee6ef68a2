"""Image files: what is read of them, and how they are written."""

from __future__ import annotations

import collections
import contextlib
import functools
import io
import os
import struct
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
from absl import logging
from PIL import Image, ImageFile, TiffImagePlugin

from common import colour, metadata, tiff
from common import image_formats as formats
from common.errors import UserError
from common.files import replacing
from common.lazy import tf

# A few kilobytes shall not ask for gigabytes of memory.
MAX_PIXELS = 200_000_000
# For what takes images whole, refinement and chains: memory grows with the image, by half
# a GB a megapixel with 32 channels near the image, and 2 GB with 192.
MAX_WHOLE_PIXELS = 25_000_000
# Of all images of a chain together, which are in memory at once.
MAX_CHAIN_PIXELS = 10 * MAX_WHOLE_PIXELS

# How to show an image that is stored in an EXIF orientation.
_TRANSPOSE = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
              4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
              6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
              8: Image.Transpose.ROTATE_90}

# Curves of ITU-T H.273 that have no white to be 255.
_HDR = {16: "PQ", 18: "HLG"}


def read(source: str | os.PathLike | bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads an image file, or the bytes of one, the way an image viewer shows it.

    Orientation is applied, a colour profile is converted to sRGB, transparency is laid over white,
    16 bits are rounded to 8, and grey becomes RGB. Other metadata is not looked at, so that nothing
    but pixels decides whether a file can be read. Of several pictures the first is read, and a
    warning says so.

    Returns:
      uint8 array [H, W, 3].

    Raises:
      UserError: the file is missing, empty, truncated, not an image or of a format that is not read
        here, its picture is only a thumbnail, or it has more than `max_pixels` pixels.
    """
    with _opened(source, max_pixels) as (image, file):
        colours, opacity = _decode(image, file)
        _check_pixels(source, image, max_pixels)  # some formats know only now
        rgb = _shown(colours, opacity, image)
        turn = _TRANSPOSE.get(metadata.orientation(image.info.get("exif")))
        pixels = np.asarray(rgb if turn is None else rgb.transpose(turn))
        pictures = _count_pictures(image)
        other = image.info.get("primaries", 1) not in (1, 2) and not image.info.get("icc_profile")
    if other:
        warn_once(f"{_name(source)}: it has no colour profile, and its colours, which are not "
                  "sRGB's, are taken for such")
    if pictures > 1:
        warn_once(f"{_name(source)}: read the first of {pictures} pictures")
    return pixels


def to_array(image: np.ndarray | Image.Image | str | os.PathLike, max_pixels: int = MAX_PIXELS
             ) -> np.ndarray:
    """The pixels of an image file by its path, and of an image of Pillow's; all else as it is.

    An image of Pillow's is taken as the pixels of a file are, with its colour profile, transparency
    and 16 bits. It is not turned, as Pillow does not turn it either.

    Raises:
      UserError: as `read`.
    """
    if isinstance(image, str | os.PathLike):
        return read(image, max_pixels)
    if not isinstance(image, Image.Image):
        return image
    source = "the image"
    _check_pixels(source, image, max_pixels)
    try:
        image = image.copy()  # loaded, and no file any more
        return np.asarray(_shown(*_decode(image), image))
    except Exception as error:  # of a decoder: of any kind
        raise _unreadable(source, error) from None


def _shown(colours, opacity, image) -> Image.Image:
    """What was decoded of an image, as sRGB over white."""
    return colour.over_white(colour.to_srgb(colours, image.info.get("icc_profile")), opacity)


def size(path: str | os.PathLike) -> tuple[int, int]:
    """Height and width of an image file as it is shown, from its headers alone.

    Raises:
      UserError: as `read`, but what is wrong behind the headers is not noticed.
    """
    with _opened(path, MAX_PIXELS, pixels=False) as (image, _):
        sides = image.size[::-1]
        return sides[::-1] if metadata.orientation(image.info.get("exif")) >= 5 else sides


def _name(source) -> str | os.PathLike:
    return "standard input" if isinstance(source, bytes) else source


@contextlib.contextmanager
def _opened(source: str | os.PathLike | bytes, max_pixels: int, pixels: bool = True
            ) -> Iterator[tuple[ImageFile.ImageFile, BinaryIO]]:
    """Yields an image of which the headers are read, and what was read.

    Whatever goes wrong, here or in the block, is a UserError.
    """
    path, start = _name(source), b""
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            if not file.seekable():
                file = io.BytesIO(file.read())
            start = file.read(1024)
            file.seek(0)
            file, info = metadata.needed(file, pixels)
            with _LIMIT.at_least(max_pixels), Image.open(file, formats=formats.FORMATS) as image:
                if isinstance(image, TiffImagePlugin.TiffImageFile):
                    if tiff.is_camera_raw(image, start) or _suffix_not_read(path) == formats.CAMERA:
                        raise UserError(
                            f"{path}: {formats.CAMERA}: format not read here, and what else the "
                            "file holds are previews; convert it to PNG, JPEG or TIFF")
                    tiff.turn_to_picture(image, path)
                _check_pixels(source, image, max_pixels)
                image.info.update(info)
                yield image, file
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise UserError(f"{path} has more than {max_pixels / 1e6:g} megapixels") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not an image file") from None
    except Image.UnidentifiedImageError:
        name = _format_not_read(path, start)
        raise UserError(
            f"{path}: {name}: format not read here; convert it to PNG, JPEG or TIFF" if name else
            f"{path} is not an image file (or is empty, damaged or of an unusual kind)") from None
    except Exception as error:  # of a decoder: of any kind
        raise _unreadable(path, error) from None


def _unreadable(path, error):
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{path}: cannot be read as an image ({reason})")


class _PillowsLimit:
    """Pillow's limit of pixels: while images are read it is ours, then again what it was.

    Pillow raises an error at twice its limit; between the two it only warns, and we refuse.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._readers = 0
        self._before: int | None = None

    @contextlib.contextmanager
    def at_least(self, max_pixels: int) -> Iterator[None]:
        """A block within which it is at least this many; blocks of several threads may overlap."""
        with self._lock:
            if not self._readers:
                self._before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, 0
            self._readers += 1
            Image.MAX_IMAGE_PIXELS = max(max_pixels, Image.MAX_IMAGE_PIXELS or 0)
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                if not self._readers:
                    Image.MAX_IMAGE_PIXELS = self._before


_LIMIT = _PillowsLimit()


def _check_pixels(source, image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise UserError(f"{_name(source)} has {image.width} x {image.height} pixels, more than "
                        f"{max_pixels / 1e6:g} megapixels")
    if not image.width * image.height:
        raise UserError(f"{_name(source)} has no pixels ({image.width} x {image.height})")


def _format_not_read(path, start: bytes) -> str | None:
    """Name of the known format that a file which Pillow does not open has, by content or suffix."""
    if start[4:8] == b"ftyp" and start[8:12] in formats.BRANDS:
        return formats.BRANDS[start[8:12]]
    if b"<svg" in start:
        return "SVG"
    for beginning, name in formats.BEGINNINGS.items():
        if start.startswith(beginning):
            return name
    return _suffix_not_read(path) if start else None


def _suffix_not_read(path) -> str | None:
    return formats.NOT_READ.get(os.path.splitext(path)[1].lower())


def _count_pictures(image: Image.Image) -> int:
    if "pictures" in image.info:
        return image.info["pictures"]
    if image.format == "PSD":  # counts its layers
        return 1
    try:
        return getattr(image, "n_frames", 1)
    except Exception:  # a damaged one behind the first
        return 1


@functools.cache
def warn_once(message: str) -> None:
    """Logs a warning that this process has not logged before."""
    logging.warning("%s", message)


def _decode(image: Image.Image, file: BinaryIO | None = None
            ) -> tuple[Image.Image, Image.Image | None]:
    """Colours (mode 1, L, I;16, RGB, ...) and opacity (mode L, or None) of an image.

    Args:
      image: as `_opened` yields it, or loaded.
      file: what it was read of, if it was opened.
    """
    if image.info.get("transfer") in _HDR:
        raise ValueError(f"its {_HDR[image.info['transfer']]} samples are for displays of high "
                         "dynamic range; convert it to sRGB")
    tags: Mapping = {}
    raw: Any = ""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        if tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2:
            tiff.read_planes(image)
    if isinstance(image, ImageFile.ImageFile) and image.tile:
        raw = image.tile[0].args
    raw = str(raw[0] if isinstance(raw, tuple) and raw else raw)
    deep = ";16" in raw and not raw.startswith("RGBa")
    if deep and image.mode in ("RGB", "RGBA", "CMYK"):
        assert isinstance(image, ImageFile.ImageFile) and file
        return _decode_deep(image, file, raw)
    image.load()
    if image.info.get("jp2_bits", 8) > 8 and image.mode != "I;16":  # white becomes black
        raise ValueError("Pillow decodes JPEG 2000 with more than 8 bits wrongly, but for greys; "
                         "convert it to PNG or TIFF")
    if image.mode == "F":
        raise ValueError("floating-point samples have no agreed range; convert it to 8 or 16 bits")
    if image.mode.startswith("I"):
        samples = np.asarray(image)
        if samples.min() < 0 or samples.max() > 65535:
            raise ValueError("32-bit samples have no agreed range; convert it to 8 or 16 bits")
        if raw.startswith("I;12"):
            samples = (samples.astype(np.uint32) * 65535 + 2047) // 4095
        if tags.get(tiff.PHOTOMETRIC) == 0:  # 0 is white
            samples = 65535 - samples
        samples = samples.astype(np.uint16)
        return Image.fromarray(samples), _opacity(image, samples)
    if raw in ("L;2", "L;4") and "transparency" in image.info:  # is given in 2 or 4 bits
        image.info["transparency"] *= 85 if raw == "L;2" else 17
    return colour.split(image)


def _decode_deep(image: ImageFile.ImageFile, file: BinaryIO, raw: str
                 ) -> tuple[Image.Image, Image.Image | None]:
    """Colours of 16 bits, rounded. Pillow decodes their high bytes or, in the other order, the low.

    The rounding makes a step of 1/255 where cutting off makes one of 1/256.
    """
    file.seek(0)
    low = Image.open(file, formats=[image.format] if image.format else None)
    if image.tell():
        low.seek(image.tell())
    if isinstance(low, TiffImagePlugin.TiffImageFile) and low.tile[0][0] != image.tile[0][0]:
        tiff.read_planes(low)
    order = "B" if raw[-1] == "L" or (raw[-1] == "N" and sys.byteorder == "little") else "L"
    other = "RGBA" if raw.startswith("LA") else raw[:-1] + order  # LA: four bytes, as they are
    low.tile = [
        tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)
        for tile in low.tile]
    samples = np.asarray(low).astype(np.uint16)
    if raw.startswith("LA"):
        samples = samples[..., ::2] << 8 | samples[..., 1::2]
        opacity = Image.fromarray(colour.round_samples(samples[..., 1]))
        return Image.fromarray(np.ascontiguousarray(samples[..., 0])), opacity
    samples = samples | np.asarray(image).astype(np.uint16) << 8
    rounded = colour.round_samples(samples)
    if image.mode == "RGB":
        return Image.fromarray(rounded), _opacity(image, samples)
    return colour.split(Image.frombytes(image.mode, image.size, rounded.tobytes()))


def _opacity(image: Image.Image, samples: np.ndarray) -> Image.Image | None:
    key = image.info.get("transparency")
    return None if key is None else colour.opaque_but(samples, key)


def sift(paths: Iterable[str | os.PathLike], suffixes: tuple[str, ...] = formats.SUFFIXES
         ) -> tuple[list, str]:
    """The files of a folder that are taken, by their suffixes.

    Returns:
      The paths that are taken, as they came, and what is said of the others, '' if there are none:
      '2 .heic (HEIF: format not read here), 1 .txt, 1 folder(s)'. Of hidden files nothing is said;
      `._NAME` is what macOS keeps beside a file NAME, and not taken.
    """
    taken, left = [], collections.Counter()
    for path in paths:
        name = os.path.basename(path).lower()
        if name.startswith("._"):
            continue
        if name.endswith(suffixes):
            taken.append(path)
        elif not name.startswith("."):
            suffix = os.path.splitext(name)[1]
            left["folder(s)" if os.path.isdir(path) else suffix or "without a suffix"] += 1
    return taken, ", ".join(
        f"{count} {kind}"
        + f" ({formats.NOT_READ.get(kind)}: format not read here)" * (kind in formats.NOT_READ)
        for kind, count in sorted(left.items(), key=lambda item: (-item[1], item[0])))


def check_size(path: str | os.PathLike, height: int, width: int) -> None:
    """Whether `write` can write an image of these sides to this name.

    Raises:
      UserError: the suffix names no format that is written, or one that cannot hold such sides.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in formats.WRITTEN:
        raise UserError(f"{path}: write to a name that ends in one of {' '.join(formats.WRITTEN)}")
    name = Image.registered_extensions()[suffix]
    longest, _ = formats.OPTIONS[name]
    if longest and max(height, width) > longest:
        raise UserError(f"{path}: {name} holds at most {longest} pixels a side, not {width} x "
                        f"{height}; write PNG or TIFF instead")


def write(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes a uint8 array [H, W, 3] in the format that the suffix of `path` names.

    All formats are lossless but JPEG and AVIF, which are written at quality 95 without subsampling,
    and GIF, which holds 256 colours.

    Raises:
      UserError: the suffix names no image format that is written, the format cannot hold the sides,
        or the file cannot be written.
    """
    check_size(path, *image.shape[:2])
    name = Image.registered_extensions()[os.path.splitext(path)[1].lower()]
    picture = Image.fromarray(image)
    with replacing(path) as temporary:
        try:
            picture.save(temporary, name, **formats.OPTIONS[name][1])
        except (ValueError, OverflowError, RuntimeError, SystemError, struct.error) as error:
            raise UserError(f"cannot write {path} as {name}: {error}") from None


def to_png(image: np.ndarray) -> bytes:
    """A uint8 array [H, W, 3] as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def to_uint8(image: tf.Tensor) -> tf.Tensor:
    """Rounds a float image in [0, 1] to the uint8 image that a file would hold."""
    return tf.cast(tf.round(tf.clip_by_value(image, 0.0, 1.0) * 255.0), tf.uint8)
