"""Weights as other code bases have them, made into those of the layers here.

Kernels here are [rows, columns, inputs, outputs], those of `layers.deconv` too. It adds each input,
times the kernel, to the outputs; at stride 1 that is a convolution with the kernel flipped.
Kernels of Keras's own Conv2D and Conv2DTranspose are taken as they are, and so are matrices, biases
and factors of densities (Balle et al. 2018), which are the same everywhere.

Arguments are NumPy arrays or `files.Array`.
"""

import math

import numpy as np

from common.errors import UserError
from convert.files import Array


def conv(weight: np.ndarray | Array, flip: bool = False) -> np.ndarray:
    """The kernel of PyTorch's Conv2d, whose weight is [outputs, inputs, rows, columns].

    Args:
      weight: the weight.
      flip: for `layers.deconv` of stride 1, and not a convolution.
    """
    kernel = np.transpose(weight, (2, 3, 1, 0))
    return kernel[::-1, ::-1] if flip else kernel


def conv_transpose(weight: np.ndarray | Array) -> np.ndarray:
    """The kernel of PyTorch's ConvTranspose2d, whose weight is [inputs, outputs, rows, columns]."""
    return np.transpose(weight, (2, 3, 0, 1))


def rdft(real: np.ndarray | Array, imag: np.ndarray | Array) -> np.ndarray:
    """A square kernel from its Fourier transform, as tensorflow-compression has it since 2.2.

    Args:
      real: real part, [inputs, outputs, size, size // 2 + 1].
      imag: imaginary part.

    Raises:
      UserError: of no square kernel.
    """
    size = np.shape(real)[-2]
    if np.shape(real) != np.shape(imag) or np.shape(real)[2:] != (size, size // 2 + 1):
        raise UserError(f"need the Fourier transform of a square kernel, not {np.shape(real)} and "
                        f"{np.shape(imag)}")
    spectrum = np.asarray(real) + 1j * np.asarray(imag)
    kernel = np.fft.irfft2(spectrum, (size, size), axes=(2, 3), norm="ortho")
    return kernel.transpose(2, 3, 0, 1).astype(np.float32)


def kernel_rdft(coefficients: np.ndarray | Array, inputs: int) -> np.ndarray:
    """A square kernel from `kernel_rdft` of tensorflow-compression 1, and `rdft` of 2.0 and 2.1.

    Args:
      coefficients: of cosines and sines, [rows * columns, inputs * outputs].
      inputs: number of input channels.

    Raises:
      UserError: of no square kernel, or not of so many channels.
    """
    taps, channels = np.shape(coefficients)
    size = math.isqrt(taps)
    if size * size != taps or channels % inputs:
        raise UserError(f"need the Fourier transform of a square kernel of {inputs} inputs, not "
                        f"{[taps, channels]}")
    basis = _real_fourier_basis(size)
    kernel = np.kron(basis, basis) @ np.asarray(coefficients)
    return kernel.reshape(size, size, inputs, -1).astype(np.float32)


def _real_fourier_basis(size):
    """Orthonormal columns: a constant, cosine and -sine of each frequency, [size, size]."""
    spectrum = np.fft.rfft(np.eye(size), norm="ortho") * np.sqrt(2)
    spectrum[:, 0] /= np.sqrt(2)
    if size % 2 == 0:  # the highest frequency has a cosine only
        spectrum[:, -1] /= np.sqrt(2)
    columns = np.stack([spectrum.real, spectrum.imag], -1).reshape(size, -1)
    return np.delete(columns, 1, axis=1)[:, :size]


def pixel_shuffle(channels: int, factor: int = 2) -> np.ndarray:
    """The order in which to take a convolution's outputs, where PyTorch's PixelShuffle follows.

    That takes them as [channels, factor, factor], depth_to_space as [factor, factor, channels].

    Args:
      channels: of the larger image.
      factor: how much larger that is.

    Returns:
      Indices for kernel[..., indices] and bias[indices].
    """
    indices = np.arange(channels * factor**2).reshape(channels, factor, factor)
    return indices.transpose(1, 2, 0).ravel()


def gdn(beta: np.ndarray | Array, gamma: np.ndarray | Array) -> tuple[np.ndarray, np.ndarray]:
    """GDN's variables in CompressAI, whose gamma is [outputs, inputs], as those of `layers.GDN`.

    Those of all versions of tensorflow-compression are the same as here. All are stored before the
    same reparametrisation: gamma is max(variable, 2^-18)^2 - 2^-36.
    """
    return np.asarray(beta), np.transpose(gamma)


def offset(medians: np.ndarray | Array) -> np.ndarray:
    """The offset of a density that codes around its medians: what rounding leaves of them."""
    return np.asarray(medians) - np.round(medians)
