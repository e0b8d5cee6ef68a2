import pytest

from common import schedules
from common.cli import UserError


def test_warmup_drop_at_its_corners():
    rate = schedules.WarmupDrop(2.0, 1000, warmup=0.02, drop_at=0.8, drop_factor=0.1)
    expected = {0: 0.1, 9: 1.0, 18: 1.9, 19: 2.0, 20: 2.0, 799: 2.0, 800: 0.2, 999: 0.2}
    assert {step: float(rate(step)) for step in expected} == pytest.approx(expected, rel=1e-6)


def test_the_drop_is_at_the_exact_step_of_a_long_training():
    rate = schedules.WarmupDrop(1.0, 2_000_000, drop_at=0.8)
    assert float(rate(1_599_999)) == pytest.approx(1.0)
    assert float(rate(1_600_000)) == pytest.approx(0.1)


def test_warmup_cosine_at_its_corners():
    rate = schedules.WarmupCosine(2.0, 1000, warmup=0.01, final=0.05)
    assert float(rate(0)) == pytest.approx(0.2, rel=1e-4)
    assert float(rate(8)) == pytest.approx(1.8, rel=1e-3)
    assert float(rate(9)) == pytest.approx(2.0, rel=1e-3)
    assert float(rate(500)) == pytest.approx(2.0 * (0.05 + 0.95 / 2), rel=1e-5)
    assert float(rate(999)) == pytest.approx(0.1, rel=1e-3)
    assert float(rate(1000)) == float(rate(2000)) == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize("cls", [schedules.WarmupDrop, schedules.WarmupCosine])
def test_without_warmup_the_first_step_has_the_full_rate(cls):
    assert float(cls(0.5, 1000, warmup=0.0)(0)) == pytest.approx(0.5)


@pytest.mark.parametrize("cls", [schedules.WarmupDrop, schedules.WarmupCosine])
def test_config_rebuilds_the_schedule(cls):
    rate = cls(0.3, 500, warmup=0.1)
    again = cls.from_config(rate.get_config())
    assert [float(rate(s)) for s in (0, 20, 450)] == [float(again(s)) for s in (0, 20, 450)]


def test_schedule_by_name():
    rate = schedules.learning_rate(dict(cls="WarmupDrop", drop_at=0.5, warmup=0), 3.0, 10)
    assert isinstance(rate, schedules.WarmupDrop)
    assert [float(rate(s)) for s in (4, 5)] == pytest.approx([3.0, 0.3])


@pytest.mark.parametrize("config, message", [
    (dict(cls="Warmup"), "'Warmup'.*WarmupDrop"),
    (dict(), "None"),
    (dict(cls="WarmupCosine", drop_at=0.5), "WarmupCosine.*drop_at"),
])
def test_mistakes_in_the_config_are_user_errors(config, message):
    with pytest.raises(UserError, match=message):
        schedules.learning_rate(config, 1e-4, 100)


@pytest.mark.parametrize("value, expected", [
    (0.005, 0.05), (0.01, 0.1), (0.010001, 0.010001), (0.08, 0.08)])
def test_lambda_is_warmed_up_only_where_it_is_small(value, expected):
    def at(step):
        return float(schedules.rd_lambda(step, value, 1000, factor=10.0, until=0.2, at_most=0.01))

    assert [at(s) for s in (0, 199)] == pytest.approx([expected] * 2)
    assert [at(s) for s in (200, 999)] == pytest.approx([value] * 2)
