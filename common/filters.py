"""Figures of filters: what each channel of y adds to an image, in the order of their use."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from common import coding, quantizers
from common.files import replacing
from common.model import Codec

# Positions of y on each side of an impulse, decoded and shown. Four layers of 5x5 and stride 2 see
# 15 / 8 of them; in a model of mshyper/configs/small.py, 94 % or more of a channel's energy is in
# what is shown.
_AROUND, _SHOWN = 2, 1

# Impulses that are decoded at a time.
_BATCH = 32

# Of the figure: its columns, and the pixels between them, where labels are.
_TILE_COLUMNS, _GAP = 16, 10


def responses(model: Codec, values: np.ndarray, level: int | None = None) -> np.ndarray:
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
    nothing, found = decode(zeros), []
    for batch in np.array_split(np.arange(channels), -(-channels // _BATCH)):
        y = np.repeat(zeros, len(batch), axis=0)
        y[np.arange(len(batch)), _AROUND, _AROUND, batch] = values[batch]
        found.append(decode(y) - nothing)
    return np.concatenate(found)


class ChannelUse(NamedTuple):
    """The use of the channels of y in an image.

    Attributes:
      rates: float64 [C], in bits per pixel.
      sizes: float64 [C]; root mean squares of the quantised values.
    """

    rates: np.ndarray
    sizes: np.ndarray


def measure_channels(model: Codec, image: np.ndarray, level: int | None = None) -> ChannelUse:
    """Measures the use of the channels of y in an image, as `coding.as_rgb` takes it."""
    image = coding.as_rgb(image)
    generated = model.generate(coding.infer(model, image, level), quantizers.Round())
    bits, y = (np.float64(x["y"][0]) for x in (generated.element_bits, generated.latents))
    return ChannelUse(bits.sum(axis=(0, 1)) / (image.shape[0] * image.shape[1]),
                      np.sqrt(np.mean(y**2, axis=(0, 1))))


def draw(path: str | os.PathLike, model: Codec, title: str,
         uses: Sequence[ChannelUse] = (), level: int | None = None) -> None:
    """Draws the `responses`, each scaled to fill the range of colours around grey.

    Args:
      path: file to write.
      model: any.
      title: what goes before the explanation.
      uses: of the channels in some images: those with the highest mean rates come first, and the
        elements are as large as there. Without any they are 1, in the order of the channels.
      level: as of `responses`.
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
    response = responses(model, values, level)[order]
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
