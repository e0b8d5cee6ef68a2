"""Generalised divisive normalisation, in few passes over memory."""

import functools

import tensorflow as tf
import tensorflow_compression as tfc

from common.transforms.contract import Pointwise


class GDN(Pointwise, tfc.GDN):
    """y_i = x_i / n_i with n_i = beta_i + sum_j gamma_ij |x_j|; the inverse is y_i = x_i n_i.

    The simplified form of Johnston et al. 2019, which is also the default of
    tensorflow-compression. With `square` it is that of Ballé et al. 2016, whose norms are
    n_i = sqrt(beta_i + sum_j gamma_ij x_j^2). Weights, and what they are made of, are in float32;
    x, n and y are in the layer's precision, with sums in float32.

    Feature maps are large here, and what takes the time besides the product with gamma is to read
    and write them: see `_normalize`.

    Args:
      inverse: multiply instead.
      square: the form with squares and a root. The weights are the same.
    """

    def __init__(self, inverse: bool = False, square: bool = False):
        exponents = dict(alpha_parameter=2, epsilon_parameter=0.5) if square else {}
        super().__init__(inverse, **exponents)
        self.square = square

    def call(self, x: tf.Tensor) -> tf.Tensor:
        gamma, beta = (tf.cast(parameter(), x.dtype)
                       for parameter in (self.gamma_parameter, self.beta_parameter))
        gamma = tf.reshape(gamma, [1, 1, *gamma.shape])
        return _normalize(x, gamma, beta, self.inverse, self.square)


def _normalize(x, gamma, beta, inverse, square):
    """x / n or x n, for gamma [1, 1, C, C].

    With m = beta + gamma |x| and n = m, or with m = beta + gamma x^2 and n = sqrt(m), and g the
    gradient of y, those of n and x are, and each is one pass when XLA fuses it,

        y = x / n:   dn = -g y / n     dx = g / n + dx'      n = m:         dm = dn
        y = x n:     dn = g x          dx = g n + dx'        n = sqrt(m):   dm = dn / (2 n)

    where dx' = da sign(x) with da = gamma dm the gradient of |x|, or da 2 x with that of x^2.
    Differentiated one by one, they are ten passes.
    """
    of_sum, of_input = _gradients(inverse, square)

    @tf.custom_gradient
    def normalize(x, gamma, beta):
        magnitude = tf.square(x) if square else tf.abs(x)
        n = tf.nn.bias_add(tf.nn.conv2d(magnitude, gamma, 1, "VALID"), beta)
        n = tf.sqrt(n) if square else n
        y = x * n if inverse else x / n

        def gradient(g):
            dm = of_sum(g, x if inverse else y, n)
            conv = dict(out_backprop=dm, strides=[1, 1, 1, 1], padding="VALID")
            da = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(x), filter=gamma, **conv)
            dgamma = tf.raw_ops.Conv2DBackpropFilter(
                input=magnitude, filter_sizes=gamma.shape, **conv)
            return of_input(g, n, da, x), dgamma, tf.raw_ops.BiasAddGrad(out_backprop=dm)

        return y, gradient

    return normalize(x, gamma, beta)


@functools.cache
def _gradients(inverse, square):
    """dm of g, n and x or y, and dx of g, n, da and x, as functions for XLA.

    Elementwise, and nothing else: XLA's own sums and convolutions are slow on CPUs.
    """

    @tf.function(jit_compile=True, autograph=False)
    def of_sum(g, x_or_y, n):
        dn = g * x_or_y if inverse else -g * x_or_y / n
        return dn / (2 * n) if square else dn

    @tf.function(jit_compile=True, autograph=False)
    def of_input(g, n, da, x):
        return (g * n if inverse else g / n) + da * (2 * x if square else tf.sign(x))

    return of_sum, of_input
