"""Fixtures of tests of figures (test_inspection.py, test_filters.py)."""

import pathlib

import pytest
from matplotlib.figure import Figure

from tests.helpers.figures import model_named


@pytest.fixture
def mean_scale(monkeypatch):
    return model_named("mean_scale", monkeypatch)


@pytest.fixture
def undrawn(monkeypatch):
    """A list of all figures from now on, whose files stay empty: drawing takes a second each."""
    made = []

    def keep(figure, path, **options):
        made.append(figure)
        pathlib.Path(path).touch()

    monkeypatch.setattr(Figure, "savefig", keep)
    return made


@pytest.fixture
def figures(monkeypatch):
    """A list of all figures that are written from now on."""
    written, savefig = [], Figure.savefig

    def keep(figure, *args, **options):
        written.append(figure)
        savefig(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return written
