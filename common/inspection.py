"""Figures of what a model makes of an image: latents, their predictions, and where the bits go."""

import math
import os
from collections.abc import Sequence
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

# Positions of y on each side of an impulse, decoded and shown. Four layers of 5x5 and stride 2 see
# 15 / 8 of them; in a model of mshyper/configs/small.py, 94 % or more of a channel's energy is in
# what is shown.
_AROUND, _SHOWN = 2, 1

# Impulses that are decoded at a time.
_BATCH = 32

_COLUMNS = 3  # of the figure of an image

# Of the figure of the filters: its columns, and the pixels between them, where labels are.
_TILE_COLUMNS, _GAP = 16, 10


def is_photograph(path: str | os.PathLike) -> bool:
    """Whether a file is an image other than a figure, which matplotlib marks as its own."""
    try:
        with Image.open(path) as image:
            return not image.info.get("Software", "").startswith("Matplotlib")
    except OSError:
        return False
    except Exception:  # a decoder's: matplotlib's figures have nothing odd
        return True


# --- An image ---------------------------------------------------------------------------------


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


# --- Filters ----------------------------------------------------------------------------------


def filters(model: Codec, values: np.ndarray, level: int | None = None) -> np.ndarray:
    """The contribution of each channel of y to an image (Yang & Mandt 2023).

    That is the image of y that is zero but for one element, less that of zeros. Where the
    synthesis is not linear it depends on the element's value.

    Args:
      model: any.
      values: float [C]; of that element in each channel.
      level: of a model with levels, as of `coding.compress`.

    Returns:
      float32 [C, 3 * stride, 3 * stride, 3]; the element's position in the middle.
    """
    side, channels = 2 * _AROUND + 1, len(values)
    margin = (_AROUND - _SHOWN) * model.synthesis.stride

    def decode(y):
        at = model.level_latent(level, len(y))
        x_hat = model.to_image(tf.constant(y), **at)
        return x_hat[:, margin:-margin, margin:-margin].numpy()

    zeros = np.zeros([1, side, side, channels], np.float32)
    nothing, responses = decode(zeros), []
    for batch in np.array_split(np.arange(channels), -(-channels // _BATCH)):
        y = np.repeat(zeros, len(batch), axis=0)
        y[np.arange(len(batch)), _AROUND, _AROUND, batch] = values[batch]
        responses.append(decode(y) - nothing)
    return np.concatenate(responses)


class ChannelUse(NamedTuple):
    """How the channels of y are used in an image.

    Attributes:
      rates: float64 [C], in bits per pixel.
      sizes: float64 [C]; root mean squares of the quantised values.
    """

    rates: np.ndarray
    sizes: np.ndarray


def measure_channels(model: Codec, image: np.ndarray, level: int | None = None) -> ChannelUse:
    """How the channels of y are used in an image, as `coding.as_rgb` takes it."""
    image = coding.as_rgb(image)
    generated = model.generate(coding.infer(model, image, level), quantizers.Round())
    bits, y = (np.float64(x["y"][0]) for x in (generated.element_bits, generated.latents))
    return ChannelUse(bits.sum(axis=(0, 1)) / (image.shape[0] * image.shape[1]),
                      np.sqrt(np.mean(y**2, axis=(0, 1))))


def draw_filters(path: str | os.PathLike, model: Codec, title: str,
                 uses: Sequence[ChannelUse] = (), level: int | None = None) -> None:
    """Draws `filters`, each scaled to fill the range of colours around grey.

    Args:
      path: file to write.
      model: any.
      title: what goes before the explanation.
      uses: of the channels in some images: those with the highest mean rates come first, and the
        elements are as large as there. Without any they are 1, in the order of the channels.
      level: as of `filters`.
    """
    channels = model.analysis.out_channels
    if uses:
        rates, sizes = (np.mean(values, axis=0) for values in zip(*uses))
        # Rounded to less, an element would be 0 in most files.
        order, values = np.argsort(-rates, kind="stable"), np.maximum(sizes, 1.0)
        labels = [f"{i}: {rates[i] / max(rates.sum(), 1e-9):.1%}" for i in order]
        value = "the channel's root mean square, at least 1; with the channels' shares of y's bits"
    else:
        order, values = np.arange(channels), np.ones(channels)
        labels = [str(i) for i in order]
        value = "1"
    response = filters(model, values, level)[order]
    largest = np.abs(response).max(axis=(1, 2, 3), keepdims=True)
    pictures = 0.5 + response / (2 * np.maximum(largest, 1e-9))
    lines, size = -(-channels // _TILE_COLUMNS), pictures.shape[1] + _GAP
    mosaic = np.ones([lines * _TILE_COLUMNS, size, size, 3])
    mosaic[:channels, _GAP:, :-_GAP] = pictures
    mosaic = mosaic.reshape(lines, _TILE_COLUMNS, size, size, 3).swapaxes(1, 2)
    figure = Figure(figsize=(_TILE_COLUMNS, lines + 0.8), layout="constrained")
    figure.suptitle(f"{title}\nwhat one element of each channel of y adds to the image of zeros, "
                    f"each at its own scale; it is {value}", parse_math=False)
    axes = figure.subplots()
    axes.imshow(mosaic.reshape(lines * size, _TILE_COLUMNS * size, 3))
    axes.axis("off")
    for i, label in enumerate(labels):
        line, column = divmod(i, _TILE_COLUMNS)
        axes.text(column * size, line * size + _GAP - 2, label, fontsize=7)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
