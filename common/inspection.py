"""Figures of what a model makes of an image: latents, their predictions, and where the bits go."""

import math
import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from PIL import Image

from common import coding, images, metrics, quantizers
from common.files import replacing
from common.model import Codec, Prediction

# What the figures may be.
SUFFIXES = (".png", ".svg", ".pdf")

_COLUMNS = 3  # of the figure


def is_photograph(path: str | os.PathLike) -> bool:
    """Whether a file is an image other than a figure, which matplotlib marks as its own."""
    try:
        with Image.open(path) as image:
            return not image.info.get("Software", "").startswith("Matplotlib")
    except OSError:
        return False
    except Exception:  # a decoder's: matplotlib's figures have nothing odd
        return True


class Inspection(NamedTuple):
    """Latents, predictions and bits of an image.

    Attributes:
      image: uint8 [H, W, 3].
      decoded: uint8 [H, W, 3]; from its file.
      num_bytes: of its file.
      y: float32 [h, w, C]; quantised, as in its file.
      prediction: of y, [h, w, C] each; None if all images have the same.
      bits: for each latent float32 [h', w', C'], the information content of its elements.
      strides: as `Codec.strides`.
    """

    image: np.ndarray
    decoded: np.ndarray
    num_bytes: int
    y: np.ndarray
    prediction: Prediction | None
    bits: dict[str, np.ndarray]
    strides: dict[str, int]


def inspect(model: Codec, image: np.ndarray, max_pixels: int = images.MAX_WHOLE_PIXELS,
            level: int | None = None) -> Inspection:
    """Codes an image, and keeps what is seen on the way.

    Args:
      model: an exported model.
      image: uint8 [H, W, 3].
      max_pixels: larger images, after padding, are refused.
      level: as of `coding.compress`.

    Raises:
      UserError: as `coding.compress`.
    """
    image = coding.as_rgb(image)
    ntc = coding.compress(model, image, max_pixels, level=level)
    decoded = coding.decode(model, ntc)
    generated = model.generate(decoded.latents, quantizers.Round())

    def first(values):
        return tf.nest.map_structure(lambda value: value[0].numpy(), values)

    return Inspection(image, coding.reconstruct(model, decoded), len(ntc),
                      first(decoded.latents["y"]),
                      generated.prediction and first(generated.prediction),
                      first(generated.element_bits), model.strides)


def draw(path: str | os.PathLike, inspection: Inspection, title: str) -> None:
    """Draws an inspection; `title` goes before what it measured."""
    panels = _panels(inspection)
    height, width, _ = inspection.image.shape
    lines = -(-len(panels) // _COLUMNS)
    # Pictures longer or wider than this are drawn into a part of their place.
    aspect = np.clip(height / width, 0.5, 2.0)
    figure = Figure(figsize=(4.8 * _COLUMNS, (4 * aspect + 0.5) * lines + 0.7),
                    layout="constrained")
    figure.suptitle(f"{title}\n{_summary(inspection)}", parse_math=False)
    cells = figure.subplots(lines, _COLUMNS, squeeze=False).flat
    for cell, panel in zip(cells, panels):
        _draw_panel(cell, panel, height, width)
    for cell in cells[len(panels):]:
        cell.axis("off")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)


class _Panel(NamedTuple):
    """Values to be drawn [h, w] in colours of a map, or a picture [H, W, 3].

    Attributes:
      limits: the values of the first and the last colour; None for the smallest and the largest.
      stride: the pixels a side that a value stands for.
    """

    title: str
    values: np.ndarray
    colours: str | None = None
    limits: tuple[float | None, float | None] = (None, None)
    stride: int = 1


def _panels(inspection):
    image, decoded, _, y, prediction, bits, strides = inspection
    difference = decoded.astype(np.int16) - image
    gain = max(1, int(127 / max(1, np.percentile(np.abs(difference), 99))))
    error = np.clip(128 + gain * difference, 0, 255).astype(np.uint8)
    panels = [
        _Panel("input", image),
        _Panel("reconstruction", decoded),
        _Panel(f"error x {gain}, on grey", error),
    ]
    by_channel = bits["y"].sum(axis=(0, 1))
    channel = int(np.argmax(by_channel))
    share = by_channel[channel] / max(by_channel.sum(), 1e-9)
    value, stride = y[..., channel], strides["y"]
    name = f"y, channel {channel} of {y.shape[-1]}: {by_channel[channel]:.0f} bits, {share:.1%}"
    if prediction is None:
        panels.append(_Panel(name, value, "gray", stride=stride))
    else:
        mean, deviation = (part[..., channel] for part in prediction)
        residual = (value - mean) / deviation
        limits = min(value.min(), mean.min()), max(value.max(), mean.max())
        largest = max(1.0, float(np.abs(residual).max()))
        panels += [
            _Panel(name, value, "gray", limits, stride),
            _Panel("its predicted mean", mean, "gray", limits, stride),
            _Panel("its predicted standard deviation", deviation, "viridis", stride=stride),
            _Panel("(y - mean) / standard deviation", residual, "RdBu_r", (-largest, largest),
                   stride),
        ]
    for latent, stride in strides.items():
        bpp = bits[latent].sum(axis=-1) / stride**2
        panels.append(_Panel(f"bits of {latent} per pixel", bpp, "inferno", (0, None), stride))
    return panels


def _summary(inspection):
    image, decoded = inspection.image, inspection.decoded
    pixels = image.shape[0] * image.shape[1]
    latents = ", ".join(f"{name} {bits.sum(dtype=np.float64) / pixels:.4f} bpp"
                        for name, bits in inspection.bits.items())
    quality = f"{metrics.psnr(image, decoded):.2f} dB"
    ms_ssim = metrics.ms_ssim(image, decoded)
    if not math.isnan(ms_ssim):
        quality += f", MS-SSIM {ms_ssim:.4f}"
    return (f"file {8 * inspection.num_bytes / pixels:.4f} bpp ({inspection.num_bytes} bytes); "
            f"estimated {latents}; {quality}")


def _draw_panel(cell, panel, height, width):
    rows, columns = panel.values.shape[:2]
    low, high = panel.limits
    shown = cell.imshow(
        panel.values, panel.colours, vmin=low, vmax=high,
        interpolation="nearest" if panel.colours else None,
        extent=(0, columns * panel.stride, rows * panel.stride, 0))
    # At the lower and the right border, positions may stand for padding too.
    cell.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    cell.set_title(panel.title, fontsize=10)
    # Pictures get the place of a bar too, so that all are of one size.
    place = cell.inset_axes([1.02, 0, 0.04, 1])
    if panel.colours:
        cell.figure.colorbar(shown, cax=place)
    else:
        place.axis("off")
