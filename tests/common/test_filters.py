"""Filters of channels: what one element adds to an image, in the order of what channels cost."""

import numpy as np
import pytest
import tensorflow as tf

from common import data, filters, quantizers
from tests.helpers.figures import NAMES, model_named


@pytest.fixture(params=NAMES)
def model(request, monkeypatch):
    return model_named(request.param, monkeypatch)


@pytest.fixture
def picture(photo):
    return photo[100:171, 200:305]


def test_filters_are_the_synthesis_of_one_element_in_a_larger_image(mean_scale):
    values = np.linspace(-3, 3, 12)
    found = filters.responses(mean_scale, values)
    assert found.shape == (12, 48, 48, 3)
    y = np.zeros([2, 11, 11, 12], np.float32)
    y[0, 5, 5, 7] = values[7]
    image, nothing = mean_scale.to_image(tf.constant(y)).numpy()
    np.testing.assert_allclose(found[7], (image - nothing)[64:112, 64:112], atol=1e-5)
    assert np.abs(found[7]).max() > 1e-3


def test_rates_of_channels_are_those_of_the_image(model, picture):
    use = filters.measure_channels(model, picture)
    latents = model.infer(data.to_float(picture)[None])
    bits = float(model.generate(latents, quantizers.Round()).bits["y"])
    assert use.rates.sum() * 71 * 105 == pytest.approx(bits, rel=1e-4)
    y = np.float64(latents["y"][0])
    assert use.sizes == pytest.approx(np.sqrt(np.mean(y**2, axis=(0, 1))), abs=0.5)


def test_channels_are_in_the_order_of_their_rates(mean_scale, tmp_path, undrawn):
    first = filters.ChannelUse(np.arange(12.0), np.ones(12))
    second = filters.ChannelUse(np.eye(12)[3] * 54, np.ones(12))
    filters.draw(tmp_path / "a.png", mean_scale, "", [first, second])
    filters.draw(tmp_path / "b.png", mean_scale, "")
    labels = [[text.get_text() for text in figure.axes[0].texts] for figure in undrawn]
    assert labels[0][:3] == ["3: 47.5%", "11: 9.2%", "10: 8.3%"] and labels[0][-1] == "0: 0.0%"
    assert labels[1] == [str(i) for i in range(12)]
    # The same elements, drawn in another order.
    a, b = (figure.axes[0].images[0].get_array() for figure in undrawn)
    size = a.shape[1] // 16
    np.testing.assert_array_equal(a[:, :size], b[:, 3 * size:4 * size])
    assert np.abs(a[:, :size] - b[:, :size]).max() > 0.1
