"""A model small enough to train within seconds, its run, and a zoo of it alone."""

import pathlib
import shutil

import pytest

import configs
from common import training
from mshyper.models import MeanScaleHyperprior
from tests.helpers.tiny import tiny_config


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> pathlib.Path:
    """Folder of a finished run of the tiny model."""
    workdir = tmp_path_factory.mktemp("experiments") / "tiny" / "wid=0-tiny"
    training.run(MeanScaleHyperprior, tiny_config(), workdir)
    return workdir


@pytest.fixture(scope="session")
def tiny_model(tiny_run) -> pathlib.Path:
    """Folder of the exported tiny model."""
    return tiny_run / "model"


@pytest.fixture
def only_the_tiny_model(tiny_model, tmp_path_factory, monkeypatch):
    """The tiny model as the only one of the zoo."""
    path = tmp_path_factory.getbasetemp() / "zoo"
    if not path.exists():
        shutil.copytree(tiny_model, path / "tiny" / "1")
    monkeypatch.setattr(configs, "ZOO_DIR", path)
