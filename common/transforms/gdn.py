"""Generalised divisive normalisation, in few passes over memory."""

import tensorflow as tf
import tensorflow_compression as tfc


class GDN(tfc.GDN):
    """y_i = x_i / n_i with n_i = beta_i + sum_j gamma_ij |x_j|; the inverse is y_i = x_i n_i.

    The simplified form of Johnston et al. 2019 (Ballé et al. 2016 have squares and a root), which
    is also the default of tensorflow-compression. Weights, and what they are made of, are in
    float32; x, n and y are in the layer's precision, with sums in float32.

    Feature maps are large here, and what takes the time besides the product with gamma is to read
    and write them: see `_normalize`.

    Args:
      inverse: multiply instead.
    """

    def __init__(self, inverse: bool = False):
        super().__init__(inverse)

    def call(self, x):
        gamma, beta = (tf.cast(parameter(), x.dtype)
                       for parameter in (self.gamma_parameter, self.beta_parameter))
        return _normalize(x, tf.reshape(gamma, [1, 1, *gamma.shape]), beta, self.inverse)


def _normalize(x, gamma, beta, inverse):
    """x / n or x n, for gamma [1, 1, C, C].

    With g the gradient of y, those of n and x are, and each is one pass when XLA fuses it,

        y = x / n:   dn = -g y / n     dx = g / n + da sign(x)
        y = x n:     dn = g x          dx = g n + da sign(x)

    where da = gamma dn is that of |x|. Differentiated one by one, they are ten passes.
    """

    @tf.custom_gradient
    def normalize(x, gamma, beta):
        magnitude = tf.abs(x)
        n = tf.nn.bias_add(tf.nn.conv2d(magnitude, gamma, 1, "VALID"), beta)
        y = x * n if inverse else x / n

        def gradient(g):
            dn = _times(g, x) if inverse else _of_quotient(g, y, n)
            conv = dict(out_backprop=dn, strides=[1, 1, 1, 1], padding="VALID")
            da = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(x), filter=gamma, **conv)
            dgamma = tf.raw_ops.Conv2DBackpropFilter(
                input=magnitude, filter_sizes=gamma.shape, **conv)
            dx = (_of_factor if inverse else _of_dividend)(g, n, da, x)
            return dx, dgamma, tf.raw_ops.BiasAddGrad(out_backprop=dn)

        return y, gradient

    return normalize(x, gamma, beta)


# Elementwise, and nothing else: XLA's own sums and convolutions are slow on CPUs.


@tf.function(jit_compile=True, autograph=False)
def _times(g, x):
    return g * x


@tf.function(jit_compile=True, autograph=False)
def _of_quotient(g, y, n):
    return -g * y / n


@tf.function(jit_compile=True, autograph=False)
def _of_dividend(g, n, da, x):
    return g / n + da * tf.sign(x)


@tf.function(jit_compile=True, autograph=False)
def _of_factor(g, n, da, x):
    return g * n + da * tf.sign(x)
