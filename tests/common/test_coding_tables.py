import numpy as np
import tensorflow as tf

from common import coding_tables, priors, range_coding
from common.coding_tables import CodingTables, numbered
from common.errors import CodingError
from tests.helpers.small_priors import TABLE, density


def test_layout_of_the_tables():
    prior = density()
    tables = CodingTables.build([prior, TABLE])
    pmfs = prior.pmfs()[0] + TABLE.pmfs()[0]
    assert tables.cdfs.dtype == tables.minima.dtype == np.int32
    np.testing.assert_array_equal(
        tables.minima[:-1], np.concatenate([prior.pmfs()[1], TABLE.pmfs()[1]]))
    np.testing.assert_array_equal(tables.sizes[:-1], [len(pmf) for pmf in pmfs])
    position = 0
    for pmf in pmfs:
        cdf = tables.cdfs[position + 1:position + len(pmf) + 3]
        assert tables.cdfs[position] == 16  # bits; negative would mean the library's escape code
        assert cdf[0] == 0 and cdf[-1] == 2**16
        counts = np.diff(cdf)
        assert np.all(counts > 0)
        # Within rounding, and what is taken from the likely to give every symbol a count.
        np.testing.assert_allclose(counts[:-1] / 2**16, pmf, atol=2 / 2**16, rtol=0.03)
        position += len(pmf) + 3
    assert tables.cdfs[position] == 16  # last, the digits of escaped values, equally likely
    np.testing.assert_array_equal(np.diff(tables.cdfs[position + 1:]), [2**12] * 16)


def test_counts_by_number_and_position():
    tables = CodingTables.build([density(), TABLE])
    position = 0
    for number, size in enumerate(tables.sizes):
        counts = tables.counts(number)
        np.testing.assert_array_equal(counts, tables.cdfs[position + 1:position + size + 3])
        positions = np.arange(size + 1)
        np.testing.assert_array_equal(
            tables.cumulative(np.full(size + 1, number), positions), counts[:-1])
        np.testing.assert_array_equal(
            tables.least_bits(tf.fill([size + 1], number), positions),
            16 - np.log2(np.diff(counts) + 1))
        position += size + 3
    assert number == tables.digits


def test_numbers_count_on_from_one_prior_to_the_next():
    prior, shifted = density(), priors.ShiftedScaleTable(2)
    assert list(numbered([prior, TABLE, shifted])) == [
        (prior, range(0, 5)), (TABLE, range(5, 69)), (shifted, range(69, 197))]
    assert CodingTables.build([prior, TABLE, shifted]).digits == 197


def test_density_too_wide_for_a_table_does_not_reach_the_library(monkeypatch):
    # The library ends the process when a table has more symbols than counts.
    original = coding_tables.tfc.pmf_to_quantized_cdf

    def checked(pmf, precision):
        assert len(pmf) <= 2**precision
        return original(pmf, precision=precision)

    monkeypatch.setattr(coding_tables.tfc, "pmf_to_quantized_cdf", checked)
    prior = priors.DeepFactorized(1)
    for weight in prior.trainable_variables:
        if "matrix" in weight.name:
            weight.assign_sub(tf.fill(weight.shape, 2.5))
    try:
        tables = CodingTables.build([prior])
    except CodingError:
        return
    symbols = np.array([-100_000, 0, 100_000])
    encoder = range_coding.RangeEncoder(tables)
    encoder.encode(symbols, np.zeros(3, int))
    np.testing.assert_array_equal(
        range_coding.RangeDecoder(tables, encoder.finish()).decode(np.zeros(3, int)), symbols)
