"""Classical codecs, through Pillow and imagecodecs: everything is fixed but the quality.

Settings are those that PSNR likes best at moderate effort: AVIF and JPEG 2000 have colour in full
resolution, and AVIF's encoder is tuned for PSNR (by default it is for the eye: 0.6 dB less at equal
rate). JPEG has colour in half the resolution, as nearly all JPEGs do, and WebP has no other. JPEG
XL's encoder has no such choice: it aims at its own model of the eye.
"""

import bisect
import dataclasses
import functools
import io
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import PIL
from PIL import AvifImagePlugin, Image, features

from common import jpeg
from common.errors import UserError

_PILLOW = f"Pillow {PIL.__version__}"


@dataclasses.dataclass(frozen=True)
class Codec:
    """A codec as the benchmark uses it.

    Attributes:
      title: what people call it.
      encode: a uint8 image [H, W, 3] and a quality to the bytes of a file.
      decode: the bytes of a file to a uint8 image [H, W, 3].
      unit: what `encode` takes as the quality: "quality" (an integer) or "bpp".
      qualities: those of the benchmark, from about 0.1 to 2 bits per pixel of photographs.
      lowest, highest: of all qualities.
      settings: all else that was chosen, to be recorded.
      library: names and versions of what encodes.
    """

    title: str
    encode: Callable[[np.ndarray, Any], bytes]
    decode: Callable[[bytes], np.ndarray]
    qualities: tuple[float, ...]
    settings: dict[str, Any]
    library: str
    unit: str = "quality"
    lowest: int = 0
    highest: int = 100

    def largest(self, image: np.ndarray, num_bytes: int) -> tuple[int, bytes]:
        """The best quality whose file has at most `num_bytes`, and that file.

        It is found by bisection. Where even the lowest quality needs more bytes, it is that one.
        """
        encode = functools.cache(lambda quality: self.encode(image, quality))
        qualities = range(self.lowest, self.highest + 1)
        above = bisect.bisect_right(qualities, num_bytes, key=lambda q: len(encode(q)))
        quality = qualities[max(above - 1, 0)]
        return quality, encode(quality)


def find(name: str) -> Codec:
    """The codec of a name. Raises UserError."""
    if name not in CODECS:
        raise UserError(f"no codec '{name}'; there are: {', '.join(CODECS)}")
    return CODECS[name]


def _pillow(title, form, qualities, settings, library, options=lambda quality: {"quality": quality},
            **attributes):
    """A codec of Pillow; `options` says how the quality is passed on."""
    def encode(image, quality):
        file = io.BytesIO()
        Image.fromarray(image).save(file, form, **options(quality), **settings)
        return file.getvalue()

    return Codec(title, encode, jpeg.decode, qualities, settings, f"{_PILLOW}, {library}",
                 **attributes)


def _jpeg_xl():
    settings: dict[str, Any] = {"effort": 7, "numthreads": 1}
    return Codec(
        "JPEG XL",
        lambda image, quality: bytes(imagecodecs.jpegxl_encode(image, level=quality, **settings)),
        lambda file: imagecodecs.jpegxl_decode(file, numthreads=1),
        (5, 20, 40, 60, 75, 85, 91), settings,
        f"imagecodecs {imagecodecs.__version__}, {imagecodecs.jpegxl_version()}")


CODECS = {
    "jpeg": _pillow(
        "JPEG", "JPEG", (5, 10, 20, 35, 55, 75, 88), jpeg.SETTINGS,
        f"libjpeg-turbo {features.version('libjpeg_turbo')}", lowest=1, highest=95),
    # Without the colour transform (mct), which is off by default, PSNR is 2 to 5 dB lower.
    "jpeg2000": _pillow(
        "JPEG 2000", "JPEG2000", (0.1, 0.2, 0.35, 0.6, 1, 1.5, 2),
        {"quality_mode": "rates", "irreversible": True, "mct": 1},
        f"OpenJPEG {features.version('jpg_2000')}",
        options=lambda bpp: {"quality_layers": [24 / bpp]}, unit="bpp"),
    "webp": _pillow(
        "WebP", "WEBP", (0, 10, 30, 50, 70, 82, 91), {"method": 6},
        f"libwebp {features.version('webp')}"),
    "avif": _pillow(
        "AVIF", "AVIF", (6, 16, 26, 37, 49, 62, 78),
        # Pillow's default, several tiles, costs 0.4 to 2 % of the bytes at 768 x 512.
        {"subsampling": "4:4:4", "speed": 6, "max_threads": 1, "codec": "aom", "autotiling": False,
         "advanced": {"tune": "psnr"}},
        f"libavif {features.version('avif')}, libaom {AvifImagePlugin.get_codec_version('aom')}"),
    "jxl": _jpeg_xl(),
}
