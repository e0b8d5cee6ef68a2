"""The discrete cosine transform of blocks: a linear path beside the layers of a transform.

    y    = layers(x)  +  s C x             C: blocks of 16 x 16 pixels -> their first coefficients,
    x̂    = layers(ŷ)  +  C^T ŷ / s            orthonormal rows, of all three colours

With the last of the layers zero at first, training starts as the transform coding of JPEG with a
learned entropy model, and the layers learn what is better. The path has no weights and next to no
cost. Without it, nearly half of the channels of y died in a training for a range of rates: those
that do not help at once are driven to zero by their rate, and nothing brings them back. What they
would have held is lost, however many bits there are (benchmarks/README.md, "Choosing what to
train").
"""

import numpy as np
import tensorflow as tf

from common.reach import Reach, blocks, taps
from common.transforms.contract import Layer

# One over the step of quantisation, in pixels of range 1, that is best for mse * 255^2 at lambda
# 0.01: D = 3 / (2 ln(2) lambda) = step^2 / 12 at high rates, see `Levels` about other lambdas.
SCALE = 5.0

# How many times less variance luminance, red - blue, and green - magenta have at a frequency, in
# photographs.
_COLOURS = (1.0, 8.0, 16.0)


def basis(block: int, number: int) -> np.ndarray:
    """The `number` basis images that hold most of a photograph: [number, block, block, 3].

    They are orthonormal: products of cosines in luminance and in two differences of the colours,
    by (frequency + 1)^2 times a factor for each.

    Raises:
      ValueError: there are not so many.
    """
    if not 1 <= number <= 3 * block**2:
        raise ValueError(f"{number} channels; blocks of {block} x {block} have {3 * block**2}")
    places = np.arange(block)
    cosines = np.cos(np.pi / block * places[:, None] * (places + 0.5)) * np.sqrt(2 / block)
    cosines[0] /= np.sqrt(2)
    colours = np.array([[1, 1, 1], [1, 0, -1], [-1, 2, -1]]) / np.sqrt([[3], [2], [6]])
    images = np.einsum("ua,vb,wc->uvwabc", cosines, cosines, colours)
    frequencies = np.hypot(places[:, None], places)[..., None]
    order = np.argsort(((frequencies + 1)**2 * _COLOURS).ravel(), kind="stable")
    return images.reshape(-1, block, block, 3)[order[:number]]


def _rows(block, channels):
    return basis(block, channels).reshape(channels, -1).astype(np.float32)


class DCT(Layer):
    """Image [B, H, W, 3] -> `SCALE` times coefficients [B, H/block, W/block, channels].

    Args:
      channels: how many of the 3 block^2.
      block: pixels a side.
    """

    def __init__(self, channels: int, block: int = 16):
        super().__init__()
        self._block = block
        self._matrix = (SCALE * _rows(block, channels)).T

    def call(self, x: tf.Tensor) -> tf.Tensor:
        sides = tf.shape(x)[1:3]
        after = -sides % self._block  # zeros, as convolutions have them
        x = tf.pad(x, [[0, 0], [0, after[0]], [0, after[1]], [0, 0]])
        x = tf.nn.space_to_depth(x, self._block)
        return tf.nn.conv2d(x, self._matrix[None, None], 1, "SAME")

    def reach(self) -> Reach:
        return taps(0, self._block - 1, self._block)


class InverseDCT(Layer):
    """Coefficients [B, h, w, channels] -> image [B, block h, block w, 3]: the inverse of `DCT`.

    Args:
      block: pixels a side.
    """

    def __init__(self, block: int = 16):
        super().__init__()
        self._block = block

    def build(self, input_shape: tf.TensorShape) -> None:
        self._matrix = _rows(self._block, input_shape[-1]) / SCALE

    def call(self, x: tf.Tensor) -> tf.Tensor:
        pixels = tf.nn.conv2d(x, self._matrix[None, None], 1, "SAME")
        return tf.nn.depth_to_space(pixels, self._block)

    def reach(self) -> Reach:
        return blocks(self._block)
