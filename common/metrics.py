"""Metrics of images: of what a file decodes to, of batches in training, and the networks of some.

LPIPS is computed in lpips.py, MS-SSIM with gradients in ms_ssim.py; FID and KID, which are of whole
data sets, in fid.py.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from common import arguments, data
from common.inception import Inception
from common.lpips import MIN_SIDE as LPIPS_MIN_SIDE
from common.lpips import Lpips
from common.ms_ssim import MIN_SIDE as MS_SSIM_MIN_SIDE
from common.ms_ssim import ms_ssim as batch_ms_ssim

# --- Of two 8-bit images ------------------------------------------------------------------------


# Of images that are compared at a time: differences of whole ones would take 48 bytes a pixel.
_ROWS = 256


def mse(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared error of two uint8 images of one shape, on the 0..255 scale."""
    return _mse(a, b, lambda rows: rows.astype(np.float64))


def _mse(a, b, of):
    """The mean squared error of what a function makes of rows of two images."""
    total, count = 0.0, 0
    for row in range(0, len(a), _ROWS):
        errors = of(a[row:row + _ROWS]) - of(b[row:row + _ROWS])
        total, count = total + float(np.sum(np.square(errors))), count + errors.size
    return total / count


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 RGB images [H, W, 3], in dB; inf when equal."""
    return _decibels(mse(a, b))


def _decibels(error):
    return 10 * math.log10(255**2 / error) if error else math.inf


def luma(image: np.ndarray) -> np.ndarray:
    """BT.601 luma of a uint8 RGB image, as JPEG's: float64 [H, W] in 0..255, not rounded."""
    return image.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


def psnr_y(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR of the luma of two uint8 RGB images [H, W, 3], in dB."""
    return _decibels(_mse(a, b, luma))


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """MS-SSIM (Wang et al. 2003) of two uint8 RGB images; NaN for sides below 161 pixels."""
    if min(a.shape[:2]) < MS_SSIM_MIN_SIDE:
        return math.nan
    return float(batch_ms_ssim(*(data.to_float(image[None]) for image in (a, b)))[0])


def lpips(a: np.ndarray, b: np.ndarray, network: Lpips) -> float:
    """LPIPS (Zhang et al. 2018) of two uint8 RGB images; NaN for sides below 31 pixels."""
    if min(a.shape[:2]) < LPIPS_MIN_SIDE:
        return math.nan
    return float(network(*(data.to_float(image[None]) for image in (a, b)))[0])


# What every table and file of results has. One more metric of two images is one more entry.
METRICS = {"psnr": psnr, "psnr_y": psnr_y, "mse": mse, "ms_ssim": ms_ssim}


def all_metrics(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Every distortion of uint8 image `b` against `a` [H, W, 3], by name."""
    return {name: metric(a, b) for name, metric in METRICS.items()}


class Judges(NamedTuple):
    """The networks that judge images, as far as they are asked to.

    Attributes:
      lpips: for LPIPS of every image.
      inception: for FID and KID of the patches of all images.
    """

    lpips: Lpips | None = None
    inception: Inception | None = None

    @property
    def scores(self) -> list[str]:
        """The names of their results, which are added to a model's means."""
        return ["lpips"] * bool(self.lpips) + ["fid", "kid", "kid_error"] * bool(self.inception)

    def of_pair(self, a: np.ndarray, b: np.ndarray) -> dict[str, float]:
        """Scores by name of uint8 image `b` against `a` [H, W, 3]."""
        return {"lpips": lpips(a, b, self.lpips)} if self.lpips else {}


# --- Of batches in training ---------------------------------------------------------------------


def batch_mse(x: tf.Tensor, x_hat: tf.Tensor) -> tf.Tensor:
    """MSE on the 0..255 scale, float32 [B], of images float32 [B, H, W, 3] in [0, 1]."""
    return tf.reduce_mean(tf.square(x_hat - x), axis=(1, 2, 3)) * 255.0**2


def batch_psnr(mse: tf.Tensor) -> tf.Tensor:
    """PSNR in dB of what `batch_mse` returns; where it is 0, 168 dB."""
    return 10 / math.log(10) * tf.math.log(255.0**2 / tf.maximum(mse, 1e-12))


class Distortion(NamedTuple):
    """A distortion to train for.

    Attributes:
      title: its name in messages.
      measure: the metric, float32 [B], of images float32 [B, H, W, 3] in [0, 1].
      loss: what is minimised, from the metric.
      min_side: the shortest side, in pixels, that it can measure.
    """

    title: str
    measure: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    loss: Callable[[tf.Tensor], tf.Tensor] = lambda value: value
    min_side: int = 1


# One more that models train for is one more entry.
DISTORTIONS = {
    "mse": Distortion("MSE", batch_mse),
    "ms_ssim": Distortion(
        "MS-SSIM", batch_ms_ssim, lambda similarity: 1 - similarity, MS_SSIM_MIN_SIDE),
}


def distortion(name: str) -> Distortion:
    """The distortion of a name. Raises UserError if there is none."""
    if name not in DISTORTIONS:
        raise arguments.unknown("distortion", name, DISTORTIONS)
    return DISTORTIONS[name]
