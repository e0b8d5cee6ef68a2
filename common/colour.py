"""Colours of decoded images as a viewer shows them: sRGB, 8 bits, over white."""

import io
import struct

import numpy as np
from PIL import Image, ImageCms

# Colours that a profile is for, and the mode in which littleCMS takes them.
_MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK", "Lab": "LAB"}
# littleCMS's tables are off by up to 9 of 255 in dark greys.
_NO_OPTIMISATION = ImageCms.Flags.NOOPTIMIZE


def gamma_profile(gamma: float) -> bytes | None:
    """An ICC profile with sRGB's primaries and the curve light = sample^gamma.

    None if that is nearly sRGB's own curve, or if no screen has such a `gamma`.
    """
    if abs(gamma / 2.2 - 1) < 0.05 or not 0.5 <= gamma <= 5:
        return None
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    begin = profile.index(b"para\0\0\0\0\0\3")  # the curve, of seven parameters
    power = struct.pack(">4s4xH2xi", b"para", 0, round(65536 * gamma))
    return profile[:begin] + power + profile[begin + len(power):]


def to_srgb(colours: Image.Image, profile: bytes | None) -> Image.Image:
    """Converts colours without transparency.

    Args:
      colours: of mode 1, L, I;16 (0..65535), RGB, CMYK, LAB, YCbCr, ...
      profile: ICC. One that is damaged or for other colours is ignored, as viewers do.

    Returns:
      of mode RGB.
    """
    if profile:
        try:
            return _convert(colours, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
        except Exception:  # whatever littleCMS says of it
            pass
    return colours if colours.mode == "RGB" else round_to_8_bits(colours).convert("RGB")


def _convert(colours: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    mode = _MODES[profile.profile.xcolor_space.strip()]
    srgb = ImageCms.createProfile("sRGB")
    if colours.mode in ("1", "L", "I;16") and mode == "L":
        samples = np.asarray(colours.convert("L") if colours.mode == "1" else colours)
        ramp = np.arange(256 if samples.dtype == np.uint8 else 65536, dtype=samples.dtype)
        table = ImageCms.profileToProfile(Image.fromarray(ramp[None]), profile, srgb,
                                          outputMode="RGB", flags=_NO_OPTIMISATION)
        return Image.fromarray(np.asarray(table)[0][samples])
    if mode != colours.mode and (mode != "RGB" or colours.mode in ("CMYK", "LAB")):
        raise ValueError("a profile for other colours")
    return ImageCms.profileToProfile(  # type: ignore[return-value]  # None is for those in place
        round_to_8_bits(colours).convert(mode), profile, srgb, outputMode="RGB")


def round_to_8_bits(image: Image.Image) -> Image.Image:
    """Samples 0..65535 of mode I;16 to mode L; others are left as they are."""
    if image.mode != "I;16":
        return image
    return Image.fromarray(round_samples(np.asarray(image)))


def round_samples(samples: np.ndarray) -> np.ndarray:
    """uint16 to uint8, rounded; 65535 = 257 * 255."""
    quotient, rest = np.divmod(samples, np.uint16(257))
    return (quotient + (rest > 128)).astype(np.uint8)


def split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours of a decoded image, and its opacity (mode L), or None where all is opaque.

    The transparent colour of modes 1, L, I;16 and RGB is `image.info["transparency"]`.
    """
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode in ("LA", "RGBA"):
        return image.convert(image.mode[:-1]), image.getchannel("A")
    key = image.info.get("transparency")
    if key is None or image.mode not in ("1", "L", "I;16", "RGB"):
        return image, None
    samples = np.asarray(image.convert("L") if image.mode == "1" else image)
    return image, opaque_but(samples, key)


def opaque_but(samples: np.ndarray, colour: int | tuple[int, ...]) -> Image.Image:
    """Opacity (mode L) of an image of which one colour is transparent.

    Args:
      samples: [H, W] or [H, W, 3].
      colour: a number, or three.
    """
    differs = samples != np.asarray(colour)
    differs = differs.any(-1) if differs.ndim == 3 else differs
    return Image.fromarray(255 * differs.astype(np.uint8))


def over_white(colours: Image.Image, opacity: Image.Image | None) -> Image.Image:
    """Colours (mode RGB) of the given opacity (mode L) on a white ground."""
    if opacity is None:
        return colours
    white = Image.new("RGB", colours.size, "white")
    white.paste(colours, mask=opacity)
    return white
