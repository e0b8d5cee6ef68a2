"""Levels by themselves: lambdas, gains and scales; tests/test_levels.py has models with some."""

import math

import numpy as np
import pytest
import tensorflow as tf

from common import transforms, weights
from common.levels import Levels
from common.transforms.convolution import SignalConv2D
from common.transforms.layers import ShiftedConv
from tests.helpers.small_levels import LEVELS, photograph


def test_lambdas_are_evenly_spaced_in_the_logarithm():
    levels = Levels(channels=3, count=5, rd_lambda=(0.01, 0.16))
    np.testing.assert_allclose(
        levels.rd_lambda(tf.range(5)), [0.01, 0.02, 0.04, 0.08, 0.16], rtol=1e-5)
    np.testing.assert_allclose(levels.weight(tf.range(5)), 2.0 ** np.arange(1, -1.5, -0.5),
                               rtol=1e-5)


def test_gains_begin_as_roots_of_lambda_and_their_inverses():
    levels = Levels(channels=3, count=9, rd_lambda=(0.01, 0.16))
    y = tf.ones([9, 2, 1, 3])
    gains = levels.apply_gain(y, tf.range(9))
    expected = np.sqrt(levels.rd_lambda(tf.range(9)) / 0.04)
    np.testing.assert_allclose(gains, np.broadcast_to(
        expected[:, None, None, None], y.shape), rtol=1e-5)
    np.testing.assert_allclose(levels.apply_inverse(gains, tf.range(9)), y, rtol=1e-5)


def test_gains_are_interpolated_between_five_knots():
    levels = Levels(channels=2, count=13, rd_lambda=(0.01, 0.16))
    knots = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    levels.log_gain.assign(knots)
    found = np.log(levels.apply_gain(tf.ones([13, 1, 1, 2]), tf.range(13)))[:, 0, 0]
    for channel in range(2):
        np.testing.assert_allclose(
            found[:, channel], np.interp(np.arange(13) / 3, np.arange(5), knots[:, channel]),
            atol=1e-6)


def test_qualities():
    levels = Levels(channels=1, count=201, rd_lambda=(0.0015, 0.06))
    assert [levels.at_quality(q) for q in (0, 0.5, 50, 99.5, 100)] == [0, 1, 100, 199, 200]
    assert all(levels.at_quality(levels.quality(level)) == level for level in range(201))
    assert levels.spread(5) == [0, 50, 100, 150, 200]
    few = Levels(channels=1, count=3, rd_lambda=(0.0015, 0.06))
    assert few.spread(7) == [0, 1, 2]


def test_a_batch_covers_the_range_and_the_whole_of_it():
    levels = Levels(channels=1, count=201, rd_lambda=(0.0015, 0.06))
    drawn = tf.function(lambda: tf.map_fn(
        lambda step: levels.draw(tf.stack([3, step]), 4), tf.range(2000)))().numpy()
    assert drawn.min() == 0 and drawn.max() == 200
    edges = 50.25 * np.arange(5)
    assert np.all((edges[:-1] - 1 < drawn) & (drawn < edges[1:])), "each has a quarter of the range"
    counts = np.bincount(drawn.ravel(), minlength=201)
    assert counts.min() > 15 and counts.max() < 80  # 40 are expected
    one = tf.function(lambda: tf.map_fn(
        lambda step: levels.draw(tf.stack([3, step]), 1), tf.range(500)))().numpy()
    assert one.min() < 10 and one.max() > 190
    again = levels.draw(tf.constant([3, 7]), 4)
    np.testing.assert_array_equal(again, drawn[7])
    compiled = tf.function(lambda: levels.draw(tf.constant([3, 7]), 4), jit_compile=True)
    np.testing.assert_array_equal(compiled(), again)


@pytest.mark.parametrize("wrong, words", [
    (dict(count=1), "levels.count is 1"), (dict(count=5000), "2 to 4096"),
    (dict(rd_lambda=(0.06, 0.0015)), "the lowest lambda and the highest"),
    (dict(rd_lambda=(0.0, 0.1)), "the lowest lambda"), (dict(rd_lambda=(0.1,)), "the lowest")])
def test_what_makes_no_levels_is_refused(wrong, words):
    with pytest.raises(TypeError, match=words):
        Levels(channels=1, **{**LEVELS, **wrong})


def test_scales_are_named_by_the_place_of_their_convolution():
    analysis = transforms.build(dict(cls="ElicAnalysis", channels=(8, 8, 8, 12)))
    levels = Levels(channels=12, scales=True, **LEVELS)
    levels.condition("analysis", analysis)
    names = {weight.name.partition(":")[0] for weight in levels.weights}
    convolutions = [layer for layer in analysis.submodules if isinstance(layer, SignalConv2D)]
    assert len(names) == len(convolutions) + 2 > 30, "each has its own"
    assert {"analysis.0", "analysis.1.0", "analysis.10.1"} <= names
    for layer in convolutions:
        assert layer.level_scale.shape == (2, layer.filters)
    with levels.at(tf.constant([0])):
        analysis(photograph(64, 64))
    named = weights.named({"analysis": analysis, "levels": levels})
    assert len({weight.ref() for weight in named.values()}) == len(named)
    assert not any("level" in name for name in named if name.startswith("analysis/"))


def test_scales_reach_convolutions_in_any_alignment_and_padding():
    levels = Levels(channels=12, scales=True, **LEVELS)
    for name, options in (("align", dict(align="keras")), ("padding", dict(padding="reflect"))):
        analysis = transforms.build(dict(cls="HyperAnalysis", channels=(8, 8, 12), **options))
        levels.condition(name, analysis)
        x = tf.repeat(photograph(64, 64), 2, axis=0)
        with levels.at(tf.constant([0, 10])):
            y = analysis(x)
        last = analysis.layers[-1]
        assert isinstance(last, ShiftedConv) and last.level_scale.shape == (2, 12)
        np.testing.assert_allclose(y[0], y[1], atol=1e-5)  # they begin as ones
        last.level_scale.assign(tf.ones([2, 12]))
        with levels.at(tf.constant([20])):
            np.testing.assert_allclose(analysis(x), math.exp(2) * y, rtol=1e-3, atol=1e-4)
        with levels.at(tf.constant([10, 20])):
            np.testing.assert_allclose(
                analysis(x), [[[[1]]], [[[math.exp(2)]]]] * y, rtol=1e-3, atol=1e-4)


def test_scales_are_bounded_and_come_back():
    levels = Levels(channels=12, scales=True, **LEVELS)
    analysis = transforms.build(dict(cls="HyperAnalysis", channels=(8, 8, 12)))
    levels.condition("analysis", analysis)
    x, scale = photograph(64, 64), analysis.layers[-1].level_scale
    with levels.at(tf.constant([20])):  # t = 1
        y = analysis(x)
        for value, factor in ((1.5, math.exp(1.5)), (28.0, math.exp(2)), (-28.0, math.exp(-2))):
            scale.assign(np.stack([np.full(12, value), np.zeros(12)]))
            for sign in (1, -1):
                with tf.GradientTape() as tape:
                    out = analysis(x)
                    loss = sign * tf.reduce_sum(out**2)
                np.testing.assert_allclose(out, factor * y, rtol=1e-3, atol=1e-4)
                gradient, leads_back = tape.gradient(loss, scale)[0], sign * value > 0
                assert np.all((gradient.numpy() != 0) == (abs(value) < 2 or leads_back))
