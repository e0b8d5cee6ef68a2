"""Layers of other code bases by their formulas, in NumPy: images are [channels, rows, columns]."""

import math

import numpy as np


def conv(x, weight, bias=None, stride=1, padding=None):
    """PyTorch's Conv2d: weight [outputs, inputs, k, k], zeros beyond the border.

    Args:
      padding: NumPy pairs for rows and columns; by default k // 2 on all sides. Reflected, x comes
        padded and this is ((0, 0), (0, 0)).
    """
    k = weight.shape[-1]
    x = np.pad(x, ((0, 0), *(padding or ((k // 2, k // 2),) * 2)))
    rows, columns = ((size - k) // stride + 1 for size in x.shape[1:])
    y = sum(np.einsum("oi,ihw->ohw", weight[:, :, a, b],
                      x[:, a:a + stride * rows:stride, b:b + stride * columns:stride])
            for a in range(k) for b in range(k))
    return y if bias is None else y + bias[:, None, None]


def deconv(x, weight, bias=None, stride=2):
    """PyTorch's ConvTranspose2d: weight [inputs, outputs, k, k], padding k // 2, sides x stride."""
    k, (rows, columns) = weight.shape[-1], x.shape[1:]
    y = np.zeros((weight.shape[1], stride * rows + k, stride * columns + k))
    for a in range(k):
        for b in range(k):
            y[:, a:a + stride * rows:stride, b:b + stride * columns:stride] += np.einsum(
                "io,ihw->ohw", weight[:, :, a, b], x)
    y = y[:, k // 2:k // 2 + stride * rows, k // 2:k // 2 + stride * columns]
    return y if bias is None else y + bias[:, None, None]


def gdn(x, beta, gamma, inverse=False, square=True):
    """GDN by what is stored of it, gamma as [outputs, inputs]."""
    beta = np.maximum(beta, math.sqrt(1e-6 + 2**-36))**2 - 2**-36
    gamma = np.maximum(gamma, 2**-18)**2 - 2**-36
    norm = np.einsum("oi,ihw->ohw", gamma, x**2 if square else np.abs(x)) + beta[:, None, None]
    norm = np.sqrt(norm) if square else norm
    return x * norm if inverse else x / norm


def leaky_relu(x, slope=0.01):
    """max(x, slope * x)."""
    return np.maximum(x, slope * x)


def relu(x):
    """max(x, 0)."""
    return np.maximum(x, 0)


def pixel_shuffle(x, factor=2):
    """PyTorch's PixelShuffle: [C factor^2, h, w] -> [C, factor h, factor w]."""
    channels, rows, columns = x.shape
    x = x.reshape(channels // factor**2, factor, factor, rows, columns)
    return x.transpose(0, 3, 1, 4, 2).reshape(-1, rows * factor, columns * factor)


def sigmoid(x):
    """The logistic function."""
    return 1 / (1 + np.exp(-x))


def density_bits(x, matrices, biases, factors):
    """-log2 of the probability of x [C, ...] by a learned density convolved with U(-1/2, 1/2)."""
    def logits(x):
        x = x.reshape(len(x), 1, -1)
        for i, (matrix, bias) in enumerate(zip(matrices, biases)):
            x = np.log1p(np.exp(matrix)) @ x + bias
            if i < len(factors):
                x = x + np.tanh(factors[i]) * np.tanh(x)
        return x

    lower, upper = logits(x - 0.5), logits(x + 0.5)
    sign = -np.sign(lower + upper)
    return -np.log2(np.abs(sigmoid(sign * upper) - sigmoid(sign * lower))).reshape(x.shape)


@np.vectorize
def _normal_cdf(x):
    return 0.5 * math.erfc(-x / math.sqrt(2))


def normal_bits(x, scale):
    """-log2 of the probability of x by N(0, scale^2) convolved with U(-1/2, 1/2)."""
    x = np.abs(x)
    return -np.log2(_normal_cdf((0.5 - x) / scale) - _normal_cdf((-0.5 - x) / scale))
