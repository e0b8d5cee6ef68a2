"""A model small enough to train within seconds, and its run."""

import pathlib

import numpy as np
import pytest

from common import images, training
from mshyper.configs import small
from mshyper.models import MeanScaleHyperprior


def tiny_config():
    """The `small` config with a few channels, crops and steps."""
    config = small.get_config()
    config.model.analysis.channels = (8, 8, 8, 12)
    config.model.synthesis.channels = (8, 8, 8, 3)
    config.model.hyper_analysis.channels = (8, 8, 8)
    config.model.hyper_synthesis.channels = (8, 8, 24)
    config.data.patch_size = 64
    config.data.batch_size = 2
    config.train.optimizer.cls = "Adam"  # SOAP's graph takes twice as long to build
    config.train.num_steps = 20
    config.train.log_interval = 5
    config.train.checkpoint_interval = 10
    config.train.precision = "float32"  # on every machine
    config.train.export_dtype = "float32"  # files have the very weights of training
    return config


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


def assert_pictures_agree(decoded, x_hat):
    """A decoded file, uint8 [H, W, 3], is what evaluation says that it will be.

    Means are integers when coding and floats in evaluation, so a few pixels round otherwise.
    """
    assert decoded.shape == x_hat.shape
    difference = np.abs(decoded.astype(int) - images.to_uint8(x_hat).numpy())
    assert np.max(difference) <= 1 and np.mean(difference) < 0.01
