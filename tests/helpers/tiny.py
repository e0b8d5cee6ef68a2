"""A model small enough to train within seconds: its config, and its command line."""

import atexit
import functools
import pathlib
import shutil
import tempfile

import numpy as np

from common import data, images
from mshyper.configs import small

# `shallow_config` on the command line, but for the photographs that validate it.
TRAINING = ["--main", "mshyper.train", "--config", "mshyper/configs/small.py"]
TINY = [
    "--config.data.train=photos/train",
    "--config.data.validation=photos/validation",
    "--config.data.patch_size=64",
    "--config.data.batch_size=2",
    "--config.model.analysis.channels=(8,12)",
    "--config.model.synthesis.channels=(8,3)",
    "--config.model.hyper_analysis.channels=(8,8,8)",
    "--config.model.hyper_synthesis.channels=(8,8,24)",
    "--config.train.optimizer.cls=Adam",
    "--config.train.log_interval=5",
    "--config.train.precision=float32",
]


@functools.cache
def photographs() -> str:
    """A folder with small pieces of the photographs of the recipe's validation."""
    folder = pathlib.Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    for source in data.find("photos/validation"):
        images.write(folder / source.name, source.read()[100:228, 200:360])
    return str(folder)


def tiny_config():
    """The `small` config with a few channels, crops and steps, validated on small photographs."""
    config = small.get_config()
    config.data.validation = photographs()
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


def shallow_config():
    """`tiny_config` with two layers on either side, for tests that code no photographs.

    Graphs of four layers take longer to make than such trainings.
    """
    config = tiny_config()
    config.model.analysis.channels, config.model.synthesis.channels = (8, 12), (8, 3)
    return config


def assert_pictures_agree(decoded, x_hat):
    """A decoded file, uint8 [H, W, 3], is what evaluation says that it will be.

    Means are integers when coding and floats in evaluation, so a few pixels round otherwise.
    """
    assert decoded.shape == x_hat.shape
    difference = np.abs(decoded.astype(int) - images.to_uint8(x_hat).numpy())
    assert np.max(difference) <= 1 and np.mean(difference) < 0.01
