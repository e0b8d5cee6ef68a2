"""Fixtures of tests of whole programs: a model that trains within seconds, and a picture."""

import pathlib
import shutil

import pytest

import configs
from common import images, training
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


@pytest.fixture(scope="module")
def picture(photo, tmp_path_factory) -> pathlib.Path:
    """A file with 96 x 128 pixels of the photograph."""
    path = tmp_path_factory.mktemp("picture") / "photo.png"
    images.write(path, photo[100:196, 200:328])
    return path
