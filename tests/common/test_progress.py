"""The line that says how far a training is."""

import io
import os
import re

import pytest

from common import progress

MEANS = {"rd_loss": 1.23456, "bpp": 0.31, "psnr": 30.126, "mse": 60.0}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show(monkeypatch, out, columns=80, steps=100, interval=50, means=MEANS):
    """What a training of some steps prints, a tenth of a second each."""
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(progress.sys, "stdout", out)
    monkeypatch.setattr(progress.shutil, "get_terminal_size",
                        lambda *_: os.terminal_size((columns, 24)))  # pytest asks too
    monkeypatch.setenv("TERM", "xterm")
    shown = progress.Progress(10_000)
    for step in range(1, steps + 1):
        clock[0] += 30.0 if step == 1 else 0.1  # the graph is built
        shown.step(step, lambda: means)
        if step % interval == 0:
            shown.interval(step, means, means)
    return out.getvalue()


@pytest.mark.parametrize("columns", [20, 80, 200])
def test_on_a_terminal_one_line_that_fits(monkeypatch, columns):
    text = show(monkeypatch, Terminal(), columns, interval=1000)
    assert "\n" not in text
    lines = text.split("\r")[1:]
    assert len(lines) == 20, "twice a second"
    assert all(len(line) == columns - 1 for line in lines)
    if columns == 200:
        assert re.fullmatch(
            r"step 9\d of 10000, 0:16:30 to go, loss 1\.2346, 0\.3100 bpp, PSNR 30\.13 dB, "
            r"0\.1 s/step", lines[-1].rstrip())


@pytest.mark.parametrize("terminal", [True, False])
def test_elsewhere_a_line_an_interval(monkeypatch, terminal):
    out = Terminal() if terminal else io.StringIO()
    text = show(monkeypatch, out)
    lines = [line.rpartition("\r")[2].rstrip() for line in text.split("\n")[:-1]]
    assert ("\r" in text) == terminal
    trained = (r"step 100 of 10000, 0:16:30 to go, loss 1\.2346, 0\.3100 bpp, PSNR 30\.13 dB, "
               r"0\.1 s/step")
    validated = r"validation: loss 1\.2346, 0\.3100 bpp, PSNR 30\.13 dB"
    if terminal:
        assert len(lines) == 4 and all(len(line) < 80 for line in lines)
        assert re.fullmatch(validated, lines[3])
    else:
        assert len(lines) == 2 and re.fullmatch(f"{trained}; {validated}", lines[1])


def test_a_dumb_terminal_is_a_file(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(progress.sys, "stdout", Terminal())
    assert not progress.Progress(1)._terminal


def test_before_there_is_anything_to_say(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(progress.sys, "stdout", out)
    progress.Progress(7).interval(7, {}, {})
    assert out.getvalue() == "step 7 of 7\n"
