"""The released models are whole, documented, and better than JPEG."""

import numpy as np
import pytest

import codec
import configs
from benchmarks.versus_jpeg import jpeg_bytes_at
from common import coding, data, export

MODELS = list(export.released_models())


def test_there_are_models():
    assert {"mshyper-small-1", "mshyper-small-2", "joint_ar-small-2"} <= set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_saves_bytes_against_jpeg(name):
    model = codec.load_model(name)
    for source in data.find("photos/validation"):
        image = source.read()
        row, decoded = coding.measure(model, image)
        assert decoded.shape == image.shape
        assert row["bytes"] <= 1.005 * row["estimated_bpp"] * np.prod(image.shape[:2]) / 8 + 20
        jpeg, = jpeg_bytes_at(image, [row["psnr"]])
        assert row["bytes"] < 0.9 * jpeg


@pytest.mark.parametrize("name", MODELS)
def test_has_a_model_card(name):
    card = (configs.ZOO_DIR / name.rpartition("-")[0] / "README.md").read_text()
    assert export.fingerprint(export.find(name))[:8] in card
