"""The level of a model with levels at which an image is coded: a quality, a size or a PSNR.

A level that meets a target is found by bisection on real codings, of which 201 levels take eight.
Sizes and PSNRs nearly always grow with the level. The returned file meets the target; where they do
not grow, a level that was not tried may meet it with a better file.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from common import coding, export, images, metrics
from common.errors import OutOfReach, UserError
from common.levels import DEFAULT_QUALITY
from common.model import Codec, Latents
from common.timing import stage

# What can be asked for, and the lowest and the highest value that make sense.
KINDS = {
    "quality": (0.0, 100.0),
    "bpp": (0.0, math.inf),
    "max_bytes": (1.0, math.inf),
    "psnr": (0.0, math.inf),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """A requirement for a file.

        quality     0 (smallest file) to 100, evenly spaced in the logarithm of lambda
        bpp         bits per pixel that the file must not exceed
        max_bytes   bytes that the file must not exceed
        psnr        dB that the decoded 8-bit RGB image must have, as the encoder's machine decodes

    Args:
      kind: one of these.
      value: of it.

    Raises:
      UserError: a value that makes no sense.
    """

    kind: str
    value: float

    def __post_init__(self):
        low, high = KINDS[self.kind]
        if not low <= self.value <= high or math.isinf(self.value):
            need = f"{low:g} to {high:g}" if high < math.inf else f"at least {low:g}"
            raise UserError(f"{self}: need {need}")

    def __str__(self):
        return f"{self.kind} {self.value:.10g}"


def only(**values: float | None) -> Target | None:
    """The target that values by kind give, at most one of which is not None; None if all are.

    Raises:
      UserError: there are several, or the value makes no sense.
    """
    given = {kind: value for kind, value in values.items() if value is not None}
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} are given; a file has one target")
    return Target(*given.popitem()) if given else None


def level(model: Codec, quality: float | None) -> int | None:
    """The level of a quality, or of the default one; None for a model of one rate.

    Raises:
      UserError: `quality` is not 0 to 100, or it is given for a model of one rate.
    """
    if quality is not None:
        Target("quality", quality)
        require_levels(model, "quality")
    if model.levels is None:
        return None
    return model.levels.at_quality(DEFAULT_QUALITY if quality is None else quality)


def require_levels(model: Codec, asked: str) -> None:
    """Raises UserError, saying what was `asked` for, if it is a model of one rate."""
    if model.levels is None:
        released = [name for name, path in export.released_models().items()
                    if export.read_levels(path)]
        example = f", as {released[-1]} is" if released else ""
        raise UserError(f"{asked} needs a model with levels{example}; this one was trained for one "
                        "rate")


class Coded(NamedTuple):
    """A file that an image was coded to.

    Attributes:
      ntc: its bytes.
      level: of the model; None for a model of one rate.
      psnr: of what it decodes to; NaN unless that was the target.
    """

    ntc: bytes
    level: int | None = None
    psnr: float = math.nan


def compress(model: Codec, image: np.ndarray, target: Target | None, *, closest: bool = False,
             to_latents: Callable[[Codec, np.ndarray, int | None], Latents] = coding.infer,
             max_pixels: int = images.MAX_PIXELS) -> Coded:
    """Codes an image so that the file meets a target: the best that is not larger, or the smallest
    that is as good.

    With refinement, the level is found for the encoder's own latents first, and then corrected by
    what refinement gained: the target is met, but not as closely.

    Args:
      model: an exported model.
      image: as of `coding.compress`.
      target: of a model with levels; None for the default quality, or of a model of one rate.
      closest: take the nearest level to a target that is out of reach.
      to_latents: where the latents of the file come from; `Refiner.infer` refines them.
      max_pixels: larger images, after padding, are refused.

    Raises:
      OutOfReach: no file meets the target.
      UserError: it is for a model with levels, or as of `coding.compress`.
    """
    image = coding.as_rgb(image)
    if target:
        require_levels(model, str(target))
    if model.levels is None:
        return Coded(coding.compress(model, image, max_pixels, to_latents))
    levels, target = model.levels, target or Target("quality", DEFAULT_QUALITY)
    height, width, _ = image.shape
    coding.check_size(model, height, width, max_pixels)
    measured = target.kind == "psnr"
    if target.kind == "quality":
        level = levels.at_quality(target.value)
        return Coded(coding.compress(model, image, max_pixels, to_latents, level), level)
    limit = target.value
    if target.kind == "bpp":
        limit = target.value * height * width / 8

    def coded(latents, level):
        ntc = coding.encode(model, latents, height, width)
        psnr = math.nan
        if measured:
            psnr = metrics.psnr(image, coding.decompress(model, ntc, max_pixels))
        return Coded(ntc, level, psnr)

    def choose(files, limit):
        """The best of some files within the limit, or that which comes closest; whether it is."""
        if measured:
            good = [file for file in files if file.psnr >= limit]
            best = (min(good, key=lambda file: len(file.ntc)) if good else
                    max(files, key=lambda file: file.psnr))
        else:
            good = [file for file in files if len(file.ntc) <= limit]
            best = (max(good, key=lambda file: file.level) if good else
                    min(files, key=lambda file: len(file.ntc)))
        return best, bool(good)

    # Where it does not depend on the level, one analysis is enough.
    y, files = None, {}

    def beyond(level, limit):
        nonlocal y
        if level not in files:
            with stage("analysis"):
                if y is None or levels.scales:
                    y = model.to_latent(image[None], level=level)
                latents = model.at_level(y, level=level)
            files[level] = coded(latents, level)
        return files[level].psnr >= limit if measured else len(files[level].ntc) > limit

    def search(limit):
        _first(levels.count, lambda level: beyond(level, limit))
        return choose(files.values(), limit)

    found, met = search(limit)
    if to_latents is not coding.infer:
        refined = [coded(to_latents(model, image, found.level), found.level)]
        # What refinement adds to the PSNR, or saves of the bytes, it should elsewhere too.
        corrected, _ = search(
            limit - (refined[0].psnr - found.psnr) if measured else
            limit * len(found.ntc) / len(refined[0].ntc))
        if corrected.level != found.level:
            refined.append(coded(to_latents(model, image, corrected.level), corrected.level))
        found, met = choose([*refined, found], limit)
    if not met and not closest:
        reach = (f"the best file that was found has {found.psnr:.2f} dB" if measured else
                 f"the smallest file that was found has {len(found.ntc)} bytes "
                 f"({8 * len(found.ntc) / height / width:.4f} bpp)")
        raise OutOfReach(f"{target} is out of reach: {reach}")
    return found


def _first(count: int, holds: Callable[[int], bool]) -> int:
    """The first of 0 .. count - 1 from which on it holds, or `count`."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
