import math

import numpy as np
import pytest
import scipy.linalg

from common import fid


def exact_sample(rng, n, mean, covariance):
    """`n` rows whose sample mean and unbiased sample covariance are those given."""
    rows = rng.normal(size=(n, len(mean)))
    rows -= rows.mean(axis=0)
    rows = rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows.T))).T
    return rows @ np.linalg.cholesky(covariance).T + mean


def random_covariance(rng, dimensions):
    root = rng.normal(size=(dimensions, 2 * dimensions))
    return root @ root.T / (2 * dimensions)


def test_patches_are_a_grid_and_one_shifted_by_half_a_patch():
    image = np.arange(9 * 14 * 3).reshape(9, 14, 3)
    corners = [(0, 0), (0, 4), (0, 8), (4, 0), (4, 4), (4, 8), (2, 2), (2, 6)]
    expected = [image[y:y + 4, x:x + 4] for y, x in corners]
    np.testing.assert_array_equal(fid.patches(image, 4), expected)


@pytest.mark.parametrize("height, width, count", [
    (512, 768, 8), (255, 1000, 0), (1000, 255, 0), (1, 1, 0), (256, 256, 1), (384, 384, 1),
    (511, 511, 1), (512, 512, 5), (640, 640, 5), (1365, 2048, 40 + 28)])
def test_number_of_patches(height, width, count):
    found = fid.patches(np.zeros((height, width, 3), np.uint8))
    assert found.shape == (count, 256, 256, 3) and found.dtype == np.uint8


def test_fid_of_known_means_and_covariances():
    rng = np.random.default_rng(0)
    sigma_a, sigma_b = np.array([1.0, 2.0, 0.5]), np.array([3.0, 1.0, 0.5])
    a = exact_sample(rng, 20, np.zeros(3), np.diag(sigma_a**2))
    b = exact_sample(rng, 30, np.array([1.0, -2.0, 0.0]), np.diag(sigma_b**2))
    assert fid.fid(a, b) == pytest.approx(5 + np.sum((sigma_a - sigma_b)**2))


def test_fid_of_covariances_that_do_not_commute():
    rng = np.random.default_rng(1)
    cov_a, cov_b = random_covariance(rng, 6), random_covariance(rng, 6)
    a, b = exact_sample(rng, 50, np.ones(6), cov_a), exact_sample(rng, 9, np.zeros(6), cov_b)
    expected = 6 + np.trace(cov_a + cov_b - 2 * scipy.linalg.sqrtm(cov_a @ cov_b).real)
    assert fid.fid(a, b) == pytest.approx(expected)


def test_fid_of_large_samples_tends_to_that_of_their_distributions():
    rng = np.random.default_rng(2)
    cov = random_covariance(rng, 4)
    a = rng.multivariate_normal(np.zeros(4), cov, 100_000)
    b = rng.multivariate_normal(np.full(4, 0.5), 4 * cov, 100_000)
    assert fid.fid(a, b) == pytest.approx(1 + np.trace(cov), rel=0.02)  # (2 - 1)^2 cov


@pytest.mark.parametrize("n, m", [(5, 5), (5, 8), (2, 30)])
def test_fid_with_fewer_patches_than_features(n, m):
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(n, 12)), 2 * rng.normal(size=(m, 12)) + 1
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    roots = np.sqrt(np.maximum(np.linalg.eigvals(cov_a @ cov_b).real, 0))
    expected = (np.sum((a.mean(axis=0) - b.mean(axis=0))**2)
                + np.trace(cov_a + cov_b) - 2 * np.sum(roots))
    assert fid.fid(a, b) == pytest.approx(expected, abs=1e-5)
    assert fid.fid(b, a) == pytest.approx(fid.fid(a, b))


@pytest.mark.parametrize("n", [7, 300])
def test_fid_of_equal_sets_is_zero_however_far_from_the_origin(n):
    a = (np.random.default_rng(4).normal(size=(n, 50)) + 100).astype(np.float32)
    assert fid.fid(a, a) == pytest.approx(0, abs=1e-10)


def kernel(x, y):
    return (float(np.dot(x, y)) / len(x) + 1)**3


def test_kid_by_a_loop_over_pairs():
    rng = np.random.default_rng(5)
    images = np.array([3, 0, 3, 1, 1, 1])
    a, b = rng.normal(size=(6, 4)), rng.normal(size=(6, 4)) + 1

    def mean_without(image=None):
        values = [kernel(a[i], a[j]) + kernel(b[i], b[j]) - 2 * kernel(a[i], b[j])
                  for i in range(6) for j in range(6)
                  if images[i] != images[j] and image not in (images[i], images[j])]
        return np.mean(values)

    value, error = fid.kid(a, b, images)
    assert value == pytest.approx(mean_without())
    left = [mean_without(image) for image in (0, 1, 3)]
    assert error == pytest.approx(math.sqrt(2 / 3 * np.sum((left - np.mean(left))**2)))
    assert fid.kid(b, a, images) == pytest.approx((value, error))


def test_kid_of_equal_sets_is_zero():
    a = np.random.default_rng(6).normal(size=(20, 8)).astype(np.float32)
    assert fid.kid(a, a, np.arange(20) // 2) == pytest.approx((0, 0), abs=1e-12)


def draw(rng, shift):
    """Sets of the patches of 12 images, 4 each: alike within an image, and to those coded."""
    image = np.repeat(rng.normal(size=(12, 5)), 4, axis=0)
    patch = image + rng.normal(size=(48, 5))
    return patch, (patch + rng.normal(size=(48, 5))) / math.sqrt(1.5) + shift


def test_kid_has_no_bias_though_patches_depend_on_each_other():
    rng = np.random.default_rng(7)
    images = np.arange(48) // 4
    with_own, without = [], []
    for _ in range(300):
        a, b = draw(rng, 0)
        without.append(fid.kid(a, b, images)[0])
        with_own.append(fid.kid(a, b, np.arange(48))[0])
    # Patches and coded ones are of one distribution, whose variances are 2.
    assert abs(np.mean(without)) < 3 * np.std(without) / math.sqrt(300)
    assert abs(np.mean(with_own)) > 5 * np.std(with_own) / math.sqrt(300)


def test_error_of_kid_is_its_spread_over_draws():
    rng = np.random.default_rng(8)
    values, errors = zip(*(fid.kid(*draw(rng, 1), np.arange(48) // 4) for _ in range(300)))
    assert np.mean(np.square(errors)) == pytest.approx(np.var(values), rel=0.3)


@pytest.mark.parametrize("count", [1, 2])
def test_kid_of_too_few_images_is_nan(count):
    a, b = np.random.default_rng(9).normal(size=(2, 6, 4))
    assert all(math.isnan(value) for value in fid.kid(a, b, np.arange(6) % count))


def means(patches):
    """Features that need no network: the mean colour of quarters, [N, 12]."""
    return patches.reshape(-1, 2, 128, 2, 128, 3).mean(axis=(2, 4)).reshape(-1, 12) / 255


def test_comparison_gathers_image_by_image(photo):
    originals = [photo, photo[:200], photo[::-1], photo[:, ::-1]]  # one is too small
    comparison = fid.Comparison(means)
    for image in originals:
        comparison.add(image, image // 2)
    scores = comparison.scores()
    patches = np.concatenate([fid.patches(image) for image in originals])
    a, b = means(patches), means(patches // 2)
    kid, error = fid.kid(a, b, np.repeat([0, 1, 2], 2))
    assert scores == pytest.approx({"fid": fid.fid(a, b), "kid": kid, "kid_error": error,
                                    "patches": 6})
    assert scores["fid"] > 0.1 and scores["kid"] > 0.1 > scores["kid_error"]


@pytest.mark.parametrize("sides", [[], [255], [256], [100, 256]])
def test_comparison_of_too_few_patches_is_nan(sides):
    comparison = fid.Comparison(means)
    for side in sides:
        comparison.add(*np.zeros((2, side, 300, 3), np.uint8))
    scores = comparison.scores()
    assert scores.pop("patches") == sides.count(256)
    assert set(scores) == {"fid", "kid", "kid_error"}
    assert all(math.isnan(value) for value in scores.values())
