"""Rate control, alone and with simulated models."""

import math

import numpy as np
import pytest
import tensorflow as tf

from common import rate_control
from common.errors import UserError


def build(target=0.3, num_steps=1000, **config):
    return rate_control.build(config, target, num_steps)


def never():
    raise AssertionError("the coded rate takes time and is not needed")


def simulated(control, ratio, lag, num_steps, validations, noise=0.3):
    """Rates in validation of a simulated model, trained under `control`.

    Its rate follows the weight with a lag of so many steps, more as the learning rate falls along
    a cosine. A batch's rate is `ratio` times that of validation, and noisy.
    """
    log_rate = tf.Variable(math.log(5.0))  # untrained
    weight = tf.Variable(1.0)
    noise = tf.constant(np.random.default_rng(0).normal(0, noise, num_steps), tf.float32)

    @tf.function
    def train(first, last):
        for step in tf.range(first, last):
            pace = 0.505 + 0.495 * tf.cos(math.pi * tf.cast(step, tf.float32) / num_steps)
            settled = math.log(0.4) - 0.6 * tf.math.log(weight)
            log_rate.assign_add(pace / lag * (settled - log_rate))
            weight.assign(control(step, ratio * tf.exp(log_rate + noise[step]), never))

    rates, interval = [], num_steps // validations
    for i in range(validations):
        train(tf.constant(i * interval), tf.constant((i + 1) * interval))
        rates.append(math.exp(log_rate))
        control.observe(rates[-1])
    return rates


@pytest.mark.parametrize("target, ratio, lag", [  # every two of their values together
    (0.1, 0.6, 50), (0.1, 1.1, 250), (1.0, 0.6, 250), (1.0, 1.1, 50)])
def test_validation_rate_settles_within_two_percent(target, ratio, lag):
    control = build(target, 20_000, cls="ProportionalIntegral")
    rates = simulated(control, ratio, lag, 20_000, 20)
    np.testing.assert_allclose(rates[-5:], target, rtol=0.02)


def test_without_validation_the_rate_is_that_of_the_batches(monkeypatch):
    control = build(0.3, 20_000, cls="ProportionalIntegral")
    monkeypatch.setattr(control, "observe", lambda bpp: None)
    rates = simulated(control, 0.6, 10, 20_000, 20)
    # Of their logarithms, to be exact.
    np.testing.assert_allclose(rates[-5:], 0.3 / 0.6, rtol=0.02)


def test_untrained_model_does_not_wind_up_the_integral():
    # As long as the integral needs to settle, at 100 times the target: the weight is moderate.
    control = build(cls="ProportionalIntegral")
    for step in range(20):
        weight = float(control(step, tf.constant(30.0), never))
    assert weight == pytest.approx(math.exp(2 + 2), rel=1e-3)


def test_weight_moves_the_right_way_and_within_its_range():
    high, low = (build(0.3, 100, cls="ProportionalIntegral", spread=2.0) for _ in range(2))
    above = [float(high(step, tf.constant(0.6), never)) for step in range(100)]
    below = [float(low(step, tf.constant(0.15), never)) for step in range(100)]
    assert all(b >= a for a, b in zip(above, above[1:]))
    assert above[0] > 1 and above[-1] == pytest.approx(2.0)
    assert below[0] < 1 and below[-1] == pytest.approx(0.5)


@pytest.mark.parametrize("nothing", [0.0, -0.1])
def test_a_batch_without_a_rate_is_survived(nothing):
    control = build(cls="ProportionalIntegral")
    for step in range(1000):
        weight = float(control(step, tf.constant(nothing if step == 10 else 0.3), never))
        assert math.isfinite(weight)
    assert 0.5 < weight < 1.0  # what the integral keeps of it, until rates fall
    control.observe(nothing)
    assert math.isfinite(float(control(1000, tf.constant(0.3), never)))


def test_a_second_training_begins_with_the_weight_of_the_first():
    control = build(0.3, cls="ProportionalIntegral")
    control.begin(0.2)
    assert float(control(0, tf.constant(0.3), never)) == pytest.approx(0.2, rel=1e-5)


def test_state_is_in_a_checkpoint(tmp_path):
    first, second = (build(cls="ProportionalIntegral") for _ in range(2))
    for step in range(50):
        first(step, tf.constant(0.5), never)
    first.observe(0.6)
    path = tf.train.Checkpoint(control=first).write(str(tmp_path / "checkpoint"))
    tf.train.Checkpoint(control=second).read(path).assert_consumed()
    weights = [float(control(50, tf.constant(0.2), never)) for control in (first, second)]
    assert weights[0] == weights[1]
    assert float(first.mean_weight) == float(second.mean_weight)


def test_weight_has_no_gradient():
    bpp = tf.constant(0.5)
    for control in (build(cls="ProportionalIntegral"), build(cls="TwoWeights", above=2.0)):
        with tf.GradientTape() as tape:
            tape.watch(bpp)
            loss = control(0, bpp, lambda: bpp) * bpp
        assert float(tape.gradient(loss, bpp)) == pytest.approx(float(loss) / 0.5)


def test_two_weights_at_the_corners():
    # Mentzer et al. 2020, low: 2 and 2^-4 around 0.14; twice that around 0.20 for 50k steps of 1 M.
    control = build(0.14, 1_000_000, cls="TwoWeights", above=2.0)
    expected = {
        (0, 0.201): 4.0, (0, 0.199): 0.125, (49_999, 0.201): 4.0, (49_999, 0.199): 0.125,
        (50_000, 0.199): 2.0, (50_000, 0.141): 2.0, (50_000, 0.139): 0.0625, (10**6, 0.1): 0.0625}
    for (step, coded), weight in expected.items():
        found = control(step, tf.constant(9.0), lambda coded=coded: tf.constant(coded))
        assert float(found) == pytest.approx(weight), (step, coded)


def test_mean_weight_is_the_mean_of_the_first_steps():
    control = build(0.14, 1_000_000, cls="TwoWeights", above=2.0)
    for step, coded in enumerate((0.3, 0.1, 0.1, 0.3)):
        control(step, tf.constant(0.0), lambda coded=coded: tf.constant(coded))
    assert float(control.mean_weight) == pytest.approx((4 + 0.125 + 0.125 + 4) / 4)


def test_mean_weight_is_that_of_the_last_thousand_steps():
    control = build(0.14, 1_000_000, cls="TwoWeights", above=2.0)
    measure = tf.function(lambda step, coded: control(step, tf.constant(0.0), lambda: coded))
    for step in range(4000):
        measure(tf.constant(step), tf.constant(0.3 if step < 1000 else 0.1))
    # Of 4 above the target and 1/8 below, with 3000 steps of the latter.
    assert float(control.mean_weight) == pytest.approx(0.125 + 3.875 * math.exp(-3), rel=0.02)


@pytest.mark.parametrize("config, target, words", [
    (dict(cls="Thermostat"), 0.3, "unknown rate control 'Thermostat'; known: TwoWeights, Prop"),
    (dict(cls="TwoWeights", above=1.0, gain=1.0), 0.3, "rate control TwoWeights: .*gain"),
    (dict(cls="TwoWeights"), 0.3, "rate control TwoWeights: .*above"),
    (dict(cls="ProportionalIntegral", settle=0.0), 0.3, "need to be positive"),
    (dict(cls="ProportionalIntegral"), 0.0, "the target is 0.0 bits per pixel"),
    (dict(cls="ProportionalIntegral"), math.nan, "the target is nan bits per pixel"),
])
def test_mistakes_are_one_clear_line(config, target, words):
    with pytest.raises(UserError, match=words) as error:
        rate_control.build(config, target, 1000)
    assert "\n" not in str(error.value)
