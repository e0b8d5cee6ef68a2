"""Image files, and the padding that lets a model take images of any size."""

import collections
import io
import os
import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf
from PIL import Image, ImageCms, ImageOps

from common.cli import UserError
from common.files import replacing

Image.init()
# Formats that Pillow opens and that are not read here: they need other programs, are no pictures of
# pixels, or what Pillow reads of them is a smaller picture or has no agreed range of values.
_OTHER = {"BUFR": "BUFR", "EPS": "PostScript", "FITS": "FITS", "GRIB": "GRIB", "HDF5": "HDF5",
          "IPTC": "IPTC", "MPEG": "MPEG video", "PALM": "Palm", "PCD": "Photo CD", "PDF": "PDF",
          "WMF": "Windows metafile"}
# What is read: formats as Pillow names them, and the suffixes of their files.
FORMATS = tuple(sorted(
    {*Image.OPEN, "MPO"} & {*Image.registered_extensions().values()} - {*_OTHER}))
SUFFIXES = tuple(suffix for suffix, name in Image.registered_extensions().items()
                 if name in FORMATS)
# Known formats of pictures that are not read, by suffix.
NOT_READ = {
    **{suffix: _OTHER[name] for suffix, name in Image.registered_extensions().items()
       if name in _OTHER},
    **dict.fromkeys((".heic", ".heif", ".heics", ".heifs", ".hif", ".avci"), "HEIF"),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".raf",
                     ".orf", ".rw2", ".raw", ".pef", ".srw", ".x3f", ".3fr", ".fff", ".iiq", ".erf",
                     ".kdc", ".dcr", ".mrw", ".mef", ".mos", ".rwl", ".gpr"), "camera raw"),
    ".jxl": "JPEG XL", ".jxr": "JPEG XR", ".wdp": "JPEG XR", ".hdp": "JPEG XR", ".jls": "JPEG-LS",
    ".jph": "HTJ2K", ".jhc": "HTJ2K", ".svg": "SVG", ".svgz": "SVG", ".djvu": "DjVu",
    ".djv": "DjVu", ".mng": "MNG", ".jng": "JNG", ".dpx": "DPX", ".cin": "Cineon",
    ".hdr": "Radiance HDR", ".exr": "OpenEXR", ".dcm": "DICOM", ".psb": "Photoshop, large",
    ".xcf": "GIMP", ".kra": "Krita", ".ai": "Illustrator", ".bpg": "BPG", ".flif": "FLIF",
    ".pam": "PAM",
}

# Formats that are written: the suffixes, the longest side that they can hold, and how.
_WRITTEN = {
    "PNG": (None, {}),
    "JPEG": (65500, dict(quality=95, subsampling="4:4:4")),
    "WEBP": (16383, dict(lossless=True)),
    "TIFF": (None, {}), "BMP": (None, {}), "DIB": (None, {}), "PPM": (None, {}),
    "JPEG2000": (None, {}), "QOI": (None, {}), "TGA": (65535, {}), "PCX": (65534, {}),
    "SGI": (65535, {}), "GIF": (65535, {}),
    "AVIF": (32768, dict(quality=95, subsampling="4:4:4")),
}
WRITTEN = tuple(suffix for suffix, name in Image.registered_extensions().items()
                if name in _WRITTEN and suffix not in (".pbm", ".pgm", ".pfm", ".bw", ".rgba"))

# A few kilobytes shall not ask for gigabytes of memory.
MAX_PIXELS = 200_000_000
# Pillow raises an error at twice its limit; between the two it would only warn, and we refuse.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def read(source: str | os.PathLike | bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads an image file, or the bytes of one, the way an image viewer shows it.

    EXIF orientation is applied, an embedded colour profile is converted to sRGB, transparency is
    laid over white, 16-bit grey is rounded to 8 bits (of 16-bit colour, Pillow keeps the high
    byte), and grey becomes RGB.

    Returns:
      uint8 array [H, W, 3].

    Raises:
      UserError: the file is missing, empty, truncated, not an image, or has more than
        `max_pixels` pixels.
    """
    Image.MAX_IMAGE_PIXELS = max(MAX_PIXELS, max_pixels)
    path = "standard input" if isinstance(source, bytes) else source
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.width * image.height > max_pixels:
                raise UserError(f"{path} has {image.width} x {image.height} pixels, more than "
                                f"{max_pixels / 1e6:g} megapixels")
            image.load()
            return np.asarray(_to_rgb(image))
    except Image.DecompressionBombError:
        raise UserError(f"{path} has more than {max_pixels / 1e6:g} megapixels") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not an image file") from None
    except Image.UnidentifiedImageError:
        raise UserError(f"{path} is not an image file (or is empty)") from None
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as an image ({error})") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey; 65535 = 257 * 255
        samples = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((samples + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point samples have no agreed range; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    if image.mode == "P":
        image = image.convert("RGB")
    if profile and image.mode in ("RGB", "CMYK"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(
                image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            pass  # A damaged profile is ignored, as viewers do.
    return image.convert("RGB")


def sift(paths: Iterable[str | os.PathLike], suffixes: tuple[str, ...] = SUFFIXES
         ) -> tuple[list, str]:
    """Which files of a folder are taken, by their suffixes.

    Returns:
      The paths that are taken, as they came, and what is said of the others, '' if there are none:
      '2 .heic (HEIF: format not read here), 1 .txt, 1 folder(s)'. Hidden files are neither; `._NAME`
      is what macOS keeps beside a file NAME.
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
        f"{count} {kind}" + f" ({NOT_READ.get(kind)}: format not read here)" * (kind in NOT_READ)
        for kind, count in sorted(left.items(), key=lambda item: (-item[1], item[0])))


def check_size(path: str | os.PathLike, height: int, width: int) -> None:
    """Whether `write` can write an image of these sides to this name.

    Raises:
      UserError: the suffix names no format that is written, or one that cannot hold such sides.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in WRITTEN:
        raise UserError(f"{path}: write to a name that ends in one of {' '.join(WRITTEN)}")
    name = Image.registered_extensions()[suffix]
    longest, _ = _WRITTEN[name]
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
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, name, **_WRITTEN[name][1])


def to_png(image: np.ndarray) -> bytes:
    """A uint8 array [H, W, 3] as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def to_uint8(image: tf.Tensor) -> tf.Tensor:
    """Rounds a float image in [0, 1] to the uint8 image that a file would hold."""
    return tf.cast(tf.round(tf.clip_by_value(image, 0.0, 1.0) * 255.0), tf.uint8)


def pad_to_multiple(x: tf.Tensor, multiple: int) -> tf.Tensor:
    """Repeats the last row and column until height and width are multiples of `multiple`.

    Replication works for every size (reflection needs more pixels than it adds), and a constant
    border costs few bits.

    Args:
      x: [B, H, W, C], any H, W >= 1.
      multiple: positive int.
    """
    for axis in (1, 2):
        size = x.shape[axis]
        if size is not None and size % multiple == 0:
            continue
        size = tf.shape(x)[axis]
        padded = -(-size // multiple) * multiple
        x = tf.gather(x, tf.minimum(tf.range(padded), size - 1), axis=axis)
    return x


def crop_to(x: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Crops `x` [B, H', W', C] at the bottom and the right to the height and width of `like`."""
    if x.shape[1:3].is_fully_defined() and x.shape[1:3] == like.shape[1:3]:
        return x
    return crop(x, (0, 0), tf.unstack(tf.shape(like)[1:3]))


def crop(x: tf.Tensor, begin: Sequence, sides: Sequence) -> tf.Tensor:
    """A part of `x` [B, H, W, C]; as x[:, top:top + height, left:left + width].

    The gradient of that takes ten times as long: it writes element by element.

    Args:
      x: any tensor.
      begin: top and left.
      sides: height and width of the part.
    """
    part = tf.slice(x, [0, *begin, 0], [-1, *sides, -1])
    part.set_shape([x.shape[0], None, None, x.shape[3]])
    return part
