"""How far a training is: a line that is painted again on a terminal, elsewhere one an interval."""

import datetime
import os
import shutil
import sys
import time
from collections.abc import Callable

_REPAINT = 0.5  # seconds


class Progress:
    """Shows how far a training is.

    Args:
      last: the step that it ends at.
    """

    def __init__(self, last: int):
        self._last = last
        # The first step builds the graph; only later ones are timed.
        self._first = 0
        self._begun: float | None = None
        self._painted = 0.0
        self._terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"

    def step(self, step: int, means: Callable[[], dict[str, float]]) -> None:
        """Shows on a terminal that `step` is done; `means` returns what was measured of late."""
        now = time.monotonic()
        if self._begun is None:
            self._begun, self._first = now, step
        if self._terminal and now - self._painted >= _REPAINT:
            self._painted = now
            self._paint(self._line(step, means()))

    def interval(self, step: int, trained: dict[str, float], validated: dict[str, float]) -> None:
        """Shows the end of an interval: what was measured in training, and in validation."""
        lines = [self._line(step, trained)]
        if validated:
            lines.append(f"validation: {_measured(validated)}")
        if not self._terminal:
            print("; ".join(lines), flush=True)
            return
        for line in lines:
            self._paint(line)
            print()

    def _line(self, step, means):
        parts = [f"step {step} of {self._last}", *([_measured(means)] if means else [])]
        if self._begun is not None and step > self._first:
            seconds = (time.monotonic() - self._begun) / (step - self._first)
            left = datetime.timedelta(seconds=round(seconds * (self._last - step)))
            parts.insert(1, f"{left} to go")
            parts.append(f"{seconds:.3g} s/step")
        return ", ".join(parts)

    def _paint(self, line):
        """Paints a line over that before; of a longer one, the next would not hide all."""
        width = shutil.get_terminal_size().columns - 1
        print("\r" + line[:width].ljust(width), end="", flush=True)


def _measured(means):
    return f"loss {means['rd_loss']:.4f}, {means['bpp']:.4f} bpp, PSNR {means['psnr']:.2f} dB"
