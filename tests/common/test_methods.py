"""Methods of refinement: what was published, and mistakes in one."""

import math

import pytest

from common import methods, refinement
from common.errors import UserError
from common.objectives import Objective
from tests.helpers.refining import LAMBDA, method
from tests.helpers.small_models import shared


@pytest.mark.parametrize("name, num_steps, rate, tau", [
    ("sga_yang2020", 2000, lambda t: 5e-3, lambda t: 0.5 * math.exp(-1e-3 * max(0, t - 700))),
    ("sga_yang2023", 3000, lambda t: 5e-3 if t < 2700 else 5e-4,
     lambda t: 0.5 * math.exp(-5e-4 * max(0, t - 200))),
    ("map", 2000, lambda t: 5e-3, None),
    ("ste", 2000, lambda t: 1e-4, None),
    ("unoise", 2000, lambda t: 5e-3, None),
    ("danneal", 2000, lambda t: 5e-3, lambda t: min(0.2, math.exp(-4e-3 * t))),
])
def test_published_methods(name, num_steps, rate, tau):
    config = methods.method(name)
    assert config.num_steps == num_steps
    if name in ("map", "ste"):  # every tenth step, to stop at the first that is not better
        assert (config.patience, config.check_interval) == (1, 10)
    else:
        assert config.patience == 0
    found = refinement.Refiner(shared("factorized"), config, Objective(LAMBDA))
    for step in (0, 1, 199, 200, 201, 400, 405, 699, 700, 701, 1500, 1999, num_steps - 301,
                 num_steps - 300, num_steps - 299, num_steps - 1, num_steps):
        assert float(found._rate(step)) == pytest.approx(rate(step), rel=1e-5)
        if tau is None:
            assert math.isnan(found._temperature(step))
        else:
            assert float(found._temperature(step)) == pytest.approx(tau(step), rel=1e-4)


def test_sga_keeps_its_shape_with_fewer_steps_and_goes_half_as_far():
    short, published = (refinement.Refiner(
        shared("factorized"), methods.method(name), Objective(LAMBDA))
                        for name in ("sga", "sga_yang2020"))
    assert methods.method("sga").num_steps == 500
    assert methods.method("sga_yang2020").num_steps == 2000
    for step in (0, 175, 250, 500):
        assert float(short._temperature(step)) == pytest.approx(
            float(published._temperature(4 * step)), rel=1e-5)
        assert float(short._rate(step)) == pytest.approx(2 * float(published._rate(4 * step)))


def test_rates_of_few_steps_are_bounded():
    for name, travel, rate in (("map", 10.0, 0.05), ("map", 0.2, 0.02), ("sga_yang2023", 15, 0.05),
                               ("sga", 5.0, 0.02)):
        few = refinement.Refiner(
            shared("factorized"), method(name, num_steps=10, travel=travel), Objective(LAMBDA))
        assert float(few._rate(0)) == pytest.approx(rate)


def test_unknown_method():
    with pytest.raises(UserError, match="'sag'; known: sga, .*danneal"):
        methods.method("sag")


@pytest.mark.parametrize("changes, message", [
    (dict(quantizer="Gumbel"), "'Gumbel'.*StochasticGumbel"),
    (dict(quantizer="Round"), "'Round'"),
    (dict(num_steps=0), "num_steps is 0"),
    (dict(check_interval=0), "check_interval is 0"),
    (dict(schedule=dict(cls="Cosine")), "'Cosine'"),
    (dict(schedule=dict(cls="ReduceOnPlateau")), "ReduceOnPlateau follows the losses"),
    (dict(quantizer="DeterministicAnnealing"), "needs a temperature"),
])
def test_mistakes_in_a_method(changes, message):
    with pytest.raises(UserError, match=message):
        refinement.Refiner(shared("factorized"), method("map", **changes), Objective(LAMBDA))
