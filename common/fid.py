"""FID and KID: how far the patches of decoded images, as a set, are from those of the originals.

Both compare distributions of Inception's features (`common.inception`), not images: FID by their
means and covariances (Heusel et al. 2017, arXiv 1706.08500), KID by a kernel (Bińkowski et al.
2018, arXiv 1801.01401). The patches are those of Mentzer et al. 2020 (HiFiC, arXiv 2006.09965,
supplement), whose "FID/256" others report too.

Both need many patches. FID grows as they become fewer, so its values are comparable only between
codecs on one data set. KID has no such bias, but an error, which is given with it. Mentzer et al.
report neither on Kodak, whose 192 patches are too few; CLIC 2020 has 28,650.
"""

import math
from collections.abc import Callable

import numpy as np

PATCH_SIZE = 256
MIN_IMAGES = 3  # for KID


def patches(image: np.ndarray, size: int = PATCH_SIZE) -> np.ndarray:
    """The patches of an image: a grid, and one shifted by half a patch, a row and a column smaller.

    Args:
      image: [H, W, 3].
      size: side of a patch, even.

    Returns:
      [N, size, size, 3], row by row: those of the grid from the top left corner, as many as fit,
      and those that lie between four of these (appendix A.7 of Mentzer et al.).
      None where H or W is below `size`; 8 for an image of 768 x 512.
    """
    rows, columns = (side // size for side in image.shape[:2])
    return np.concatenate([
        _grid(image, size, rows, columns),
        _grid(image[size // 2:, size // 2:], size, max(0, rows - 1), max(0, columns - 1))])


def _grid(image, size, rows, columns):
    grid = image[:rows * size, :columns * size].reshape(rows, size, columns, size, 3)
    return grid.swapaxes(1, 2).reshape(-1, size, size, 3)


def fid(a: np.ndarray, b: np.ndarray) -> float:
    """The Fréchet distance of two Gaussians that have the means and covariances of two sets.

    |mean difference|^2 + Tr(A + B - 2 (A B)^(1/2)), with unbiased covariances A and B of any rank.
    No root of a matrix is taken. With A = X'X and B = Y'Y, the eigenvalues of A B are the squared
    singular values of X Y' (and zeros), so the sum of these is the trace of the root; X and Y are
    the triangles of QR decompositions of the centred sets.

    Args:
      a, b: [N, D] and [M, D], the features; N and M are 2 or more.

    Returns:
      0 or more, up to rounding.
    """
    (mean_a, root_a), (mean_b, root_b) = map(_moments, (a, b))
    return float(np.sum((mean_a - mean_b)**2) + np.sum(root_a**2) + np.sum(root_b**2)
                 - 2 * np.linalg.norm(root_a @ root_b.T, "nuc"))


def _moments(features):
    """The mean [D] and an R [min(N, D), D] with R'R = covariance."""
    features = features.astype(np.float64)
    mean = np.mean(features, axis=0)
    return mean, np.linalg.qr((features - mean) / math.sqrt(len(features) - 1), mode="r")


def kid(a: np.ndarray, b: np.ndarray, images: np.ndarray) -> tuple[float, float]:
    """The squared maximum mean discrepancy under the kernel (x.y / D + 1)^3, without bias.

    Bińkowski et al. average over random subsets of 1,000 rows. This is the mean over all pairs, to
    which that average tends, except that pairs within one image are left out, as Gretton et al.
    2012 (JMLR 13, Lemma 6) leave out the pair (x_i, y_i). Else the likeness of patches to their own
    reconstructions would count as likeness of the sets. KID would be too low by up to
    2 / N (E k(x, x) - E k(x, x')): 0.0037 on Kodak, where JPEG of quality 95 would have -0.0020
    instead of 0.0016, and about 2.5e-5 with the 28,650 patches of CLIC 2020.

    The error is that of the choice of images, by the jackknife over images. Patches of one image
    depend on each other: on Kodak, a jackknife over patches gives half as much.

    Args:
      a, b: [N, D], the features of patches and of the same patches after coding.
      images: [N], which image each patch is from.

    Returns:
      KID, which may be below 0 where the sets are alike, and its standard error; NaN for fewer than
      three images.
    """
    features = np.concatenate([a, b]).astype(np.float64)
    signs = np.repeat([1.0, -1.0], len(a))
    names, sizes = np.unique(images, return_counts=True)
    if len(names) < MIN_IMAGES:
        return math.nan, math.nan
    pairs = sizes * (len(a) - sizes)
    sums = np.zeros(len(names))
    for i, name in enumerate(names):
        own = np.tile(images == name, 2)
        kernel = (features[own] @ features.T / features.shape[1] + 1)**3
        sums[i] = signs[own] @ kernel @ np.where(own, 0, signs)
    # Without an image, pairs are gone from its sum and, each once, from those of the others.
    without = (np.sum(sums) - 2 * sums) / (np.sum(pairs) - 2 * pairs)
    error = math.sqrt(len(names) - 1) * np.std(without)
    return float(np.sum(sums) / np.sum(pairs)), float(error)


class Comparison:
    """Gathers the features of patches, image by image.

    Args:
      features: maps patches, uint8 [N, 256, 256, 3], to [N, D]; an `inception.Inception`.
    """

    def __init__(self, features: Callable[[np.ndarray], np.ndarray]):
        self._features = features
        self._originals, self._decoded = [], []

    def add(self, original: np.ndarray, decoded: np.ndarray) -> None:
        """Takes one image, uint8 [H, W, 3], and what it is decoded to.

        Images with a side below 256 have no patches, and count for nothing.
        """
        if min(original.shape[:2]) >= PATCH_SIZE:
            self._originals.append(self._features(patches(original)))
            self._decoded.append(self._features(patches(decoded)))

    def scores(self) -> dict[str, float]:
        """fid, kid, kid_error of all images so far, and the number of patches of each set.

        NaN are all three for fewer than two patches, and those of KID for fewer than three images.
        """
        counts = [len(features) for features in self._originals]
        if sum(counts) < 2:
            return {"fid": math.nan, "kid": math.nan, "kid_error": math.nan,
                    "patches": sum(counts)}
        a, b = np.concatenate(self._originals), np.concatenate(self._decoded)
        mean, error = kid(a, b, np.repeat(np.arange(len(counts)), counts))
        return {"fid": fid(a, b), "kid": mean, "kid_error": error, "patches": len(a)}
