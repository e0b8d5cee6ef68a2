import numpy as np
import pytest

from benchmarks import scaling


@pytest.mark.parametrize("size", [3, 7, 20])
def test_tiled_mirrors_the_photograph(size):
    photograph = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    rows, columns = ([*range(side), *range(side)[::-1]] * 3 for side in (4, 6))
    expected = photograph[rows[:size]][:, columns[:size]]
    np.testing.assert_array_equal(scaling.tiled(photograph, size), expected)


def test_exponent_of_a_power_law():
    assert scaling.exponent({size: 3 * (size**2)**0.7 for size in (512, 1024, 4096)}
                            ) == pytest.approx(0.7)


def test_range_coder_returns_both_speeds():
    encode, decode = scaling.range_coder(count=10_000, rounds=1)
    assert encode["symbols a second"] > 0 and decode["symbols a second"] > 0
    # The mean entropy over all scales, from 0 bits to 10.
    assert 4 < encode["bits a symbol"] == decode["bits a symbol"] < 5
