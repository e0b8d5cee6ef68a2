import math
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import structural_similarity

from common import metrics


def test_mse_and_psnr_of_a_case_done_by_hand():
    a, b = np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 3), np.uint8)
    b[0, 0] = (0, 200, 100)  # unsigned differences must not wrap
    a[1, 1] = (255, 0, 0)
    mse = (200**2 + 100**2 + 255**2) / 12
    assert metrics.mse(a, b) == metrics.mse(b, a) == pytest.approx(mse)
    assert metrics.psnr(a, b) == pytest.approx(10 * math.log10(255**2 / mse))


def test_large_images_take_little_memory():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 2000, 1000, 3), dtype=np.uint8)
    difference = a.astype(np.float64) - b
    tracemalloc.start()
    try:
        assert metrics.mse(a, b) == pytest.approx(np.mean(difference**2), rel=1e-12)
        weights = np.array([0.299, 0.587, 0.114])
        assert metrics.psnr_y(a, b) == pytest.approx(
            10 * math.log10(255**2 / np.mean((difference @ weights)**2)), rel=1e-12)
        metrics.psnr(a, b)
        tracemalloc.clear_traces()
        tracemalloc.reset_peak()
        metrics.mse(a, b), metrics.psnr_y(a, b)
        assert tracemalloc.get_traced_memory()[1] < 5 * a.nbytes
    finally:
        tracemalloc.stop()


def test_equal_images_have_infinite_psnr(photo):
    assert metrics.psnr(photo, photo) == metrics.psnr_y(photo, photo) == math.inf


def test_luma_is_that_of_jpeg(photo):
    luma = metrics.luma(photo)
    expected = np.asarray(Image.fromarray(photo).convert("YCbCr"))[..., 0]
    assert np.max(np.abs(luma - expected)) < 1.1  # Pillow's is in whole numbers, rounded down
    np.testing.assert_allclose(metrics.luma(np.full((1, 1, 3), 255, np.uint8)), [[255]])


def test_psnr_of_luma_weighs_the_channels():
    grey = np.full((2, 2, 3), 100, np.uint8)
    error = {}
    for i, weight in enumerate((0.299, 0.587, 0.114)):
        other = grey.copy()
        other[..., i] += 10
        error[weight] = metrics.psnr_y(grey, other)
    assert error == pytest.approx(
        {weight: 20 * math.log10(255 / (10 * weight)) for weight in error})


def test_ms_ssim_needs_161_pixels(photo):
    noisy = blurred(photo)
    assert math.isnan(metrics.ms_ssim(photo[:160], noisy[:160]))
    assert math.isnan(metrics.ms_ssim(photo[:, :160], noisy[:, :160]))
    assert 0 < metrics.ms_ssim(photo[:161, :161], noisy[:161, :161]) < 1


def test_ms_ssim_is_one_for_equal_images_and_multi_scale(photo):
    crop = photo[:200, :200]
    assert metrics.ms_ssim(crop, crop) == pytest.approx(1, abs=1e-6)
    value = metrics.ms_ssim(crop, blurred(crop))
    # Blur is lost at coarse scales, so several scales rate it better than one does.
    assert structural_similarity(crop, blurred(crop), channel_axis=2) + 0.01 < value < 0.999
    assert metrics.ms_ssim(crop, 255 - crop) < 0.5


def test_all_metrics_agree_with_the_single_ones(photo):
    a, b = photo[:170, :180], blurred(photo)[:170, :180]
    assert metrics.all_metrics(a, b) == {
        "psnr": metrics.psnr(a, b), "psnr_y": metrics.psnr_y(a, b), "mse": metrics.mse(a, b),
        "ms_ssim": metrics.ms_ssim(a, b)}


def blurred(image):
    """Loses half the resolution."""
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((width // 2, height // 2), Image.BOX)
    return np.asarray(small.resize((width, height), Image.BILINEAR))
