"""The released models are whole, documented, and better than JPEG."""

import numpy as np
import pytest

from benchmarks.versus_jpeg import jpeg_bytes_at
from common import coding, data, export, metrics, quantizers, zoo
from mshyper import chain
from mshyper.bits_back import BitsBackHyperprior
from tests.test_streams import HASHES

MODELS = [*HASHES]  # the zoo may have others, of users
BITS_BACK = [name for name in MODELS if zoo.find_class(export.find(name)) is BitsBackHyperprior]


def test_there_are_models():
    assert {zoo.DEFAULT, *MODELS} <= {*export.released_models()}


def middle(image):
    """As much of every photograph, in one shape; more takes as much longer."""
    return image[100:292, 150:438]


@pytest.mark.parametrize("name", sorted({*MODELS} - {*BITS_BACK}))
def test_saves_bytes_against_jpeg(name):
    model = zoo.load(name)
    for source in data.find("photos/validation"):
        image = middle(source.read())
        row, decoded = coding.measure(model, image)
        assert decoded.shape == image.shape
        assert row["bytes"] <= 1.005 * row["estimated_bpp"] * np.prod(image.shape[:2]) / 8 + 20
        jpeg, = jpeg_bytes_at(image, [row["psnr"]])
        assert row["bytes"] < 0.9 * jpeg


@pytest.mark.parametrize("name", BITS_BACK)
def test_a_chain_saves_bytes_against_jpeg(name):
    model = zoo.load(name)
    pictures = [middle(source.read()) for source in data.find("photos/validation")]
    payload = np.random.default_rng(0).bytes(100_000)
    ntb, rows = chain.compress(model, pictures, payload)
    decoded, returned = chain.decompress(model, ntb)
    assert returned == payload
    information = sum(row["information"] for row in rows)
    assert 8 * (len(ntb) - len(payload)) == pytest.approx(information, rel=0.01)
    jpeg = [jpeg_bytes_at(picture, [metrics.psnr(picture, x_hat)])[0]
            for picture, x_hat in zip(pictures, decoded, strict=True)]
    assert len(ntb) - len(payload) < 0.9 * sum(jpeg)


@pytest.mark.parametrize("name", BITS_BACK)
def test_search_lowers_the_net_rate(name):
    """And the amortised posterior's is what the model estimates."""
    model = zoo.load(name)
    picture = data.find("photos/validation")[0].read()[:192, :256]
    x = data.to_float(picture)[None]
    bits = model.generate(model.infer(x), quantizers.Round()).bits
    net = []
    for steps in (0, 5, 20):
        with chain.searching(model, steps):
            net.append(chain.compress(model, [picture])[1][0]["net"])
    assert net[0] == pytest.approx(sum(float(b[0]) for b in bits.values()), rel=0.01)
    assert net[2] < net[1] < net[0] and net[2] < 0.985 * net[0]


@pytest.mark.parametrize("name", MODELS)
def test_has_a_model_card(name):
    folder = export.find(name)
    card = next(path for path in (folder / "README.md", folder.parent / "README.md")
                if path.exists())
    assert export.fingerprint(folder)[:8] in card.read_text()
