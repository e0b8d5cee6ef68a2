"""Figures of pictures side by side."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from common.cli import printable
from common.files import replacing


def draw(path: pathlib.Path, rows: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Draws rows of pictures, each under its title, into a file.

    Args:
      path: file to write; its suffix says the format.
      rows: for each row its pictures by title, uint8 [H, W, 3]. All rows have as many.
    """
    sizes = np.array([[picture.shape[:2] for picture in row.values()] for row in rows])
    height, width = sizes[..., 0].max(axis=1).sum(), sizes[..., 1].max(axis=0).sum()
    figure = Figure(figsize=(width / 100, height / 100 + 0.5 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    for line, row in zip(panels, rows):
        for panel, (title, picture) in zip(line, row.items(), strict=True):
            panel.imshow(picture, interpolation="none")
            panel.set_title(printable(title), fontsize=9, parse_math=False)
            panel.axis("off")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)
