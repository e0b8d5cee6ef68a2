"""The log of a training: <run>/metrics.jsonl, and events for TensorBoard.

A line of metrics.jsonl is of one step and one split: "train" (means since the line before),
"validation", and of models with levels "validation/level=<n>".
"""

import contextlib
import json
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import logging

from common import checkpoints
from common.files import replacing
from common.lazy import Figure, FigureCanvasAgg

NAME = "metrics.jsonl"


class Log:
    """Writes metrics.jsonl and TensorBoard events.

    Args:
      folder: the run's.

    Raises:
      UserError: events cannot be written there.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        with checkpoints.writing(folder / "tensorboard"):
            self._writer = tf.summary.create_file_writer(str(folder / "tensorboard"))

    def keep(self, is_done: Callable[[dict], bool]) -> None:
        """Keeps the lines of metrics.jsonl for which `is_done` returns true."""
        path = self._folder / NAME
        kept = [line for line in read(path) if is_done(line)]
        with replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def scalars(self, step: int, split: str, values: dict[str, float]) -> None:
        """Writes a line of metrics.jsonl, and its numbers as events."""
        with open(self._folder / NAME, "a") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        with self._events():
            for name, value in values.items():
                tf.summary.scalar(f"{split}/{name}", value, step)

    def images(self, step: int, name: str, pictures: list[np.ndarray]) -> None:
        """Writes images uint8 [H, W, 3] as events "validation/<number>/<name>"."""
        with self._events():
            for i, picture in enumerate(pictures):
                tf.summary.image(f"validation/{i}/{name}", picture[None], step)

    def curve(self, step: int, rows: list[dict[str, float]]) -> None:
        """Writes a rate-distortion curve, a point for each row, as an event."""
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot([row["bpp"] for row in rows], [row["psnr"] for row in rows], "o-")
        axes.set(xlabel="bits per pixel", ylabel="PSNR (RGB), dB", title=f"step {step}")
        axes.grid(alpha=0.3)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        with self._events():
            picture = np.asarray(canvas.buffer_rgba())[None, ..., :3]
            tf.summary.image("validation/curve", picture, step)

    def flush(self) -> None:
        """Writes the events that are waiting."""
        with self._events():
            self._writer.flush()

    @contextlib.contextmanager
    def _events(self):
        with checkpoints.writing(self._folder / "tensorboard"), self._writer.as_default():
            yield


def read(path: pathlib.Path) -> list[dict]:
    """The lines of metrics.jsonl; without those that are damaged or half-written."""
    if not path.exists():
        return []
    lines = [_parse(line) for line in path.read_text(errors="replace").splitlines()]
    kept = [line for line in lines if line]
    if len(kept) < len(lines):
        logging.warning("dropped %d damaged or half-written lines of %s", len(lines) - len(kept),
                        path)
    return kept


def _parse(line: str) -> dict | None:
    try:
        parsed = json.loads(line)
        return parsed if int(parsed["step"]) >= 0 and str(parsed["split"]) else None
    except (ValueError, TypeError, KeyError):
        return None
