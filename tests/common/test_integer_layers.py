"""Integer forms of layers: like their float form, or refused by name."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_compression as tfc

from common import integer_builder
from common.errors import ConversionError, UserError
from common.transforms import contract, keras_layers
from common.transforms.composites import Branches, Gated, Residual, Sum
from common.transforms.layers import (
    GDN,
    ConcatElu,
    DepthToSpace,
    ShiftedConv,
    SignalConv2D,
    conv,
    deconv,
)
from tests.helpers.integer_layers import (
    BITS,
    BOUND,
    TABLE_ERROR,
    Recorder,
    assert_agree,
    converted,
    integers,
    trained,
)

K = tf.keras.layers
POINTWISE = sorted(keras_layers._POINTWISE)


# --- Layers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make, kernel, stride", [
    *((make, kernel, stride) for make in (conv, deconv) for kernel, stride in [
        (1, 1), (3, 1), (5, 1), (3, 2), (5, 2), (9, 4), (2, 1), (2, 2), (4, 2), (6, 4)]),
    (conv, 1, 2)])
def test_convolutions_agree(make, kernel, stride):
    layer = trained(make(3, kernel, stride=stride), 4)
    network = converted(layer, 4)
    for height, width in [(1, 1), (5, 8), (6, 7)]:
        assert_agree(network, layer, integers(2, height, width, 4))


@pytest.mark.parametrize("kernel, origin, last", [
    ((5, 5), (-2, -2), (0, -1)),  # masked, without its centre and with it
    ((5, 5), (-2, -2), (0, 0)),
    ((2, 3), (-2, -1), None),     # above only
    ((2, 1), (-1, -1), None),
    ((2, 2), (-1, -1), None),
    ((1, 1), (0, -1), None),      # a pure shift
    ((1, 3), (0, -3), None),
    ((3, 3), (-1, -1), None),     # sees what comes later, or nothing else
    ((2, 2), (0, 0), None),
    ((2, 2), (1, 1), None),
], ids=str)
def test_shifted_convolutions_agree(kernel, origin, last):
    layer = trained(ShiftedConv(3, kernel, origin, last), 4)
    network = converted(layer, 4)
    for height, width in [(1, 2), (2, 1), (5, 8)]:
        assert_agree(network, layer, integers(2, height, width, 4))


@pytest.mark.parametrize("make, kernel, stride", [
    (make, *sizes) for make in (conv, deconv)
    for sizes in [(5, 2), (3, 2), (3, 1), (9, 4), (4, 2)]])
def test_convolutions_in_keras_alignment_agree(make, kernel, stride):
    for use_bias in (True, False):
        layer = trained(make(3, kernel, stride, use_bias=use_bias, align="keras"), 4)
        network = converted(layer, 4)
        for height, width in [(1, 1), (5, 8), (6, 7)]:
            assert_agree(network, layer, integers(2, height, width, 4))


def test_reflection_has_no_integer_form():
    layer = trained(ShiftedConv(3, (3, 3), (-1, -1), padding="reflect"), 4)
    refusal = f"{layer.name}: padding 'reflect' has no integer form; 'zeros' has"
    with pytest.raises(ConversionError, match=refusal):
        converted(layer, 4)


@pytest.mark.parametrize("make, channels, tables", [
    (lambda: K.Conv2D(3, (3, 5), padding="same"), [4], 0),
    (lambda: K.Conv2D(3, 1, padding="same", use_bias=False), [4], 0),
    (lambda: K.DepthwiseConv2D((5, 3), padding="same"), [4], 0),
    (lambda: K.DepthwiseConv2D(3, padding="same", use_bias=False), [4], 0),
    (lambda: SignalConv2D(3, (3, 5), corr=True), [4], 0),  # rdft
    (lambda: K.BatchNormalization(), [4], 0),
    (lambda: K.BatchNormalization(scale=False), [4], 0),
    (lambda: K.BatchNormalization(center=False), [4], 0),
    (lambda: K.ReLU(), [4], 0),
    (lambda: K.ReLU(negative_slope=0.3), [4], 0),
    (lambda: K.LeakyReLU(0.1), [4], 0),
    (lambda: K.LeakyReLU(1.0), [4], 0),
    (lambda: ConcatElu(), [4], TABLE_ERROR),
    (lambda: K.Add(), [4, 4], 0),
    (lambda: K.Add(), [1, 4, 4], 0),
    (lambda: K.Multiply(), [4, 4], 0),
    (lambda: K.Multiply(), [1, 4, 4], 0),
    (lambda: K.Concatenate(), [4, 2, 1], 0),
    (lambda: K.GlobalAveragePooling2D(keepdims=True), [4], 0),
    *((lambda k=k, s=s: K.Conv2DTranspose(3, k, s, padding="same"), [4], 0)
      for k, s in [(6, 4), (2, 2), (4, 2), (5, 2), (3, 1), (18, 16)]),
    (lambda: DepthToSpace(2), [8], 0),
    (lambda: Residual([conv(4, 3), K.ReLU()]), [4], 0),
    (lambda: Sum([conv(3, 1)], [conv(3, 3), K.ReLU()]), [4], 0),
    (lambda: Branches([conv(3, 1)], [conv(2, 3)]), [4], 0),
    (lambda: Gated([conv(4, 3)], [conv(4, 1, activation="sigmoid")]), [4], 8 * TABLE_ERROR),
    (lambda: Gated([], [K.GlobalAveragePooling2D(keepdims=True)]), [4], 0),
], ids=[
    "conv", "conv without bias", "depthwise", "depthwise without bias", "signal conv rdft",
    "batch norm", "batch norm without gamma", "batch norm without beta", "relu", "leaky relu",
    "LeakyReLU", "identity", "concat elu", "add", "add broadcast", "multiply",
    "multiply broadcast", "concatenate", "mean",
    "blocks 6 4", "blocks 2 2", "blocks 4 2", "blocks 5 2", "blocks 3 1", "blocks 18 16",
    "depth to space", "residual", "sum", "branches", "gated", "gated channels"])
def test_layers_agree(make, channels, tables):
    layer = trained(make(), *channels)
    inputs = [integers(2, 5, 8, c, seed=k) for k, c in enumerate(channels)]
    assert_agree(converted(layer, *channels), layer, *inputs, tables=tables)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("name", POINTWISE + ["relu", "leaky_relu", "linear"])
def test_activations_agree(name, bits):
    # Also beyond the table's range, and with arguments coarser and finer than its steps.
    x = np.round(np.linspace(-30, 30, 5001) * 2.0**bits).reshape(1, 1, -1, 1)
    layer = K.Activation(name)
    network = converted(layer, 1, bits=bits, bound=2.0**(bits + 5))
    [y] = network(x)
    difference = y * 2.0**-network.outputs[0].bits - layer(x * 2.0**-bits).numpy()
    assert np.max(np.abs(difference)) <= TABLE_ERROR + 2.0**-(bits + 1) + 1e-5


@pytest.mark.parametrize("activation", POINTWISE + [
    "relu", "leaky_relu", tf.nn.leaky_relu, K.LeakyReLU(0.3), ConcatElu()],
    ids=lambda activation: activation if isinstance(activation, str) else type(activation).__name__)
@pytest.mark.parametrize("make", [
    lambda activation: conv(3, 3, activation=activation),
    lambda activation: deconv(3, 3, stride=2, activation=activation),
    lambda activation: ShiftedConv(3, (2, 2), (-1, -1), activation=activation),
    lambda activation: K.Conv2D(3, 3, padding="same", activation=activation),
    lambda activation: K.DepthwiseConv2D(3, padding="same", activation=activation),
], ids=["conv", "deconv", "shifted", "Conv2D", "DepthwiseConv2D"])
def test_activations_of_convolutions_agree(make, activation):
    layer = trained(make(activation), 4)
    assert_agree(converted(layer, 4), layer, integers(1, 3, 5, 4), tables=2 * TABLE_ERROR)


# --- Refusals ---------------------------------------------------------------------------------


class Subclassed(tf.keras.Model):
    """What `call` does with its layers cannot be known."""

    def __init__(self):
        super().__init__()
        self.inner = K.Conv2D(3, 3, padding="same")

    def call(self, x):
        return self.inner(x)


def signal_conv(kernel=3, corr=True, **kwargs):
    return SignalConv2D(4, kernel, corr=corr, use_bias=True, **kwargs)


def culprit(layer, channels=4):
    layer._name = "culprit"  # default names, like "activation", are words of the messages too
    return trained(layer, channels)


def assert_refused(layer, channels=4, **kwargs):
    with pytest.raises(ConversionError, match="culprit") as error:
        converted(layer, channels, **kwargs)
    assert isinstance(error.value, UserError)


@pytest.mark.parametrize("make", [
    GDN, K.LayerNormalization, K.PReLU, K.ELU, Subclassed,
    lambda: K.Conv2D(4, 3), lambda: K.Conv2D(4, 4, padding="same"),
    lambda: K.Conv2D(4, (3, 2), padding="same"), lambda: K.Conv2D(4, 3, 2, padding="same"),
    lambda: K.Conv2D(4, 3, padding="same", dilation_rate=2),
    lambda: K.Conv2D(4, 3, padding="same", groups=2),
    lambda: K.DepthwiseConv2D(3), lambda: K.DepthwiseConv2D(2, padding="same"),
    lambda: K.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
    lambda: tfc.SignalConv2D(4, 3, corr=True, padding="same_reflect"),
    lambda: signal_conv((3, 5), corr=False), lambda: signal_conv((5, 3), corr=False, strides_up=2),
    lambda: K.Conv2D(4, 3, padding="same", activation="exponential"),
    lambda: signal_conv(activation=tf.math.sin), lambda: K.Activation(lambda x: x + 1),
    lambda: K.Activation("relu6"), lambda: K.ReLU(max_value=6), lambda: K.ReLU(threshold=1),
    lambda: K.GlobalAveragePooling2D(), lambda: K.LeakyReLU(1.5),
], ids=[
    "GDN", "LayerNormalization", "PReLU", "ELU", "subclassed", "valid", "even", "half even",
    "stride", "dilation", "groups", "depthwise valid", "depthwise even", "multiplier", "library's",
    "transposed 3x5", "transposed 5x3", "exponential", "sin", "lambda",
    "relu6", "max_value", "threshold", "keepdims", "slope"])
def test_layers_without_integer_form_are_refused_by_name(make):
    assert_refused(culprit(make()))


def test_refused_layer_is_named_wherever_it_is():
    layer = culprit(GDN())
    x = tf.keras.Input([None, None, 4])
    functional = tf.keras.Model(x, K.Add()([x, tf.keras.Sequential([K.ReLU(), layer])(x)]))
    assert_refused(functional)
    assert_refused(trained(conv(4, 3, activation=layer), 4))


@pytest.mark.parametrize("make", [
    lambda: K.Conv2DTranspose(4, 3), lambda: K.Conv2DTranspose(4, (3, 5), padding="same"),
    lambda: K.Conv2DTranspose(4, 3, 4, padding="same"),
    lambda: K.Conv2DTranspose(4, 3, (2, 1), padding="same"),
    lambda: signal_conv((3, 2)),
    lambda: signal_conv(corr=False, strides_up=2, extra_pad_end=False),
    lambda: K.BatchNormalization(axis=1),
    lambda: K.Activation(functools.partial(tf.nn.leaky_relu, alpha=0.4)),
], ids=[
    "transposed valid", "transposed half", "transposed gaps", "transposed strides",
    "3x2", "without extra_pad_end", "batch norm of rows", "partial"])
def test_no_layer_is_converted_into_another(make):
    # These may gain an integer form; until then they are refused.
    layer = culprit(make())
    try:
        network = converted(layer, 4)
    except ConversionError as error:
        assert "culprit" in str(error)
    else:
        assert_agree(network, layer, integers(1, 4, 6, 4))


def test_concatenation_of_positions_is_refused():
    layer = K.Concatenate(axis=1, name="culprit")
    builder = integer_builder.Builder()
    x = builder.input(0, 4, BITS, BOUND)
    with pytest.raises(ConversionError, match="culprit"):
        contract.integers(layer, builder, x, x)


def test_model_with_two_outputs_is_refused():
    # The second would be dropped in silence.
    x = tf.keras.Input([None, None, 4])
    assert_refused(tf.keras.Model(x, [K.ReLU()(x), K.Activation("tanh")(x)], name="culprit"))


@pytest.mark.parametrize("spoil", [
    lambda kernel, bias: bias.assign(bias + 1e12),
    lambda kernel, bias: bias.assign(bias * np.nan),
    lambda kernel, bias: kernel.assign(kernel * np.nan),
    lambda kernel, bias: kernel.assign(kernel * np.inf),
], ids=["large bias", "nan bias", "nan kernel", "infinite kernel"])
@pytest.mark.parametrize("make", [
    lambda: conv(4, 3), lambda: deconv(4, 3, stride=2), lambda: K.DepthwiseConv2D(3, padding="same")
], ids=["conv", "deconv", "depthwise"])
def test_impossible_weights_are_refused_by_name(make, spoil):
    layer = culprit(make())
    spoil(*sorted(layer.trainable_weights, key=lambda weight: -weight.shape.rank))
    assert_refused(layer)


def test_impossible_statistics_are_refused_by_name():
    layer = culprit(K.BatchNormalization())
    layer.moving_mean.assign([1e12] * 4)
    assert_refused(layer)


def test_fan_in_is_refused_where_eight_bits_overflow():
    # Weights of 2^-1 have 8 bits as 2^7, and inputs 2^28: 2^18 of these make 2^53.
    for channels, possible in ((2**18, False), (2**18 - 1, True)):
        layer = K.Conv2D(1, 1, padding="same", use_bias=False, kernel_initializer=(
            tf.keras.initializers.Constant(0.5)), name="culprit")
        layer.build([None, None, None, channels])
        if possible:
            builder = Recorder()
            converted(layer, channels, bound=2.0**28, builder=builder)
            assert builder.values[2].bound == 2**53 - 2**35
        else:
            assert_refused(layer, channels, bound=2.0**28)
