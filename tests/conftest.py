"""Fixtures that several test modules share."""

import pathlib

import numpy as np
import pytest

from common import data, lpips


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A photograph, uint8 [400, 600, 3]."""
    sources = {source.name: source for source in data.find("photos/validation")}
    return sources["coffee.png"].read()


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
