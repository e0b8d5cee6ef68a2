"""Fixtures that several test modules share."""

import numpy as np
import pytest

from common import data


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A photograph, uint8 [400, 600, 3]."""
    sources = {source.name: source for source in data.find("photos/validation")}
    return sources["coffee.png"].read()
