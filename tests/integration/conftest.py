"""A model small enough to train within seconds, and its run."""

import pathlib

import pytest

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


