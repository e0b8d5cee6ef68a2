import json
import math

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator

from benchmarks import bd, rate_distortion

RATES, PSNRS = [0.1, 0.2, 0.4, 0.8, 1.6], [27, 30, 32.5, 35.5, 39]
ANCHOR = bd.Curve.of(RATES, PSNRS)
PUBLISHED = json.loads(rate_distortion.PUBLISHED.read_text())


def of(name):
    return bd.Curve.of(PUBLISHED[name]["bpp"], PUBLISHED[name]["psnr"])


@pytest.mark.parametrize("factor", [0.5, 0.9, 1, 3])
def test_rate_of_a_curve_that_needs_a_constant_factor(factor):
    test = bd.Curve.of(np.multiply(RATES, factor), PSNRS)
    for psnrs in (bd.UNLIMITED, (28.5, 33)):
        assert bd.compare(ANCHOR, test, psnrs).rate == pytest.approx(100 * (factor - 1), abs=1e-6)


@pytest.mark.parametrize("gain", [-1.5, 0.25])
def test_psnr_of_a_curve_that_lies_a_constant_higher(gain):
    delta = bd.compare(ANCHOR, bd.Curve.of(RATES, np.add(PSNRS, gain)), (29, 36))
    assert delta.psnr == pytest.approx(gain, abs=1e-6)


def test_straight_curves_by_hand():
    # Over log2 of the rate, the anchor rises by 3 dB a step and the other one by 4: at 30 dB both
    # need 0.25, at 42 dB 4 and 2. The mean of log2(test / anchor) is -1/2 there.
    anchor, test = bd.Curve.of([0.25, 4], [30, 42]), bd.Curve.of([0.25, 4], [30, 46])
    delta = bd.compare(anchor, test)
    assert delta.rate == pytest.approx(100 * (2**-0.5 - 1))
    assert delta.psnr == pytest.approx(2)
    assert delta.psnrs == (30, 42) and delta.rates == pytest.approx((0.25, 4))
    # From 36 to 42 dB the anchor needs 1 to 4; the mean of log2 is that at 39 dB, -3/4.
    upper = bd.compare(anchor, test, (36, 50))
    assert upper.rate == pytest.approx(100 * (2**-0.75 - 1)) and upper.psnr == pytest.approx(3)
    assert upper.psnrs == (36, 42) and upper.rates == pytest.approx((1, 4))


def test_ranges_are_integrated_as_a_sum_of_trapezoids():
    test = bd.Curve.of([0.07, 0.15, 0.33, 0.5, 1.9], [26, 29.7, 33.1, 34, 40])
    delta = bd.compare(ANCHOR, test, (28, 34.2))
    psnrs, steps = np.linspace(28, 34.2, 100_000, retstep=True)
    gap = np.subtract(*(PchipInterpolator(curve.psnr, np.log10(curve.bpp))(psnrs)
                        for curve in (test, ANCHOR)))
    mean = np.sum((gap[1:] + gap[:-1]) / 2) * steps / 6.2
    assert delta.rate == pytest.approx(100 * (10**mean - 1), abs=1e-4)


@pytest.mark.parametrize("name", [
    name for name, curve in PUBLISHED.items() if "bd_rate_vs_vtm" in curve and name != "vtm"])
def test_published_rates_against_vtm(name):
    delta = bd.compare(of("vtm"), of(name), (29.5, 36.5))
    assert delta.psnrs == (29.5, 36.5)
    # They are known to two digits.
    assert delta.rate == pytest.approx(PUBLISHED[name]["bd_rate_vs_vtm"], abs=0.0051)


def test_iterative_inference_over_all_that_its_curves_share():
    assert bd.compare(of("yang2020-base"), of("yang2020-sga")).rate == pytest.approx(-15.2, abs=.05)
    two_layer = bd.compare(of("yang2023-two-layer"), of("yang2023-two-layer-sga"))
    assert two_layer.rate == pytest.approx(-9.8, abs=.05)
    assert two_layer.psnr == pytest.approx(0.5, abs=.02)


def test_nothing_is_extrapolated():
    lower = bd.Curve.of([0.05, 0.3], [25, 31])
    delta = bd.compare(ANCHOR, lower, (20, 50))
    assert delta.psnrs == (27, 31)
    # At 31 dB the anchor needs less than 0.3.
    assert delta.rates[0] == pytest.approx(0.1) and 0.2 < delta.rates[1] < 0.3
    for apart in (bd.Curve.of([0.05, 0.1], [20, 26]), bd.Curve.of([0.3], [31])):
        delta = bd.compare(ANCHOR, apart)
        assert all(map(math.isnan, (delta.rate, delta.psnr, *delta.psnrs, *delta.rates)))
    # The same PSNRs at rates that do not meet have a BD-rate, but no BD-PSNR.
    delta = bd.compare(ANCHOR, bd.Curve.of(np.multiply(RATES, 100), PSNRS))
    assert delta.rate == pytest.approx(9900) and math.isnan(delta.psnr)


def test_points_that_nobody_would_use_are_left_out():
    curve = bd.Curve.of([0.8, 0.1, 0.3, 0.2, 0.2], [35, 27, 29, 30, 29.5])
    np.testing.assert_array_equal(curve.bpp, [0.1, 0.2, 0.8])
    np.testing.assert_array_equal(curve.psnr, [27, 30, 35])


def test_points_without_a_finite_psnr_are_left_out():
    curve = bd.Curve.of([0.1, 0.2, 0.3, 0.4], [math.nan, 27, 30, math.inf])
    np.testing.assert_array_equal(curve, [[0.2, 0.3], [27, 30]])
    assert math.isnan(bd.compare(ANCHOR, bd.Curve.of([0.1], [math.inf])).rate)
