"""The notebook docs/tour.ipynb runs, and is kept without what it shows."""

import json
import pathlib
import re
import sys

import matplotlib
import matplotlib.pyplot as plt
import pytest

from common import data, images

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "tour.ipynb"
CELLS = json.loads(NOTEBOOK.read_text())["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def test_outputs_are_not_kept():
    assert len(CODE) > 5
    for cell in CODE:
        assert cell["outputs"] == [] and cell["execution_count"] is None, "".join(cell["source"])
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)


@pytest.mark.slow
def test_the_tour(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(NOTEBOOK.parent)  # where Jupyter starts it
    monkeypatch.setattr(sys, "path", [*sys.path])
    matplotlib.use("Agg")
    # A part of the photograph, which has all that is shown.
    photo = tmp_path / "photo.png"
    images.write(photo, data.find("photos")[0].read()[:256, :360])
    find = data.find
    monkeypatch.setattr(data, "find", lambda name: find(name) and find(str(photo)))
    figures = []
    monkeypatch.setattr(plt, "show", lambda: figures.append(plt.gcf()))
    names = {}
    for number, cell in enumerate(CODE):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    plt.close("all")
    assert sys.path[0] == str(ROOT)
    assert len(figures) == 4 and all(figure.axes for figure in figures)
    out = capsys.readouterr().out
    assert "y: float32" in out and "level: int32" in out
    encoder, refined = map(float, re.findall(r"loss ([\d.]+)$", out, re.M))
    assert refined < encoder
    for curve in names["curves"].values():
        assert curve == sorted(curve), "a higher rate has a higher PSNR"
