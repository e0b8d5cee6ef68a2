import math

import constriction
import numpy as np
import pytest
from scipy import stats

from common import mixtures, range_coding
from common.coding_tables import CodingTables
from common.errors import CodingError
from common.priors import ScaleTable, ShiftedScaleTable

SHIFTS = 4  # fractions of an integer
SCALES = np.exp(np.linspace(math.log(0.11), math.log(256.0), 64))


@pytest.fixture(scope="module")
def priors():
    return [ScaleTable(), ShiftedScaleTable(SHIFTS)]


@pytest.fixture(scope="module")
def tables(priors):
    return CodingTables.build(priors)


def draw(shape=(2, 40, 30), spread=4.0, largest=45, seed=0):
    """Symbols from three components each: these, and the components as coders take them."""
    rng = np.random.default_rng(seed)
    size = 3, *shape
    weights = rng.integers(0, 2**14, size) >> rng.integers(0, 15, size)
    weights[0] = 2**14
    fractions = np.round(rng.normal(0, spread * SHIFTS, size)).astype(int)
    shifts, fraction = np.divmod(fractions, SHIFTS)
    index = rng.integers(0, largest, size)
    shares = np.cumsum(weights, axis=0) / weights.sum(axis=0)
    which = np.sum(rng.random(shape) >= shares, axis=0)[None]
    mean, scale = (np.take_along_axis(x, which, axis=0)[0] for x in (
        fractions / SHIFTS, SCALES[index]))
    symbols = np.round(rng.normal(mean, scale))
    return symbols, mixtures.Mixtures(weights, 64 + fraction * 64 + index, shifts)


def counts_by_hand(tables, window, components):
    """Of one symbol's row, with integers of Python; `window` is its first integer and its size."""
    low, size = window
    total = int(sum(weights for weights, _, _ in components)) * 2**16

    def below(edge):
        result = 0
        for weight, distribution, shift in components:
            position = edge - int(shift) - int(tables.minima[distribution])
            position = min(max(position, 0), int(tables.sizes[distribution]))
            result += int(weight) * int(tables.counts(distribution)[position])
        return result

    others = 2**24 - size - 1
    inside = [(below(low + i) - below(low)) * others // total for i in range(size + 1)]
    return 1 + np.diff([*inside, others])


def test_counts_are_weighted_sums_of_the_tables(tables):
    _, components = draw((60,))
    rows = components.rows(tables)
    seen = 0
    for indices, _, shares in rows._models():
        for i, row in zip(indices, shares):
            mine = [tuple(component[k][i] for component in components) for k in range(3)]
            expected = counts_by_hand(tables, (int(rows.minima[i]), int(rows.sizes[i])), mine)
            np.testing.assert_array_equal(row + 1, expected)
            assert np.all(expected > 0) and np.sum(expected) == 2**24
            seen += 1
    assert seen == 60


def test_windows_hold_the_tables_of_all_components(tables):
    _, components = draw()
    rows, (_, distributions, shifts) = components.rows(tables), components
    low = (shifts + tables.minima[distributions]).min(axis=0).ravel()
    high = (shifts + tables.minima[distributions] + tables.sizes[distributions]).max(axis=0).ravel()
    assert np.all(rows.minima <= low) and np.all(rows.minima + rows.sizes >= high)
    assert np.all(rows.sizes < np.maximum(2 * (high - low), 9)) and len({*rows.sizes}) > 4


def test_long_windows_lie_around_the_heaviest_component(tables):
    weights = np.array([[1, 2, 1], [3, 2, 4]])
    shifts = np.array([[-100_000, -100_000, 0], [0, 100_000, 100_000]])
    distributions = np.full([2, 3], 64 + 10)
    rows = mixtures.Mixtures(weights, distributions, shifts).rows(tables)
    heaviest = np.array([0, -100_000, 100_000]) + tables.minima[64 + 10]
    np.testing.assert_array_equal(rows.sizes, 2**12)
    assert np.all(rows.minima <= heaviest)
    assert np.all(rows.minima + 2**12 >= heaviest + tables.sizes[64 + 10])


def test_the_library_has_exactly_these_counts(tables):
    # What a stack decodes from one number is the symbol whose counts this number falls into.
    rows = draw((40,))[1].rows(tables)
    for _, family, shares in rows._models():
        for row in shares:
            cumulative = np.cumsum(row + 1)[:-1].astype(int)
            for symbol in range(0, len(cumulative), max(1, len(cumulative) // 20)):
                for number, expected in ((cumulative[symbol], symbol + 1),
                                         (cumulative[symbol] - 1, symbol)):
                    stack = constriction.stream.stack.AnsCoder(
                        np.array([number, 2**30], np.uint32))
                    assert stack.decode(family, row[None]) == expected


def encode(tables, symbols, components):
    encoder = range_coding.RangeEncoder(tables)
    encoder.encode_rows(symbols, components)
    return encoder.finish(), encoder.crc


def test_round_trip_among_other_symbols(tables):
    calls = [draw(), draw((0, 7)), draw((1,), seed=1), draw((5, 1, 9), spread=2000, largest=64)]
    plain = np.arange(-3, 4), np.arange(7) * 9
    encoder = range_coding.RangeEncoder(tables)
    for symbols, components in calls:
        encoder.encode_rows(symbols, components)
        encoder.encode(*plain)
    decoder = range_coding.RangeDecoder(tables, encoder.finish())
    for symbols, components in calls:
        decoded = decoder.decode_rows(components)
        assert decoded.dtype == np.int32
        np.testing.assert_array_equal(decoded, symbols)
        np.testing.assert_array_equal(decoder.decode(plain[1]), plain[0])
    assert decoder.crc == encoder.crc != 0


def test_symbols_far_outside_escape(tables):
    symbols, components = draw()
    symbols.flat[[0, 7, 8, 100, 2399]] = 2**20, -2**20, 500, -500, 70_000
    stream, crc = encode(tables, symbols, components)
    decoder = range_coding.RangeDecoder(tables, stream)
    np.testing.assert_array_equal(decoder.decode_rows(components), symbols)
    assert decoder.crc == crc


@pytest.mark.parametrize("symbol", [math.nan, math.inf, 2e9])
def test_impossible_symbols_are_refused(tables, symbol):
    symbols, components = draw()
    symbols[0, 1, 2] = symbol
    with pytest.raises(CodingError, match="latents"):
        encode(tables, symbols, components)


def test_size_is_the_information_content(priors, tables):
    symbols, components = draw((100, 100))
    weights, distributions, shifts = components
    shift, index = np.divmod(distributions - 64, 64)
    distance, scale = np.abs(symbols - shifts - shift / SHIFTS), SCALES[index]
    mass = stats.norm.sf((distance - 0.5) / scale) - stats.norm.sf((distance + 0.5) / scale)
    bits = -np.sum(np.log2(np.sum(weights * mass, axis=0) / np.sum(weights, axis=0)))
    counter = range_coding.BitCounter(priors)
    counter.encode_rows(symbols, components)
    assert counter.bits == pytest.approx(bits, rel=1e-3)
    stream, _ = encode(tables, symbols, components)
    assert -0.001 * bits < 8 * len(stream) - bits < 0.002 * bits + 160


def decoded_otherwise(tables, stream, components, crc):
    """Whether a reader of `stream` learns that it is not what the encoder wrote."""
    decoder = range_coding.RangeDecoder(tables, stream)
    try:
        decoder.decode_rows(components)
    except CodingError:
        return True
    return decoder.crc != crc


def test_damage_is_noticed(tables):
    symbols, components = draw((20, 30))
    symbols[3, 4] = 400
    stream, crc = encode(tables, symbols, components)
    assert not decoded_otherwise(tables, stream, components, crc)
    # The words end in some bits that mean nothing.
    for position in [*range(20), *range(20, len(stream) - 12, 9)]:
        damaged = bytearray(stream)
        damaged[position] ^= 1 << position % 8
        assert decoded_otherwise(tables, bytes(damaged), components, crc), position
        assert decoded_otherwise(tables, stream[:position], components, crc), position


def test_a_length_beyond_the_stream_is_refused_before_it_is_read(tables):
    encoder = range_coding.RangeEncoder(tables)
    digits = [0, *[15] * 7, 7]  # no escapes, 2^24 - 1 words
    encoder._write(np.array(digits), np.full(9, tables.digits))
    stream = encoder.finish()
    with pytest.raises(CodingError, match="67108860 bytes"):
        range_coding.RangeDecoder(tables, stream).decode_rows(draw()[1])


def test_words_that_have_run_out_are_noticed_within_a_batch(tables, monkeypatch):
    symbols, components = draw((200, 300))
    rows, batches = components.rows(tables), []
    words = rows.encode(np.clip(symbols.ravel() - rows.minima, 0, rows.sizes))
    shares = rows._shares
    monkeypatch.setattr(rows, "_shares", lambda *arguments: (
        batches.append(arguments), shares(*arguments))[1])
    np.testing.assert_array_equal(
        rows.decode(words), np.clip(symbols.ravel() - rows.minima, 0, rows.sizes))
    whole = len(batches)
    for kept in (0, 1, len(words) // 20):
        batches.clear()
        with pytest.raises(ValueError, match="the words end before their symbols do"):
            rows.decode(words[:kept])
        assert len(batches) <= max(1, whole // 4) and whole > 10
