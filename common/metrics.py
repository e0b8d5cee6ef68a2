"""Distortion of images, measured on the 8-bit images that files hold."""

import math

import numpy as np
import tensorflow as tf

from common.lpips import MIN_SIDE as LPIPS_MIN_SIDE
from common.lpips import Lpips

# Five scales of an 11-pixel window: below this, tf.image.ssim_multiscale fails.
MS_SSIM_MIN_SIDE = 161


def mse(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared error of two uint8 images of one shape, on the 0..255 scale."""
    return float(np.mean(np.square(a.astype(np.float64) - b.astype(np.float64))))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 RGB images [H, W, 3], in dB; inf when equal."""
    error = mse(a, b)
    return 10 * math.log10(255**2 / error) if error else math.inf


def luma(image: np.ndarray) -> np.ndarray:
    """BT.601 luma of a uint8 RGB image, as JPEG's: float64 [H, W] in 0..255, not rounded."""
    return image.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


def psnr_y(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR of the luma of two uint8 RGB images [H, W, 3], in dB."""
    return psnr(luma(a), luma(b))


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """MS-SSIM (Wang et al. 2003) of two uint8 RGB images; NaN for sides below 161 pixels."""
    if min(a.shape[:2]) < MS_SSIM_MIN_SIDE:
        return math.nan
    return float(tf.image.ssim_multiscale(a[None], b[None], 255)[0])


def lpips(a: np.ndarray, b: np.ndarray, network: Lpips) -> float:
    """LPIPS (Zhang et al. 2018) of two uint8 RGB images; NaN for sides below 31 pixels."""
    if min(a.shape[:2]) < LPIPS_MIN_SIDE:
        return math.nan
    return float(network(*(tf.cast(image[None], tf.float32) / 255 for image in (a, b)))[0])


# What every table and file of results has. One more metric of two images is one more entry.
METRICS = {"psnr": psnr, "psnr_y": psnr_y, "mse": mse, "ms_ssim": ms_ssim}


def all_metrics(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Every distortion of uint8 image `b` against `a` [H, W, 3], by name."""
    return {name: metric(a, b) for name, metric in METRICS.items()}
