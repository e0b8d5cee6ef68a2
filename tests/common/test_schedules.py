import math

import pytest
import tensorflow as tf

from common import schedules
from common.errors import UserError


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


def test_a_cosine_may_begin_late():
    late = schedules.WarmupCosine(2.0, 1000, warmup=0.01, final=0.05, decay_from=0.8)
    assert {float(late(step)) for step in (9, 10, 500, 800)} == {2.0}
    whole = schedules.WarmupCosine(2.0, 200, warmup=0.0, final=0.05)
    for step in (1, 50, 199, 200):
        assert float(late(800 + step)) == pytest.approx(float(whole(step)), rel=1e-4)
    with pytest.raises(ValueError, match="decay_from is 1"):
        schedules.WarmupCosine(2.0, 1000, decay_from=1.0)


@pytest.mark.parametrize("cls", [schedules.WarmupDrop, schedules.WarmupCosine])
def test_without_warmup_the_first_step_has_the_full_rate(cls):
    assert float(cls(0.5, 1000, warmup=0.0)(0)) == pytest.approx(0.5)


def test_constant():
    rate = schedules.Constant(0.5, 10)
    assert [float(rate(step)) for step in (0, 9, 100)] == [0.5] * 3


def test_exponential_at_its_corners():
    rate = schedules.Exponential(2.0, 1000, factor=0.5, every=0.1)
    expected = {0: 2.0, 50: 2.0 * math.sqrt(0.5), 100: 1.0, 300: 0.25, 1000: 2.0 / 1024}
    assert {step: float(rate(step)) for step in expected} == pytest.approx(expected, rel=1e-5)


def test_cosine_restarts_at_its_corners():
    rate = schedules.CosineRestarts(2.0, 1000, first=0.1, longer=2.0, lower=0.5, final=0.1)
    # They start at 0, 100 and 300, 1.8, 0.9 and 0.45 above the end, and are half way down in the
    # middle.
    expected = {0: 2.0, 50: 1.1, 99: 0.2, 100: 1.1, 200: 0.65, 299: 0.2, 300: 0.65}
    assert {step: float(rate(step)) for step in expected} == pytest.approx(expected, rel=0.02)


def test_plateaus_at_their_corners():
    rate = schedules.ReduceOnPlateau(1.0, 100, factor=0.25, patience=2, minimum=0.1)
    seen = []
    for loss in (5.0, 5.0, 4.0, 4.5, 4.0, 3.0, 9.0, 8.0, 8.0, 8.0):
        rate.observe(loss)
        seen.append(float(rate(0)))
    assert seen == pytest.approx([1.0, 1.0, 1.0, 1.0, 0.25, 0.25, 0.25, 0.1, 0.1, 0.1])


def test_plateaus_never_raise_the_rate():
    rate = schedules.ReduceOnPlateau(1e-7, 100, patience=1, minimum=1e-6)
    for loss in (1.0, 2.0, 2.0):
        rate.observe(loss)
    assert float(rate(0)) == pytest.approx(1e-7)


def test_the_state_of_plateaus_is_in_the_checkpoint_of_the_optimizer(tmp_path):
    def setup():
        rate = schedules.ReduceOnPlateau(1.0, 100, factor=0.5, patience=2)
        optimizer = tf.keras.optimizers.SGD(rate)
        optimizer.build([tf.Variable(0.0)])
        return rate, tf.train.Checkpoint(optimizer=optimizer)

    rate, checkpoint = setup()
    for loss in (1.0, 2.0, 2.0, 2.0):
        rate.observe(loss)
    path = checkpoint.save(str(tmp_path / "c"))
    again, other = setup()
    other.restore(path).assert_consumed()
    for loss in (1.5, 1.5, 1.0, 0.5, 2.0, 2.0):
        rate.observe(loss)
        again.observe(loss)
        assert float(rate(0)) == float(again(0))
    assert float(again(0)) == 1 / 16


def test_plateaus_go_on_from_another_learning_rate(tmp_path):
    rates = [schedules.ReduceOnPlateau(start, 100, factor=0.5, patience=1, minimum=0.1)
             for start in (1.0, 0.4)]
    for loss in (1.0, 2.0):
        rates[0].observe(loss)
    tf.train.Checkpoint(rate=rates[1]).restore(
        tf.train.Checkpoint(rate=rates[0]).save(str(tmp_path / "c"))).assert_consumed()
    assert [float(rate(0)) for rate in rates] == pytest.approx([0.5, 0.2])
    for loss in (2.0, 2.0):
        rates[1].observe(loss)
    assert float(rates[1](0)) == pytest.approx(0.1)


@pytest.mark.parametrize("cls", [
    schedules.Constant, schedules.WarmupDrop, schedules.WarmupCosine, schedules.Exponential,
    schedules.CosineRestarts, schedules.ReduceOnPlateau])
def test_config_rebuilds_the_schedule(cls):
    rate = cls(0.3, 500)
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
    (dict(cls="Exponential", every=0.0), "Exponential: every is 0.0"),
    (dict(cls="ReduceOnPlateau", patience=0), "patience is 0"),
    (dict(cls="CosineRestarts", longer=0.5), "longer is 0.5; need 1 or more"),
])
def test_mistakes_in_the_config_are_user_errors(config, message):
    with pytest.raises(UserError, match=message):
        schedules.learning_rate(config, 1e-4, 100)


def test_an_optimizer_needs_a_learning_rate():
    with pytest.raises(UserError, match="'Adam'.*has no learning_rate"):
        schedules.for_optimizer(dict(cls="WarmupDrop"), dict(cls="Adam"), 100)


@pytest.mark.parametrize("value, expected", [
    (0.005, 0.05), (0.01, 0.1), (0.010001, 0.010001), (0.08, 0.08)])
def test_lambda_is_warmed_up_only_where_it_is_small(value, expected):
    def at(step):
        return float(schedules.rd_lambda(step, value, 1000, factor=10.0, until=0.2, at_most=0.01))

    assert [at(s) for s in (0, 199)] == pytest.approx([expected] * 2)
    assert [at(s) for s in (200, 999)] == pytest.approx([value] * 2)


# Lengths and the arguments that stand for  min(0.5, 0.5 exp(-rate (step - t0))).
YANG_2020 = dict(num_steps=2000, rate=2.0, start=0.35, largest=0.5)
YANG_2023 = dict(num_steps=3000, rate=1.5, start=1 / 15, largest=0.5)


@pytest.mark.parametrize("schedule, rate, t0, end", [
    (YANG_2020, 1e-3, 700, 0.136), (YANG_2023, 5e-4, 200, 0.123)])
def test_published_temperatures_at_their_corners(schedule, rate, t0, end):
    def at(step):
        return float(schedules.temperature(step, **schedule))

    assert [at(s) for s in (0, t0 // 2)] == [0.5, 0.5]
    assert at(t0) == pytest.approx(0.5, rel=1e-6)
    for step in (t0 + 1, t0 + 10, t0 + 900):
        assert 1 - at(step) / 0.5 == pytest.approx(1 - math.exp(-rate * (step - t0)), rel=1e-3)
    assert at(schedule["num_steps"]) == pytest.approx(end, abs=5e-4)
    assert at(10 * schedule["num_steps"]) < 0.01 * end


def test_linear_temperature_at_its_corners():
    def at(step):
        return float(schedules.temperature(
            step, 1000, rate=0.5, start=0.2, largest=0.25, shape="linear"))

    expected = {0: 0.25, 100: 0.25, 200: 0.25, 201: 0.2495, 400: 0.15, 600: 0.05, 699: 0.0005,
                701: 1e-8, 1000: 1e-8}
    assert {step: at(step) for step in expected} == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("shape", ["exponential", "linear"])
@pytest.mark.parametrize("rate", [0.0, 1.0, 100.0, 1e6])
@pytest.mark.parametrize("start", [0.0, 0.5, 1.0])
def test_temperatures_stay_within_their_bounds(shape, rate, start):
    taus = [float(schedules.temperature(step, 100, rate, start, 0.3, shape))
            for step in (0, 1, 49, 50, 51, 99, 100, 10**6)]
    assert taus == sorted(taus, reverse=True)
    smallest, largest = (float(tf.constant(bound)) for bound in (1e-8, 0.3))
    assert taus[0] == largest and taus[-1] >= smallest
    assert taus[-1] == (largest if rate == 0 else smallest)


def test_temperature_of_a_step_in_a_graph():
    graph = tf.function(lambda step: schedules.temperature(step, **YANG_2020))
    for step in (tf.constant(1200), tf.constant(1200, tf.int64)):
        result = graph(step)
        assert result.dtype == tf.float32 and result.shape == ()
        assert float(result) == pytest.approx(0.5 * math.exp(-0.5), rel=1e-5)


def test_unknown_shape_of_a_temperature():
    with pytest.raises(UserError, match="'cosine'.*exponential, linear"):
        schedules.temperature(0, **YANG_2020, shape="cosine")
