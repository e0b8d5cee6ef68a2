"""The block of MobileNetV2 and EfficientNet, which advDNIC's transforms are made of.

    mbconv   x   k x k for each channel, activation   SE   1x1   (+ x)

SE is squeeze and excitation (Hu et al. 2018): a gate for each channel, from the means of all over
the whole image. x is added where sizes allow it (Sandler et al. 2018; Tan & Le 2019).
"""

import tensorflow as tf

from common.transforms.composites import Gated, Residual, Stack
from common.transforms.layers import conv, get_activation


def mbconv(inputs: int, filters: int, kernel: int = 3, stride: int = 1, *,
           activation: str = "swish", gate_activation: str | None = None, normalize: bool = False,
           spatial: tf.keras.layers.Layer | None = None) -> tf.keras.layers.Layer:
    """The block [B, h, w, inputs] -> [B, h / stride, w / stride, filters].

    Args:
      inputs, filters: channels.
      kernel, stride: of the depthwise convolution.
      activation: after it; its name.
      gate_activation: within SE; by default the same.
      normalize: batch normalisation after both convolutions.
      spatial: a layer [..., inputs] -> [..., inputs] in place of the depthwise convolution, which
        may change the size.
    """
    depthwise = spatial or tf.keras.layers.DepthwiseConv2D(
        kernel, stride, "same", use_bias=False, depthwise_initializer=_initializer())
    body = [
        depthwise, *batch_norm(normalize), _layer(activation),
        squeeze_excite(inputs, gate_activation or activation),
        conv(filters, 1, use_bias=False, kernel_initializer=_initializer()), *batch_norm(normalize)]
    same = spatial is None and stride == 1 and inputs == filters
    return Residual(body) if same else Stack(body)


def squeeze_excite(channels: int, activation: str = "swish") -> tf.keras.layers.Layer:
    """x times a gate for each channel; a quarter of the channels inside, as in EfficientNet."""
    return Gated([], [
        tf.keras.layers.GlobalAveragePooling2D(keepdims=True),
        conv(max(1, channels // 4), 1, activation=activation, kernel_initializer=_initializer()),
        conv(channels, 1, activation="sigmoid", kernel_initializer=_initializer())])


def batch_norm(wanted: bool = True) -> list[tf.keras.layers.Layer]:
    """One layer with EfficientNet's constants, or none."""
    return [tf.keras.layers.BatchNormalization(momentum=0.99, epsilon=1e-3)] if wanted else []


def _layer(activation):
    activation = get_activation(activation)
    return (activation if isinstance(activation, tf.keras.layers.Layer)
            else tf.keras.layers.Activation(activation))


def _initializer():
    """EfficientNet's; a new one each time, because one alone repeats its numbers."""
    return tf.keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")
