"""Distributions of y: what they say of it by hand, and how they code it."""

import math

import numpy as np
import pytest
import tensorflow as tf

from common import conditional, priors
from common.errors import UserError

MEAN = np.array([0.3, -2.0, 7.25], np.float32)
SCALE = np.array([0.7, 3.0, 20.0], np.float32)


@pytest.fixture
def y():
    return np.random.default_rng(0).normal(MEAN, SCALE, [1, 4, 5, 3]).astype(np.float32)


def parameters(*parts):
    return tf.broadcast_to(tf.concat(parts, axis=-1), [1, 4, 5, 3 * len(parts)])


def test_bits_and_prediction_follow_from_means_and_scales(y):
    p_y = conditional.MeanScale(priors.ScaleTable()).given(
        parameters(MEAN, np.log(SCALE)), continuous=True)
    residual = y - MEAN
    upper, lower = (np.vectorize(math.erf)((residual + side) / SCALE / math.sqrt(2))
                    for side in (0.5, -0.5))
    np.testing.assert_allclose(p_y.bits(y), -np.log2((upper - lower) / 2), rtol=1e-3)
    np.testing.assert_allclose(p_y.prediction.mean, np.broadcast_to(MEAN, y.shape))
    np.testing.assert_allclose(
        p_y.prediction.deviation, np.broadcast_to(SCALE, y.shape), rtol=1e-5)


def test_unless_continuous_scales_are_the_nearest_entries(y):
    prior, table = conditional.MeanScale(priors.ScaleTable()), priors.ScaleTable()
    given = parameters(MEAN, np.log(SCALE))
    nearest, continuous = (prior.given(given, continuous=each) for each in (False, True))
    np.testing.assert_array_equal(nearest.index, np.round(continuous.index))
    np.testing.assert_array_equal(
        nearest.bits(y), table.bits(y - MEAN, np.round(table.index(parameters(np.log(SCALE))))))
    assert np.all(nearest.bits(y) != continuous.bits(y))


def test_without_a_mean_the_sign_does_not_matter(y):
    prior = conditional.MeanScale(priors.ScaleTable(), predict_mean=False)
    assert prior.symmetric and not conditional.MeanScale(priors.ScaleTable()).symmetric
    p_y = prior.given(parameters(np.log(SCALE)), continuous=True)
    np.testing.assert_allclose(p_y.bits(y), p_y.bits(-y), rtol=1e-5)
    assert not np.any(p_y.offset) and p_y.prediction.mean.shape == y.shape


class Sheet:
    """A coder that keeps what it is told."""

    def encode(self, symbols, distributions):
        self.symbols, self.distributions = symbols, distributions

    def decode(self, distributions):
        np.testing.assert_array_equal(distributions, self.distributions)
        return self.symbols


@pytest.mark.parametrize("predict_mean", [True, False])
def test_y_is_coded_on_the_grid_around_integer_means(y, predict_mean):
    prior, sheet = conditional.MeanScale(priors.ScaleTable(), predict_mean), Sheet()
    rng = np.random.default_rng(1)
    mean = rng.integers(-9000, 9000, y.shape) * predict_mean
    index = rng.integers(0, 64, y.shape).astype(np.int16)
    outputs = [mean, index] if predict_mean else [index]
    prior.encode(y, outputs, sheet, first=10)
    np.testing.assert_array_equal(sheet.distributions, index + 10)
    np.testing.assert_array_equal(
        sheet.symbols, np.round(y - mean / 2**conditional.MEAN_BITS))
    decoded = prior.decode(outputs, sheet, first=10)
    assert decoded.dtype == tf.float32 and np.max(np.abs(decoded - y)) <= 0.5
    np.testing.assert_array_equal(
        decoded, np.float32(sheet.symbols + mean / 2**conditional.MEAN_BITS))


def test_tables_by_likelihood():
    for likelihood, plain, shifted in (
            ("normal", priors.ScaleTable, priors.ShiftedScaleTable),
            ("logistic", priors.LogisticTable, priors.ShiftedLogisticTable)):
        assert type(priors.scale_table(likelihood)) is plain
        table = priors.scale_table(likelihood, 16)
        assert type(table) is shifted and table.shifts == 16
    with pytest.raises(UserError, match="'cauchy'; known: normal, logistic"):
        priors.scale_table("cauchy")
