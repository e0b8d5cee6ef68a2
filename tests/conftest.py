"""Fixtures that several test modules share."""

import os
import pathlib

import numpy as np
import pytest

from common import lazy

lazy.freeze_tensorflow = True
with lazy.importing():
    from common import data, export, lpips
    from tests.helpers import graphs, small_models

# Commands of the pages are given in the root, wherever pytest is.
os.chdir(pathlib.Path(__file__).parents[1])

# Most graphs of tests would run a few times; making one, or optimising it, takes longer than that.
# Programs that tests start do it, but for those of test_distribution.py; and test_itinf.py does.
graphs.as_in_programs(False)


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A photograph, uint8 [400, 600, 3]."""
    sources = {source.name: source for source in data.find("photos/validation")}
    return sources["coffee.png"].read()


@pytest.fixture
def without_graphs():
    """For trainings so short that making the graph of a step takes longer than the steps."""
    with graphs.none():
        yield


@pytest.fixture(scope="session")
def levels_model(tmp_path_factory, photo) -> pathlib.Path:
    """Folder of an exported model with 21 levels, as the third of a family of the zoo."""
    path = tmp_path_factory.mktemp("zoo") / "family" / "3"
    _export(path, photo, None, levels=dict(count=21, rd_lambda=(0.0015, 0.06)))
    return path


@pytest.fixture(scope="session")
def one_rate_models(tmp_path_factory, photo) -> list[pathlib.Path]:
    """Folders of two exported models of one rate each, as a family of the zoo."""
    family = tmp_path_factory.mktemp("zoo") / "family"
    for name, spread in ("1", 1.0), ("2", 4.0):
        _export(family / name, photo, 0.01, spread)
    return [family / "1", family / "2"]


def _export(path, photo, rd_lambda, spread=3.0, **more):
    """Exports a model of random weights, whose y has the standard deviation `spread`."""
    arguments = {**small_models.CONFIGS["mean_scale"], **more}
    model, x = small_models.CLASSES["mean_scale"](**arguments), photo[None, :128, :192]
    model.initialize()
    small_models.standardize(model.analysis, lambda: model.infer(x)["y"], spread)
    record = {"package": "mshyper", "module": "models", "model": arguments,
              "train": {"rd_lambda": rd_lambda}}
    export.save(model, record, path)


@pytest.fixture(scope="session")
def lpips_weights(tmp_path_factory) -> pathlib.Path:
    """A file of random weights of LPIPS, with heads that make it a distance."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("lpips") / "weights.npz"
    arrays = {}
    for name, shape in lpips.SHAPES.items():
        scale = (2 / max(1, np.prod(shape[:-1]))) ** 0.5
        arrays[name] = rng.normal(0, scale, shape).astype(np.float32)
        if name.startswith("NetLinLayer"):
            arrays[name] = np.abs(arrays[name])
    np.savez(path, **arrays)
    return path


@pytest.fixture
def lpips_network(lpips_weights, monkeypatch) -> lpips.Lpips:
    """LPIPS with these weights, which losses then use."""
    network = lpips.Lpips.load(lpips_weights)
    monkeypatch.setattr(lpips, "network", lambda: network)
    return network
