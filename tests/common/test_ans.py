import math

import numpy as np
import pytest
from scipy import stats

from common import priors
from common.ans import AnsStack
from common.coding_tables import CodingTables
from common.errors import CodingError

SCALES = np.exp(np.linspace(math.log(0.11), math.log(256.0), 64))


class Fixed:
    """A prior of given probabilities: half escaped, one symbol alone, and one seldom escaped."""

    def pmfs(self):
        return [np.array([0.1, 0.1, 0.2, 0.1]), np.array([0.3]), np.full(7, 1 / 7)], np.array(
            [-1, 5, -3])


@pytest.fixture(scope="module")
def tables():
    return CodingTables.build([priors.ScaleTable(), Fixed()])


@pytest.fixture(scope="module")
def samples():
    """Symbols drawn from the Gaussians of the scale table, and their table entries."""
    rng = np.random.default_rng(0)
    distributions = rng.integers(0, 64, (1, 100, 60, 5))
    return np.round(rng.normal(0, SCALES[distributions])), distributions


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(1).bytes(200_000)


def probabilities(tables, distribution):
    """What `sample` draws by."""
    counts = np.diff(tables.counts(distribution))
    return np.append(counts[:-2], counts[-2] + counts[-1]) / 2**16


def information(tables, symbols, distributions):
    """Bits of symbols within their tables, by the counts."""
    bits = 0.0
    for distribution in np.unique(distributions):
        counts = np.diff(tables.counts(distribution))
        mine = symbols[distributions == distribution].astype(int)
        bits += np.sum(16 - np.log2(counts[mine - tables.minima[distribution]]))
    return bits


def inside(tables, symbols, distributions):
    """The symbols, with zeros for those outside of their tables."""
    positions = symbols - tables.minima[distributions]
    return np.where((positions >= 0) & (positions < tables.sizes[distributions]), symbols, 0)


# --- Last in, first out -----------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 7, 8, 9, 1000])
def test_any_bytes_are_a_start(tables, samples, length):
    rng = np.random.default_rng(length)
    for start in (bytes(length), b"\xff" * length, b"\1" * length, rng.bytes(length),
                  (b"\0" + rng.bytes(length) + bytes(length))[:length]):
        stack = AnsStack(tables, start)
        assert stack.finish() == start
        assert 8 * length - 40 <= stack.bits <= 8 * length
        bits = stack.bits
        stack.encode(*samples)
        np.testing.assert_array_equal(stack.decode(samples[1]), samples[0])
        assert stack.finish() == start and stack.bits == bits


def test_what_was_pushed_in_turns_is_popped_in_reverse(tables, samples, noise):
    symbols, distributions = samples
    rng = np.random.default_rng(2)
    outliers = rng.integers(-500, 500, (2, 3, 5)), np.broadcast_to(np.arange(62, 67), (2, 3, 5))
    nothing = np.zeros((0, 7)), np.zeros((0, 7), int)
    scalar = np.array(-3), np.array(40)

    encoder = AnsStack(tables, noise)
    encoder.encode(*outliers)
    first = encoder.sample(distributions)
    encoder.encode(*nothing)
    encoder.encode(*samples)
    second = encoder.sample(distributions[0, :2])
    encoder.encode(*scalar)
    assert first.dtype == np.int32 and first.shape == distributions.shape

    decoder = AnsStack(tables, encoder.finish())
    for pushed, numbers in (scalar, (None, None), samples, nothing):
        if pushed is None:
            decoder.unsample(second, distributions[0, :2])
            continue
        decoded = decoder.decode(numbers)
        assert decoded.dtype == np.int32 and decoded.shape == numbers.shape
        np.testing.assert_array_equal(decoded, pushed)
    decoder.unsample(first, distributions)
    np.testing.assert_array_equal(decoder.decode(outliers[1]), outliers[0])
    assert decoder.crc == encoder.crc != 0
    assert decoder.finish() == noise


def test_finish_leaves_the_stack_as_it_is(tables, samples):
    stack, undisturbed = AnsStack(tables), AnsStack(tables)
    for _ in range(3):
        stack.encode(*samples)
        undisturbed.encode(*samples)
        assert stack.finish() == AnsStack(tables, stack.finish()).finish()
    assert stack.finish() == undisturbed.finish()


def test_symbols_outside_the_tables_escape(tables):
    limit = 2**20
    symbols = np.array([2, -2, 5, 1109, 1110, -1110, 5000, limit, -limit, 0, 4, 6, 5])
    distributions = np.array([0, 0, 0, 63, 63, 63, 0, 63, 0, 0, 65, 65, 65])
    encoder = AnsStack(tables)
    encoder.encode(symbols, distributions)
    decoder = AnsStack(tables, encoder.finish())
    np.testing.assert_array_equal(decoder.decode(distributions), symbols)
    assert decoder.crc == encoder.crc and decoder.finish() == b""


def test_nothing_to_sample_needs_no_bits(tables):
    stack = AnsStack(tables)
    for distributions in (np.zeros((1, 0, 4), int), np.full((2, 3), 65)):  # 65 has one symbol
        symbols = stack.sample(distributions)
        np.testing.assert_array_equal(symbols, np.full(distributions.shape, 5))
        assert symbols.dtype == np.int32
        stack.unsample(symbols, distributions)
    assert stack.bits == 0 and stack.finish() == b""


# --- What it costs ----------------------------------------------------------------------------


def test_size_is_the_information_content(tables, samples):
    symbols, distributions = inside(tables, *samples), samples[1]
    stack = AnsStack(tables)
    stack.encode(symbols, distributions)
    bits = information(tables, symbols, distributions)
    assert bits - 1 < stack.bits < bits * 1.0005 + 8
    assert bits - 1 < 8 * len(stack.finish()) < bits * 1.0005 + 48


def test_sampling_costs_what_unsampling_pays_back(tables, samples, noise):
    stack = AnsStack(tables, noise)
    bits = stack.bits
    symbols = stack.sample(samples[1])
    positions = symbols - tables.minima[samples[1]]
    expected = -sum(
        np.sum(np.log2(probabilities(tables, d)[positions[samples[1] == d]])) for d in range(64))
    assert bits - stack.bits == pytest.approx(expected, rel=2e-4)
    stack.unsample(symbols, samples[1])
    assert stack.bits == bits and stack.finish() == noise


def reference(tables, positions, distributions):
    """The coder's number in Python's integers, after pushing the last symbol first."""
    state, words = 2**32, []
    for position, distribution in reversed(list(zip(positions, distributions))):
        cdf = tables.counts(distribution).tolist()
        low, count = cdf[position] << 8, (cdf[position + 1] - cdf[position]) << 8
        if state >> 40 >= count:
            words.append(state % 2**32)
            state >>= 32
        state = (state // count << 24) + low + state % count
    return sum(word << 32 * i for i, word in enumerate([*words, state]))


def test_bytes_are_those_of_a_coder_in_integers(tables):
    # Probabilities pass through floats on their way to the library: not one count may change.
    rng = np.random.default_rng(3)
    distributions = np.sort(np.append(rng.integers(0, 67, 3000), np.arange(67)))
    positions = rng.integers(0, tables.sizes[distributions])
    stack = AnsStack(tables)
    stack.encode(positions + tables.minima[distributions], distributions)
    digits = tables.digits
    number = reference(tables, [0, *positions], [digits, *distributions]) - 2**32
    # Strings of bytes in order: by length, then by value. Shorter ones come first.
    length = 0
    while number >= 256**length:
        number -= 256**length
        length += 1
    assert stack.finish() == number.to_bytes(length, "little")


# --- Samples ----------------------------------------------------------------------------------


@pytest.mark.parametrize("distribution", [0, 7, 20, 40, 64, 66])
def test_samples_follow_the_tables(tables, noise, distribution):
    count = 100_000
    symbols = AnsStack(tables, noise).sample(np.full(count, distribution))
    expected = probabilities(tables, distribution) * count
    observed = np.bincount(symbols - tables.minima[distribution], minlength=len(expected))
    assert len(observed) == len(expected)
    often = expected >= 5
    observed = np.append(observed[often], np.sum(observed[~often]))
    expected = np.append(expected[often], np.sum(expected[~often]))
    some = expected > 0
    assert stats.chisquare(observed[some], expected[some]).pvalue > 1e-3


def test_every_bit_string_is_a_sample(tables):
    rng = np.random.default_rng(4)
    for start in (b"\xff" * 60, bytes(60), *(rng.bytes(60) for _ in range(50))):
        stack = AnsStack(tables, start)
        distributions = rng.integers(0, 67, 24)
        symbols = stack.sample(distributions)
        positions = symbols - tables.minima[distributions]
        assert np.all((positions >= 0) & (positions < tables.sizes[distributions]))
        stack.unsample(symbols, distributions)
        assert stack.finish() == start


# --- Errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [b"", b"\0", b"\xff" * 3, b"\xff" * 4, b"ab" * 4])
@pytest.mark.parametrize("method", ["sample", "decode"])
def test_popping_more_than_there_is_raises(tables, method, start):
    stack = AnsStack(tables, start)
    with pytest.raises(CodingError, match=r"holds \d+ bits"):
        getattr(stack, method)(np.full(10, 40))
    assert stack.bits >= 0
    AnsStack(tables, stack.finish())
    if method == "sample":  # of one distribution: popped whole or not at all
        assert stack.finish() == start
    stack.encode(np.arange(10), np.full(10, 40))
    np.testing.assert_array_equal(stack.decode(np.full(10, 40)), np.arange(10))


def test_all_bits_but_the_last_can_be_popped(tables, noise):
    stack = AnsStack(tables, noise[:1000])
    popped = []
    with pytest.raises(CodingError, match="holds"):
        while True:
            popped.append(stack.sample([40]))
    assert 0 <= stack.bits < 16
    for symbols in reversed(popped):
        stack.unsample(symbols, [40])
    assert stack.finish() == noise[:1000]


def test_long_pop_from_a_short_stack_raises(tables, noise):
    stack = AnsStack(tables, noise[:1000])
    with pytest.raises(CodingError, match=f"holds {stack.bits} bits, and 100000 symbols"):
        stack.sample(np.full(100_000, 30))
    assert stack.finish() == noise[:1000]


def test_more_escapes_than_symbols_raise(tables, noise):
    stack = AnsStack(tables, noise)
    stack.encode(np.full(20, 500), np.zeros(20, int))
    with pytest.raises(CodingError, match="20 values outside of the tables among 19"):
        stack.decode(np.zeros(19, int))


@pytest.mark.parametrize("symbol", [math.nan, math.inf, 2e9, 2**20 + 1, np.int64(-2**40)])
def test_impossible_symbols_are_not_pushed(tables, noise, symbol):
    stack = AnsStack(tables, noise)
    symbols = np.full((2, 3), 1, dtype=np.asarray(symbol).dtype)
    symbols[1, 1] = symbol
    with pytest.raises(CodingError, match="latents"):
        stack.encode(symbols, np.zeros((2, 3), int))
    with pytest.raises(CodingError, match="never sampled"):
        stack.unsample(symbols, np.zeros((2, 3), int))
    assert stack.crc == 0 and stack.finish() == noise


@pytest.mark.parametrize("symbol", [-2, 3])
def test_symbols_that_are_no_samples_are_not_pushed(tables, noise, symbol):
    stack = AnsStack(tables, noise)
    with pytest.raises(CodingError, match="never sampled"):
        stack.unsample([0, symbol], [64, 64])
    assert stack.finish() == noise


def decoded_otherwise(tables, data, distributions, crc):
    """Whether a reader of `data` learns that it is not what the encoder wrote."""
    stack = AnsStack(tables, data)
    try:
        stack.decode(distributions)
        stack.decode(distributions)
    except CodingError:
        return True
    return stack.crc != crc or stack.finish() != b""


@pytest.fixture(scope="module")
def short(tables, samples):
    """Bytes and checksum of the same symbols twice, and their distributions."""
    symbols, distributions = (part.ravel()[:400] for part in samples)
    stack = AnsStack(tables)
    stack.encode(symbols, distributions)
    stack.encode(symbols, distributions)
    assert not decoded_otherwise(tables, stack.finish(), distributions, stack.crc)
    return stack.finish(), distributions, stack.crc


def test_truncation_is_seen(tables, short):
    data, distributions, crc = short
    for end in range(0, len(data), 5):
        assert decoded_otherwise(tables, data[:end], distributions, crc), end
        assert decoded_otherwise(tables, data[len(data) - end:], distributions, crc), end


def test_corruption_is_seen(tables, short):
    data, distributions, crc = short
    for position in range(0, len(data), 5):
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        assert decoded_otherwise(tables, bytes(damaged), distributions, crc), position


def test_checksum_is_of_the_symbols(tables):
    # Whatever codes them, and however often the same ones come.
    sums = []
    for symbols, distributions in ((1, 2), (1, 3), (0, 2)):
        stack = AnsStack(tables)
        stack.encode(np.full(4, symbols), np.full(4, distributions))
        once = stack.crc
        stack.encode(np.full(4, symbols), np.full(4, distributions))
        assert 0 != stack.crc != once
        sums.append(stack.crc)
    assert sums[0] == sums[1] != sums[2]
