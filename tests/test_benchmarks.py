import argparse

import numpy as np
import pytest

from benchmarks import optimizers, scaling


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


def test_optimizers_are_compared_at_the_lowest_loss_that_adam_reaches():
    curves = {
        "Adam, published (1e-04)": [(50, 9.0), (100, 8.0)],
        "Adam, best (1e-03)": [(50, 7.0), (100, 5.0), (150, 6.0)],
        "SOAP (2e-03)": [(10, 6.0), (20, 4.9), (30, 4.0)]}
    seconds = {"Adam": [0.9, 1.0, 5.0], "SOAP": [2.0]}
    published, best, soap = optimizers.compare(curves, seconds)
    assert {row["target"] for row in (published, best, soap)} == {5.0}
    assert [row["steps"] for row in (published, best, soap)] == [None, 100, 20]
    assert best["steps / SOAP"] == 5 and published["steps / SOAP"] == 5  # at least
    assert best["minutes"] == pytest.approx(100 / 60)  # of the median step
    assert best["minutes / SOAP"] == pytest.approx(2.5)
    # Where SOAP does not get as low, its lowest loss counts.
    curves["SOAP (2e-03)"] = [(20, 5.5)]
    _, best, soap = optimizers.compare(curves, seconds)
    assert best["target"] == 5.5 and best["steps"] == 100 and soap["steps"] == 20


def test_optimizers_train_the_same_model_on_the_same_data():
    args = argparse.Namespace(train="photos/train", validation="photos/validation")
    for model in optimizers.MODELS:
        adam = optimizers.config_of(model, "Adam", 1e-4, 3000, args)
        soap = optimizers.config_of(model, "SOAP", 2e-3, 600, args)
        assert adam.model == soap.model and adam.data == soap.data and adam.seed == soap.seed
        assert adam.train.schedule == soap.train.schedule
        assert adam.train.optimizer.global_clipnorm == soap.train.optimizer.global_clipnorm == 1
