import pytest

from common import sweeps
from common.errors import UserError
from mshyper.configs import two_layer_syn2

SEEDS = sweeps.over("seed", (0, 1))
LAMBDAS = sweeps.over("train.rd_lambda", (0.1, 0.2, 0.3))


def test_a_product_has_all_pairs_and_the_last_varies_fastest():
    assert sweeps.product(SEEDS, LAMBDAS) == [
        {"seed": seed, "train.rd_lambda": value} for seed in (0, 1) for value in (0.1, 0.2, 0.3)]
    assert sweeps.product(LAMBDAS) == LAMBDAS
    assert len(two_layer_syn2.get_hyper()) == 8


def test_zipped_sweeps_go_side_by_side():
    steps = sweeps.over("train.num_steps", (1, 2, 3))
    assert sweeps.zipped(LAMBDAS, steps) == [
        {"train.rd_lambda": 0.1, "train.num_steps": 1},
        {"train.rd_lambda": 0.2, "train.num_steps": 2},
        {"train.rd_lambda": 0.3, "train.num_steps": 3}]


def test_mistakes_are_named():
    with pytest.raises(UserError, match="sweeps of 2, 3 entries cannot be zipped"):
        sweeps.zipped(SEEDS, LAMBDAS)
    with pytest.raises(UserError, match="two sweeps override seed"):
        sweeps.product(SEEDS, LAMBDAS, SEEDS)
