import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from common import escapes, range_coding
from common.coding_tables import CodingTables
from common.errors import CodingError
from tests.helpers.small_priors import SCALES, TABLE, density


@pytest.fixture(scope="module")
def tables():
    return CodingTables.build([TABLE])


@pytest.fixture(scope="module")
def samples():
    """Symbols drawn from the Gaussians of the scale table, and their table entries."""
    rng = np.random.default_rng(0)
    distributions = rng.integers(0, 64, 30_000)
    return np.round(rng.normal(0, SCALES[distributions])), distributions


def encode(tables, *calls):
    """The stream and the checksum of some calls (symbols, distributions)."""
    encoder = range_coding.RangeEncoder(tables)
    for symbols, distributions in calls:
        encoder.encode(np.asarray(symbols), np.asarray(distributions))
    return encoder.finish(), encoder.crc


def test_round_trip_of_several_calls(samples):
    tables = CodingTables.build([density(), TABLE])
    symbols, distributions = samples
    rng = np.random.default_rng(1)
    calls = [
        (rng.integers(-20, 21, (2, 3, 5)), np.broadcast_to(np.arange(5), (2, 3, 5))),
        (np.zeros((0, 7)), np.zeros((0, 7), int)),
        (symbols.reshape(100, 300), distributions.reshape(100, 300) + 5),
        (np.zeros(0), np.zeros(0, int)),
        (np.array(-3), np.array(40)),
    ]
    stream, crc = encode(tables, *calls)
    decoder = range_coding.RangeDecoder(tables, stream)
    for symbols, distributions in calls:
        decoded = decoder.decode(distributions)
        assert decoded.dtype == np.int32
        np.testing.assert_array_equal(decoded, symbols)
    assert decoder.crc == crc


@pytest.mark.parametrize("piece", [1, 7, 64])
def test_pieces_are_one_stream(tables, samples, monkeypatch, piece):
    symbols, distributions = (part[:300].reshape(10, 30) for part in samples)
    symbols = np.where(np.arange(30) % 11 == 5, symbols + 5000, symbols)  # some escape
    stream, crc = encode(tables, (symbols, distributions))
    # As the sections say, each coded at once.
    handle = range_coding.tfc.create_range_encoder([], tables.cdfs)
    for positions, numbers in escapes.sections(tables, symbols.astype(int), distributions):
        handle = range_coding.tfc.entropy_encode_index(
            handle, numbers.astype(np.int32), positions.astype(np.int32))
    assert range_coding.tfc.entropy_encode_finalize(handle).numpy() == stream
    monkeypatch.setattr(range_coding, "_PIECE", piece)
    assert encode(tables, (symbols, distributions)) == (stream, crc)
    decoder = range_coding.RangeDecoder(tables, stream)
    np.testing.assert_array_equal(decoder.decode(distributions), symbols)
    assert decoder.crc == crc


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64])
def test_distributions_may_be_of_any_integer_type(tables, samples, dtype):
    symbols, distributions = (part[:300] for part in samples)
    stream, crc = encode(tables, (symbols, distributions))
    assert encode(tables, (symbols, distributions.astype(dtype))) == (stream, crc)
    decoder = range_coding.RangeDecoder(tables, stream)
    np.testing.assert_array_equal(decoder.decode(distributions.astype(dtype)), symbols)


def test_counting_in_pieces_is_counting(samples, monkeypatch):
    priors = [density(), TABLE]
    symbols, distributions = samples
    calls = [(np.arange(-5, 5), np.arange(10) % 5), (symbols, distributions + 5)]

    def bits():
        counter = range_coding.BitCounter(priors)
        for call in calls:
            counter.encode(*call)
        return counter.bits

    whole = bits()
    monkeypatch.setattr(range_coding, "_PIECE", 999)
    assert whole > 1000 and bits() == pytest.approx(whole, rel=1e-6)


def test_nothing_is_a_valid_stream(tables):
    stream, crc = encode(tables)
    assert range_coding.RangeDecoder(tables, stream).crc == crc == 0


def test_symbols_outside_the_tables_escape(tables):
    limit = 2**20
    symbols = np.array([2, -2, 5, 1109, 1110, -1110, 5000, limit, -limit, 0])
    distributions = np.array([0, 0, 0, 63, 63, 63, 0, 63, 0, 0])
    stream, crc = encode(tables, (symbols, distributions))
    decoder = range_coding.RangeDecoder(tables, stream)
    np.testing.assert_array_equal(decoder.decode(distributions), symbols)
    assert decoder.crc == crc


def test_size_is_the_information_content(tables, samples):
    symbols, distributions = samples
    size = len(encode(tables, (symbols, distributions))[0])
    distance, scale = np.abs(symbols), SCALES[distributions]
    mass = stats.norm.sf((distance - 0.5) / scale) - stats.norm.sf((distance + 0.5) / scale)
    information = -np.sum(np.log2(mass)) / 8
    assert information - 1 < size < information * 1.005 + 4


@pytest.mark.parametrize("symbol", [
    math.nan, math.inf, -math.inf, 2e9, -2e9, 2**20 + 1, np.float32(1e38), np.int32(-2**31),
    np.int64(2**40)])
def test_impossible_symbols_never_reach_the_library(tables, monkeypatch, symbol):
    def endless(*_):
        raise AssertionError("the library does not return from these")

    monkeypatch.setattr(range_coding.tfc, "entropy_encode_index", endless)
    symbols = np.full((2, 3), 1, dtype=np.asarray(symbol).dtype)
    symbols[1, 1] = symbol
    with pytest.raises(CodingError, match="latents"):
        range_coding.RangeEncoder(tables).encode(symbols, np.zeros((2, 3), int))


def decoded_otherwise(tables, stream, distributions, crc):
    """Whether a reader of `stream` learns that it is not what the encoder wrote."""
    decoder = range_coding.RangeDecoder(tables, stream)
    try:
        decoder.decode(distributions)
    except CodingError:
        return True
    return decoder.crc != crc


def test_corruption_changes_the_checksum(tables, samples):
    symbols, distributions = (part[:2000] for part in samples)
    stream, crc = encode(tables, (symbols, distributions))
    assert not decoded_otherwise(tables, stream, distributions, crc)
    for position in range(0, len(stream) - 1, 20):
        damaged = bytearray(stream)
        damaged[position] ^= 1 << position % 8
        assert decoded_otherwise(tables, bytes(damaged), distributions, crc), position


def test_truncation_changes_the_checksum(tables, samples):
    symbols, distributions = (part[:2000] for part in samples)
    stream, crc = encode(tables, (symbols, distributions))
    for end in range(0, len(stream) - 1, 20):
        assert decoded_otherwise(tables, stream[:end], distributions, crc), end


@pytest.mark.slow
def test_stream_that_ends_within_an_escape_code_does_not_hang():
    # In a process of its own, because a hanging decoder cannot be interrupted.
    program = """
import numpy as np
from common import priors, range_coding
from common.coding_tables import CodingTables
from common.errors import CodingError
tables = CodingTables.build([priors.ScaleTable()])
encoder = range_coding.RangeEncoder(tables)
encoder.encode(np.array([1000]), np.array([0]))
whole = encoder.finish()
for stream in [whole[:end] for end in range(len(whole))] + [b"\\xff" * 2]:
    decoder = range_coding.RangeDecoder(tables, stream)
    try:
        decoder.decode(np.array([0]))
    except CodingError:
        continue
    assert decoder.crc != encoder.crc
print("all refused")
"""
    root = pathlib.Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True,
                            text=True, timeout=60)
    assert result.stdout.strip() == "all refused", result.stderr


# --- Streams that end too early -----------------------------------------------------------------


@pytest.mark.parametrize("stream", [b"", b"\0", b"\xff" * 2, b"\x5a" * 4, b"\x5a" * 40])
def test_a_stream_that_has_run_out_is_noticed_at_once(tables, stream, monkeypatch):
    decoded = []
    read = range_coding.tfc.entropy_decode_index
    monkeypatch.setattr(range_coding.tfc, "entropy_decode_index", lambda handle, numbers, *rest: (
        decoded.append(np.size(numbers)), read(handle, numbers, *rest))[1])
    # As much as the claims of twenty bytes; the array takes no memory.
    distributions = np.broadcast_to(np.int32(30), (1, 1000, 1000, 1000))
    with pytest.raises(CodingError, match="ends before|outside of the tables among"):
        range_coding.RangeDecoder(tables, stream).decode(distributions)
    assert sum(decoded) < 20_000


def extremes(tables, trials=200):
    """Symbols and distributions of which coders make the most and the least of their bits."""
    rng = np.random.default_rng(0)
    for trial in range(trials):
        count = int(rng.integers(1, 400))
        distributions = np.broadcast_to(rng.integers(0, 64, count if trial % 2 else 1), count)
        low = tables.minima[distributions]
        high = low + tables.sizes[distributions] - 1
        symbols = [low, high, np.zeros(count, int), rng.integers(low, high + 1)][trial // 2 % 4]
        yield symbols, distributions
    for number in (0, 1, 30):
        yield np.zeros(200_000, int), np.full(200_000, number)


def test_no_stream_of_an_encoder_has_run_out(tables):
    for symbols, distributions in extremes(tables):
        encoder = range_coding.RangeEncoder(tables)
        encoder.encode(symbols, distributions)
        encoder.encode(symbols[:20], distributions[:20], bounded=True)
        decoder = range_coding.RangeDecoder(tables, encoder.finish())
        np.testing.assert_array_equal(decoder.decode(distributions), symbols)
        np.testing.assert_array_equal(
            decoder.decode(distributions[:20], bounded=True), symbols[:20])


def test_a_serial_decoder_stops_where_the_stream_ends(tables, samples):
    symbols, distributions = (part[:20_000] for part in samples)
    stream, _ = encode(tables, (symbols, distributions))
    steps = []

    def loop(state):
        for start in range(0, 20_000, 100):
            numbers = tf.constant(distributions[start:start + 100], tf.int32)
            state, found = range_coding.next_symbols(tables, state, numbers)
            steps.append(np.array_equal(found, symbols[start:start + 100]))
        return state, symbols.astype(np.int32)

    range_coding.RangeDecoder(tables, stream).decode_serially(20_000, loop)
    assert len(steps) == 200 and all(steps)
    steps.clear()
    with pytest.raises(CodingError, match="the stream ends before its symbols do"):
        range_coding.RangeDecoder(tables, stream[:len(stream) // 2]).decode_serially(20_000, loop)
    assert 90 < len(steps) < 115 and steps[:90] == [True] * 90
