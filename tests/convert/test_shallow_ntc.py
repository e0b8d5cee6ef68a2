"""Models of shallow-ntc: made, imported, compared.

They are made of the same layers of Keras and of tensorflow-compression as the originals, which
compute what is expected.
"""

import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_compression as tfc

import convert
from common.errors import UserError
from tests.helpers.convert.models import agree
from tests.helpers.convert.tensorflow_models import (
    M,
    N,
    bls_analysis,
    bls_synthesis,
    mbt_analysis,
    mbt_synthesis,
    randomised,
    round_trip,
    widen,
)


@pytest.fixture(scope="module")
def image(image):
    """Float32 [1, 64, 128, 3]."""
    return tf.constant(image[None])


def keras_conv(channels, kernel, stride, activation=None):
    return tf.keras.layers.Conv2D(channels, kernel, stride, "SAME", activation=activation)


def keras_deconv(channels, kernel, stride, activation=None):
    return tf.keras.layers.Conv2DTranspose(channels, kernel, stride, "SAME", activation=activation)


class ResidualBlock(tf.keras.layers.Layer):
    def __init__(self, channels):
        super().__init__()
        self._block = tf.keras.Sequential([
            keras_conv(channels // 2, 1, 1, "relu"), keras_conv(channels // 2, 3, 1, "relu"),
            keras_conv(channels, 1, 1)])

    def call(self, x):
        return x + self._block(x)


class Attention(tf.keras.layers.Layer):
    def __init__(self, channels):
        super().__init__()
        self._trunk = tf.keras.Sequential([ResidualBlock(channels) for _ in range(3)])
        self._branch_layers = [ResidualBlock(channels) for _ in range(3)]
        self._attention_branch = tf.keras.Sequential(
            [*self._branch_layers, keras_conv(channels, 1, 1, "sigmoid")])

    def call(self, x):
        return x + self._trunk(x) * self._attention_branch(x)


class Elic(tf.keras.layers.Layer):
    def __init__(self, a, b, c, d):
        super().__init__()
        self._transform = tf.keras.Sequential([
            keras_conv(a, 5, 2), *(ResidualBlock(a) for _ in range(3)),
            keras_conv(b, 5, 2), *(ResidualBlock(b) for _ in range(3)), Attention(b),
            keras_conv(c, 5, 2), *(ResidualBlock(c) for _ in range(3)),
            keras_conv(d, 5, 2), Attention(d)])

    def call(self, x):
        return self._transform(x)


class Held(tf.keras.Model):
    """A model that computes by layers under the given names."""

    def __init__(self, compute, **layers):
        super().__init__()
        self._compute = compute
        for name, layer in layers.items():
            setattr(self, name, layer)

    def call(self, x):
        return self._compute(self, x)


def two_layer():
    return Held(lambda m, x: m.conv2(m.conv1(x)),
                conv1=keras_deconv(5, 13, 8, tfc.GDN(inverse=True)), conv2=keras_deconv(3, 5, 2))


def two_layer_residual():
    activation = tfc.GDN(inverse=True)
    return Held(lambda m, x: m.out_conv(m.base_conv(x) + m.res(x)),
                base_conv=keras_deconv(5, 13, 8, activation), res=keras_deconv(5, 13, 8),
                activation=activation, out_conv=keras_deconv(3, 5, 2))


def cnn_analysis():
    return tf.keras.Sequential(
        [keras_conv(N, 5, 2, tf.nn.leaky_relu) for _ in range(3)] + [keras_conv(M, 5, 2)])


MODELS = {
    "mbt2018": (mbt_analysis, mbt_synthesis,
                dict(cls="MBT2018Analysis", channels_base=N, output_channels=M),
                dict(cls="MBT2018Synthesis", channels_base=N, output_channels=3)),
    "jpegl": (cnn_analysis,
              lambda: Held(lambda m, x: m.conv(x), conv=keras_deconv(3, 18, 16)),
              dict(cls="CNNAnalysis", channels_base=N, output_channels=M),
              dict(cls="JPEGLikeSynthesis", kernel_size=18, strides=16)),
    "two_layer_syn": (lambda: Elic(N, N, N, M), two_layer_residual,
                      dict(cls="ElicAnalysis", channels=[N, N, N, M]),
                      dict(cls="TwoLayerResSynthesis", channels=[5, 3], strides=[8, 2],
                           kernel_sizes=[13, 5], activation_type="igdn", res_type="conv")),
    "two_layer_syn2": (cnn_analysis, two_layer,
                       dict(cls="CNNAnalysis", channels_base=N, output_channels=M),
                       dict(cls="TwoLayerSynthesis", channels=[5, 3], strides=[8, 2],
                            kernel_sizes=[13, 5], activation_type="igdn")),
    "bls2017": (bls_analysis, bls_synthesis, dict(cls="BLS2017Analysis", num_filters=N),
                dict(cls="BLS2017Synthesis", num_filters=N)),
}


def make_shallow(folder, name):
    """A run's folder; its parts."""
    tf.keras.utils.set_random_seed(0)
    analysis, synthesis, *described = MODELS[name]
    channels = N if name == "bls2017" else M
    model = tf.Module()
    model._analysis, model._synthesis = analysis(), synthesis()
    model._synthesis(model._analysis(tf.zeros([1, 64, 64, 3])))
    z_channels = channels
    if name != "bls2017":
        model._hyper_analysis = tf.keras.Sequential([
            keras_conv(M, 3, 1, "relu"), keras_conv(M, 5, 2, "relu"), keras_conv(M, 5, 2)])
        model._hyper_synthesis = tf.keras.Sequential([
            keras_deconv(M, 5, 2, "relu"), keras_deconv(3 * M // 2, 5, 2, "relu"),
            keras_deconv(2 * M, 3, 1)])
        model._hyper_synthesis(model._hyper_analysis(tf.zeros([1, 4, 4, M])))
    model._prior = tfc.NoisyDeepFactorized(batch_shape=(z_channels,))
    randomised(model)
    layers = getattr(model._analysis, "_transform", model._analysis).layers
    widen(model._analysis, [layer for layer in layers if hasattr(layer, "kernel")][-1])
    checkpoint = tf.train.Checkpoint(model=model, optimizer=tf.Module())
    tf.train.CheckpointManager(
        checkpoint, str(folder / "train" / "checkpoints"), max_to_keep=2).save()
    method = "mixedq" if name == "two_layer_syn2" else "unoise"
    (folder / "config.json").write_text(json.dumps({"model_config": {
        "rd_lambda": 0.02, "transform_config": dict(zip(("analysis", "synthesis"), described)),
        "latent_config": {"uq": {"method": method}}}}))
    return model


@pytest.mark.parametrize("name", MODELS)
def test_shallow_ntc(name, tmp_path, image):
    (tmp_path / "run").mkdir()
    original = make_shallow(tmp_path / "run", name)
    imported = convert.read(tmp_path / "run")
    assert imported.rd_lambda == 0.02
    assert imported.model["use_offset"] == (name != "two_layer_syn2")
    model = imported.build()
    y = original._analysis(image - 0.5)
    agree(model.infer(image)["y"], y)
    agree(model.to_image(tf.round(y)), original._synthesis(tf.round(y)) + 0.5)
    if name in ("two_layer_syn", "two_layer_syn2"):
        round_trip(tmp_path / "run", image)
    if name == "bls2017":
        agree(model.prior.bits(tf.round(y)),
              tf.minimum(original._prior.log_prob(tf.round(y)) / -np.log(2), 20))
        return
    z = original._hyper_analysis(y)
    agree(model.infer(image)["z"], z)
    agree(model.z_prior.bits(tf.round(z)),
          tf.minimum(original._prior.log_prob(tf.round(z)) / -np.log(2), 20))
    psi = original._hyper_synthesis(tf.round(z))
    agree(model.hyper_synthesis(tf.round(z)), psi)
    mean, s = tf.split(psi, 2, axis=-1)
    # What the network predicts is the index in the table, as a logarithm.
    index = tf.clip_by_value(tf.exp(s), 0, 63)
    scale = 0.11 * tf.exp(np.log(256 / 0.11) / 63 * index)
    expected = tfc.NoisyNormal(loc=mean, scale=scale).log_prob(tf.round(y - mean) + mean)
    found = model.y_prior.given(psi, continuous=True).bits(tf.round(y - mean) + mean)
    agree(found, tf.minimum(expected / -np.log(2), 20), 1e-4)


def test_shallow_ntc_needs_its_config(tmp_path):
    make_shallow(tmp_path, "bls2017")
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_config"]["transform_config"]["synthesis"]["cls"] = "ElicSynthesis"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="'ElicSynthesis' of shallow-ntc cannot be imported"):
        convert.read(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="not one of shallow-ntc's"):
        convert.read(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="without its run's config.json"):
        convert.read(tmp_path)
