"""Non-local attention (Wang et al. 2018, Liu et al. 2019) and dual paths (Chen et al. 2017).

    non_local   x + 1x1(attention of each position to the others of its window)
    nlam        x + trunk(x) * sigmoid(mask(x)), the mask with non-local attention
    DualPath    [x_r + f_r(x), x_d, f_d(x)]: a residual path, and one that grows

In the papers attention is global: its memory grows with the square of the image, and what it
learns on crops it never sees on whole images. Here positions attend within windows, so that memory
is linear and training and use are alike.
"""

from fractions import Fraction

import tensorflow as tf

from common.reach import Reach, beside, taps
from common.transforms.composites import Gated, Padded, Residual, Stack
from common.transforms.contract import Layer, reach
from common.transforms.layers import conv, subpixel
from common.transforms.mbconv import mbconv


class WindowAttention(Layer):
    """softmax(theta phi^T) g within windows, the embedded Gaussian of Wang et al. 2018.

    [B, h, w, C] -> [B, h, w, channels], with h and w multiples of the window. phi and g are
    max-pooled over pairs of positions, as in the paper's section 3.3.

    Args:
      channels: of theta, phi and g, and of the output.
      window: positions a side, an even number.

    Raises:
      ValueError: the window is not an even number.
    """

    def __init__(self, channels: int, window: int):
        super().__init__()
        if window < 2 or window % 2:
            raise ValueError(f"window is {window}; need an even number")
        self.window = window
        self._theta, self._phi, self._g = (
            conv(channels, 1, use_bias=False, kernel_initializer="he_normal") for _ in range(3))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        theta, phi, g = (self._windows(f(x)) for f in (self._theta, self._phi, self._g))
        phi, g = (tf.nn.max_pool1d(value, 2, 2, "VALID") for value in (phi, g))
        # In float32, as large logits differ by little of themselves.
        logits = tf.matmul(tf.cast(theta, tf.float32), tf.cast(phi, tf.float32), transpose_b=True)
        y = tf.matmul(tf.cast(tf.nn.softmax(logits), g.dtype), g)
        return self._image(y, tf.shape(x))

    def reach(self) -> Reach:
        margin = Fraction(self.window - 1)
        return Reach(margin, margin, grid=self.window)

    def _windows(self, x):
        """[B, h, w, C] -> [windows, window^2, C]."""
        n, shape = self.window, tf.shape(x)
        x = tf.reshape(x, [shape[0], shape[1] // n, n, shape[2] // n, n, x.shape[-1]])
        return tf.reshape(tf.transpose(x, [0, 1, 3, 2, 4, 5]), [-1, n * n, x.shape[-1]])

    def _image(self, x, shape):
        n, channels = self.window, x.shape[-1]
        x = tf.reshape(x, [shape[0], shape[1] // n, shape[2] // n, n, n, channels])
        return tf.reshape(tf.transpose(x, [0, 1, 3, 2, 4, 5]),
                          [shape[0], shape[1], shape[2], channels])


def non_local(channels: int, window: int = 16) -> tf.keras.layers.Layer:
    """Attention among the positions of each window, with half the channels inside.

    Keeps the shape [B, h, w, channels], of any size.
    """
    return Padded(window, [Residual([
        WindowAttention(channels // 2, window),
        conv(channels, 1, kernel_initializer="he_normal")])])


def nlam(channels: int, window: int = 16) -> tf.keras.layers.Layer:
    """Non-local attention module (Liu et al. 2019, figure 3) with MBConv blocks (advDNIC).

    Keeps the shape [B, h, w, channels], of any size.
    """
    def halved_and_back():
        return [mbconv(channels, channels, stride=2), mbconv(channels, channels),
                mbconv(channels, channels, spatial=Stack([
                    subpixel(channels, activation="leaky_relu"), Blur()]))]

    mask = [non_local(channels, window), mbconv(channels, channels),
            Residual(halved_and_back()),
            mbconv(channels, channels), conv(channels, 1, activation="sigmoid", use_bias=False)]
    # At half the size and back, odd sizes would end one larger.
    return Padded(2, [Residual([Gated(halved_and_back(), mask)])])


class Blur(Layer):
    """Mean of each position and those above and to the left, against a sub-pixel pattern."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        padded = tf.pad(x, [[0, 0], [1, 0], [1, 0], [0, 0]], "SYMMETRIC")
        return tf.nn.avg_pool2d(padded, 2, 1, "VALID")

    def reach(self) -> Reach:
        return taps(-1, 0)


class GroupedConv(Layer):
    """3x3 convolution within groups of channels, as sums of depthwise ones.

    TensorFlow has no gradient of grouped convolutions on CPUs.

    Args:
      groups: number of groups.
      size: channels of a group, of the input and of the output.
    """

    def __init__(self, groups: int, size: int):
        super().__init__()
        self._groups, self._size = groups, size
        self._depthwise = tf.keras.layers.DepthwiseConv2D(
            3, padding="same", depth_multiplier=size, use_bias=False,
            depthwise_initializer="he_normal")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        y = self._depthwise(x)
        shape = tf.shape(y)
        # Each input of a group has `size` outputs.
        y = tf.reshape(y, [shape[0], shape[1], shape[2], self._groups, self._size, self._size])
        return tf.reshape(tf.reduce_sum(y, axis=-2),
                          [shape[0], shape[1], shape[2], self._groups * self._size])

    def reach(self) -> Reach:
        return taps(-1, 1)


class DualPath(Layer):
    """A block of a dual path network (Chen et al. 2017): [x_r + f_r(x), x_d, f_d(x)].

    x is projected to a residual path of `channels` and a dense one of `increment`; f(x) adds to
    the first and lengthens the second. (In advDNIC each convolution is two with Mish between.)

    Args:
      channels: of the residual path.
      increment: by which the dense path grows.
      activation: between the convolutions.
    """

    _GROUPS, _GROUP_SIZE = 32, 3  # 96 channels inside

    def __init__(self, channels: int, increment: int = 64, activation: str = "mish"):
        super().__init__()
        self._channels = channels
        inside, both = self._GROUPS * self._GROUP_SIZE, channels + increment
        self._project = conv(both, 1, activation=activation)
        self._body = Stack([
            conv(inside, 1, activation=activation),
            GroupedConv(self._GROUPS, self._GROUP_SIZE),
            tf.keras.layers.Activation(activation),
            conv(both, 1)])

    def call(self, x: tf.Tensor) -> tf.Tensor:
        x, y = self._project(x), self._body(x)
        x_residual, x_dense = tf.split(x, [self._channels, -1], axis=-1)
        y_residual, y_dense = tf.split(y, [self._channels, -1], axis=-1)
        return tf.concat([x_residual + y_residual, x_dense, y_dense], axis=-1)

    def reach(self) -> Reach:
        return beside(map(reach, (self._project, self._body)))
