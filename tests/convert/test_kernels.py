"""Weights of other code bases, against the layers and the library that have them."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_compression as tfc
from scipy import fftpack

from common.errors import UserError
from common.transforms import layers
from convert import kernels
from convert.files import Array


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assigned(layer, x, kernel):
    """What a layer makes of x with a kernel."""
    layer.build(x.shape)
    variable, = (weight for weight in layer.weights if weight.shape.rank == 4)
    variable.assign(kernel)
    return layer(x).numpy()


def torch_conv(x, weight, stride):
    """Conv2d of PyTorch with padding k // 2, from its definition; x is [rows, columns, inputs]."""
    outputs, _, k, _ = weight.shape
    padded = np.pad(x, [(k // 2, k // 2), (k // 2, k // 2), (0, 0)])
    rows, columns = (-(-n // stride) for n in x.shape[:2])
    y = np.zeros((rows, columns, outputs))
    for i, j in np.ndindex(rows, columns):
        part = padded[i * stride:i * stride + k, j * stride:j * stride + k]
        y[i, j] = np.einsum("abi,oiab->o", part, weight)
    return y


def torch_conv_transpose(x, weight, stride):
    """ConvTranspose2d with padding k // 2 and stride times as many outputs as inputs."""
    _, outputs, k, _ = weight.shape
    rows, columns, _ = x.shape
    whole = np.zeros(((rows + k) * stride, (columns + k) * stride, outputs))
    for i, j in np.ndindex(rows, columns):
        whole[i * stride:i * stride + k, j * stride:j * stride + k] += np.einsum(
            "i,ioab->abo", x[i, j], weight)
    return whole[k // 2:k // 2 + rows * stride, k // 2:k // 2 + columns * stride]


def close(a, b):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size, stride", [(5, 2), (3, 2), (3, 1), (1, 1)])
def test_conv(size, stride):
    x, weight = random(7, 10, 3), random(4, 3, size, size, seed=1)
    kernel = kernels.conv(Array(weight.shape, lambda: weight))
    close(assigned(layers.conv(4, size, stride), x[None], kernel)[0],
          torch_conv(x, weight, stride))


def test_conv_as_a_transposed_one():
    x, weight = random(7, 10, 3), random(4, 3, 3, 3, seed=1)
    kernel = kernels.conv(weight, flip=True)
    close(assigned(layers.deconv(4, 3), x[None], kernel)[0], torch_conv(x, weight, 1))


@pytest.mark.parametrize("size, stride", [(5, 2), (3, 2), (3, 1)])
def test_conv_transpose(size, stride):
    x, weight = random(4, 6, 3), random(3, 2, size, size, seed=1)
    close(assigned(layers.deconv(2, size, stride), x[None], kernels.conv_transpose(weight))[0],
          torch_conv_transpose(x, weight, stride))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_rdft(size):
    kernel = random(size, size, 3, 4)
    parameter = tfc.RDFTParameter(kernel)
    real, imag = parameter.real.numpy(), parameter.imag.numpy()
    close(kernels.rdft(real, imag), parameter().numpy())
    close(kernels.rdft(Array(real.shape, lambda: real), Array(imag.shape, lambda: imag)), kernel)
    close(kernels.rdft(2 * real, 2 * imag), 2 * kernel)


def test_a_spectrum_of_no_square_kernel():
    with pytest.raises(UserError, match="of a square kernel"):
        kernels.rdft(np.zeros((1, 1, 3, 3)), np.zeros((1, 1, 3, 3)))
    with pytest.raises(UserError, match="of a square kernel"):
        kernels.kernel_rdft(np.zeros((24, 6)), 2)
    with pytest.raises(UserError, match="of 4 inputs"):
        kernels.kernel_rdft(np.zeros((25, 6)), 4)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_kernel_rdft(size):
    """Against FFTPACK's transform, whose order and signs the library took."""
    kernel = random(size, size, 3, 4)
    spectrum = kernel.astype(np.float64)
    for axis in (0, 1):
        spectrum = fftpack.rfft(spectrum, axis=axis)
        scale = np.full(size, np.sqrt(2 / size))
        scale[0] = 1 / np.sqrt(size)
        if size % 2 == 0:
            scale[-1] = 1 / np.sqrt(size)
        spectrum *= np.moveaxis(scale[:, None, None, None], 0, axis)
    found = kernels.kernel_rdft(spectrum.reshape(size * size, 12).astype(np.float32), 3)
    close(found, kernel)


def test_pixel_shuffle():
    weight, x = random(12, 2, 1, 1), random(4, 5, 2)
    order = kernels.pixel_shuffle(3)
    flat = np.einsum("rci,oi->rco", x, weight[:, :, 0, 0])
    # [rows, columns, channels, r, r] as PyTorch has it
    shuffled = flat.reshape(4, 5, 3, 2, 2).transpose(0, 3, 1, 4, 2).reshape(8, 10, 3)
    y = np.einsum("rci,io->rco", x, kernels.conv(weight)[0, 0][:, order])
    close(tf.nn.depth_to_space(y[None], 2).numpy()[0], shuffled)


def test_gdn():
    """CompressAI's normalisation: a 1x1 convolution with gamma as its weight."""
    raw_beta, raw_gamma = abs(random(4)) + 0.1, random(4, 4, seed=1)
    x = random(1, 3, 5, 4, seed=2)
    gdn = layers.GDN()
    gdn.build(x.shape)
    beta, gamma = kernels.gdn(raw_beta, raw_gamma)
    gdn.beta_parameter.variable.assign(beta)
    gdn.gamma_parameter.variable.assign(gamma)
    weight = np.maximum(raw_gamma, 2**-18)**2 - 2**-36
    norm = raw_beta**2 - 2**-36 + np.einsum("brci,oi->brco", abs(x), weight)
    close(gdn(x).numpy(), x / norm)


def test_offset():
    np.testing.assert_allclose(kernels.offset(np.float32([[0.25, -3.125, 7, 1.75]])),
                               [[0.25, -0.125, 0, -0.25]])
