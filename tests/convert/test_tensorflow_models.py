"""Models of shallow-ntc, tensorflow/compression and improving-inference: made, imported, compared.

The first two are made of the same layers of Keras and of tensorflow-compression as the originals,
which compute what is expected; the third has checkpoints of TensorFlow 1, and its formulas.
"""

import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_compression as tfc

import convert
from common.errors import UserError
from mshyper import chain
from tests.convert import reference
from tests.convert.models import agree, check_files, load

N, M = 6, 8


def randomised(*modules, seed=0):
    """Gives every weight of built layers some noise."""
    random = np.random.default_rng(seed)
    for module in modules:
        for weight in module.trainable_variables:
            weight.assign_add(0.05 * random.standard_normal(weight.shape).astype(np.float32))


def widen(analysis, layer):
    """Scales the last convolution, lest nearly all of y round to 0."""
    y = analysis(tf.random.stateless_uniform([1, 64, 64, 3], (0, 1), -0.5, 0.5))
    for weight in layer.trainable_variables:
        if "bias" not in weight.name:  # of kernels also the real and imaginary part
            weight.assign(4 * weight / tf.math.reduce_std(y))


@pytest.fixture(scope="module")
def image():
    x = np.random.default_rng(1).random((64, 128, 3), np.float32)
    return tf.nn.avg_pool2d(x[None], 5, 1, "SAME")


def round_trip(folder, image):
    pixels = np.round(255 * image[0, :53, :75].numpy()).astype(np.uint8)
    check_files(load(folder, folder.parent / "exported"), pixels)


# --- shallow-ntc ------------------------------------------------------------------------------


def signal(channels, kernel, down=1, up=1, activation=None, use_bias=True):
    return tfc.SignalConv2D(channels, (kernel, kernel), corr=up == 1, strides_down=down,
                            strides_up=up, padding="same_zeros", use_bias=use_bias,
                            activation=activation)


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


def mbt_analysis():
    return tf.keras.Sequential(
        [signal(N, 5, 2, activation=tfc.GDN()) for _ in range(3)] + [signal(M, 5, 2)])


def mbt_synthesis():
    return tf.keras.Sequential([
        signal(N, 5, up=2, activation=tfc.GDN(inverse=True)) for _ in range(3)]
        + [signal(3, 5, up=2)])


def bls_analysis():
    return tf.keras.Sequential([
        signal(N, 9, 4, activation=tfc.GDN()), signal(N, 5, 2, activation=tfc.GDN()),
        signal(N, 5, 2, use_bias=False)])


def bls_synthesis():
    return tf.keras.Sequential([
        signal(N, 5, up=2, activation=tfc.GDN(inverse=True)),
        signal(N, 5, up=2, activation=tfc.GDN(inverse=True)), signal(3, 9, up=4)])


MODELS = {
    "mbt2018": (mbt_analysis, mbt_synthesis,
                dict(cls="MBT2018Analysis", channels_base=N, output_channels=M),
                dict(cls="MBT2018Synthesis", channels_base=N, output_channels=3)),
    "jpegl": (lambda: Elic(N, N, N, M),
              lambda: Held(lambda m, x: m.conv(x), conv=keras_deconv(3, 18, 16)),
              dict(cls="ElicAnalysis", channels=[N, N, N, M]),
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
    original = make_shallow(tmp_path, name)
    imported = convert.read(tmp_path)
    assert imported.rd_lambda == 0.02
    assert imported.model["use_offset"] == (name != "two_layer_syn2")
    model = imported.build()
    y = original._analysis(image - 0.5)
    agree(model.infer(image)["y"], y)
    agree(model.to_image(tf.round(y)), original._synthesis(tf.round(y)) + 0.5)
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


@pytest.mark.parametrize("name", ["two_layer_syn", "two_layer_syn2"])
def test_files_of_shallow_ntc(name, tmp_path, image):
    (tmp_path / "run").mkdir()
    make_shallow(tmp_path / "run", name)
    round_trip(tmp_path / "run", image)


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


# --- tensorflow/compression -------------------------------------------------------------------


def make_tfc(folder, name):
    """A SavedModel with what the training of bls2017 or bmshj2018 saves; its parts."""
    tf.keras.utils.set_random_seed(0)
    model = tf.Module()
    model.analysis_transform = bls_analysis() if name == "bls2017" else mbt_analysis()
    model.synthesis_transform = bls_synthesis() if name == "bls2017" else mbt_synthesis()
    model.synthesis_transform(model.analysis_transform(tf.zeros([1, 64, 64, 3])))
    if name == "bls2017":
        model.prior = tfc.NoisyDeepFactorized(batch_shape=(N,))
        density = model.prior
    else:
        model.hyper_analysis_transform = tf.keras.Sequential([
            signal(N, 3, activation=tf.nn.relu), signal(N, 5, 2, activation=tf.nn.relu),
            signal(N, 5, 2, use_bias=False)])
        model.hyper_synthesis_transform = tf.keras.Sequential([
            signal(N, 5, up=2, activation=tf.nn.relu), signal(N, 5, up=2, activation=tf.nn.relu),
            tfc.SignalConv2D(M, (3, 3), corr=False, strides_up=1, padding="same_zeros",
                             use_bias=True)])
        model.hyper_synthesis_transform(model.hyper_analysis_transform(tf.zeros([1, 4, 4, M])))
        model.hyperprior = density = tfc.NoisyDeepFactorized(batch_shape=(N,))
    randomised(model)
    widen(model.analysis_transform, model.analysis_transform.layers[-1])
    coder = tfc.ContinuousBatchedEntropyModel(density, coding_rank=3, compression=True)
    if name == "bls2017":
        model.entropy_model = coder
    else:
        model.side_entropy_model = coder
    tf.saved_model.save(model, str(folder))
    return model


@pytest.mark.parametrize("name", [pytest.param("bls2017", marks=pytest.mark.slow), "bmshj2018"])
def test_tensorflow_compression(name, tmp_path, image):
    original = make_tfc(tmp_path / "saved", name)
    imported = convert.read(tmp_path / "saved")
    assert imported.name == f"tensorflow/compression's {name}" and imported.rd_lambda is None
    model = imported.build()
    y = original.analysis_transform(image)
    agree(model.infer(image)["y"], y)
    agree(model.to_image(tf.round(y)), original.synthesis_transform(tf.round(y)))
    if name == "bls2017":
        coder, latent, offset = original.entropy_model, y, model.prior.offset
    else:
        coder, offset = original.side_entropy_model, model.z_prior.offset
        latent = original.hyper_analysis_transform(tf.abs(y))
        agree(model.infer(image)["z"], latent)
        index = original.hyper_synthesis_transform(tf.round(latent))
        found = model.y_prior.table.index(model.hyper_synthesis(tf.round(latent)))
        agree(found, tf.clip_by_value(index, 0, 63), 1e-4)
    rounded = tf.round(latent - offset) + offset
    agree(rounded, coder.quantize(latent), 1e-4)
    round_trip(tmp_path / "saved", image)


def test_ms2020_is_refused_by_name(tmp_path):
    model = tf.Module()
    for name in "analysis_transform", "synthesis_transform", "cc_mean_transforms":
        setattr(model, name, tf.Module())
        getattr(model, name).x = tf.Variable(1.0)
    tf.saved_model.save(model, str(tmp_path / "saved"))
    with pytest.raises(UserError, match="ms2020"):
        convert.read(tmp_path / "saved")


# --- improving-inference ----------------------------------------------------------------------


def rdft(kernel):
    """tensorflow-compression 1's form of a kernel, by its definition: [k k, inputs outputs]."""
    size = kernel.shape[0]
    basis = np.zeros((size, size))
    places = np.arange(size)
    basis[:, 0] = 1 / np.sqrt(size)
    for k in range(1, size // 2 + 1):
        basis[:, 2 * k - 1] = np.sqrt(2 / size) * np.cos(2 * np.pi * k * places / size)
        basis[:, 2 * k] = -np.sqrt(2 / size) * np.sin(2 * np.pi * k * places / size)
    return (np.kron(basis, basis).T @ kernel.reshape(size * size, -1)).astype(np.float32)


def make_names(folder, bits_back):
    """A checkpoint of TensorFlow 1; its arrays, the kernels as [rows, columns, inputs, outputs]."""
    random, kernels, arrays = np.random.default_rng(0), {}, {}

    def add(name, shape, scale, plain=False, bias=True):
        kernel = (scale * random.standard_normal(shape)).astype(np.float32)
        kernels[name] = kernel
        arrays[f"{name}/{'kernel' if plain else 'kernel_rdft'}"] = kernel if plain else rdft(kernel)
        if bias:
            arrays[f"{name}/bias"] = (0.1 * random.standard_normal(shape[-1])).astype(np.float32)

    for part, sizes, letter in (("analysis", (3, N, N, N, M), ""),
                                ("synthesis", (M, N, N, N, 3), "i")):
        for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:])):
            layer = f"{part}_transform/layer_{i}"
            add(layer, (5, 5, inputs, outputs), 0.15)
            if i < 3:
                arrays[f"{layer}/{letter}gdn_{i}/reparam_beta"] = np.ones(N, np.float32)
                arrays[f"{layer}/{letter}gdn_{i}/reparam_gamma"] = np.abs(
                    0.3 * np.eye(N) + 0.1 * random.standard_normal((N, N))).astype(np.float32)
    last = 2 * N if bits_back else N
    for i, (kernel, inputs, outputs) in enumerate(((3, M, N), (5, N, N), (5, N, last))):
        add(f"hyper_analysis_transform/layer_{i}", (kernel, kernel, inputs, outputs), 0.1,
            bias=i < 2)
    for i, (kernel, inputs, outputs) in enumerate(((5, N, N), (5, N, 3 * M // 2),
                                                   (3, 3 * M // 2, 2 * M))):
        add(f"mbt2018_hyper_synthesis_transform/layer_{i}", (kernel, kernel, inputs, outputs), 0.1,
            plain=True)
    prefix = "" if bits_back else "entropy_bottleneck/"
    sizes = (1, 3, 3, 3, 1)
    for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:])):
        for name, shape in (("matrix", (N, outputs, inputs)), ("bias", (N, outputs, 1)),
                            ("factor", (N, outputs, 1))):
            if name != "factor" or i < 3:
                arrays[f"{prefix}{name}_{i}"] = (
                    0.3 * random.standard_normal(shape)).astype(np.float32)
    if not bits_back:
        arrays["entropy_bottleneck/quantiles"] = random.standard_normal((N, 1, 3)).astype(
            np.float32)
    slots = {f"{name}/Adam": np.zeros_like(value) for name, value in arrays.items()}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [tf.compat.v1.get_variable(name, initializer=value)
                     for name, value in (arrays | slots).items()]
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver(variables).save(session, str(folder / "model.ckpt"), 10)
    return arrays, kernels


def run(arrays, kernels, part, x, letter=None):
    """A transform by PyTorch's reference layers, whose kernels are [outputs, inputs, k, k]."""
    up = part in ("synthesis", "mbt2018_hyper_synthesis")
    numbers = range(4 if letter is not None else 3)
    for i in numbers:
        name = f"{part}_transform/layer_{i}"
        kernel, bias = kernels[name], arrays.get(f"{name}/bias")
        if up:
            x = reference.deconv(x, kernel.transpose(2, 3, 0, 1), bias,
                                 1 if kernel.shape[0] == 3 else 2)
        else:
            x = reference.conv(x, kernel.transpose(3, 2, 0, 1), bias,
                               1 if kernel.shape[0] == 3 else 2)
        if i == numbers[-1]:
            return x
        if letter is None:
            x = reference.relu(x)
        else:
            gamma = arrays[f"{name}/{letter}gdn_{i}/reparam_gamma"]
            x = reference.gdn(x, arrays[f"{name}/{letter}gdn_{i}/reparam_beta"], gamma.T, up)


@pytest.mark.parametrize("bits_back", [False, True])
def test_improving_inference(bits_back, tmp_path, image):
    folder = tmp_path / f"mbt2018{'_bb' if bits_back else ''}-num_filters={N}-lmbda=0.005"
    folder.mkdir()
    arrays, kernels = make_names(folder, bits_back)
    imported = convert.read(folder)
    assert imported.rd_lambda == 0.005
    assert imported.module == ("bits_back" if bits_back else "models")
    model = imported.build()
    y = run(arrays, kernels, "analysis", np.moveaxis(image[0].numpy(), -1, 0), "")
    given = tf.constant(np.moveaxis(np.round(y), 0, -1)[None], tf.float32)
    agree(np.moveaxis(model.infer(image)["y"][0], -1, 0), y)
    agree(np.moveaxis(model.to_image(given)[0], -1, 0),
          run(arrays, kernels, "synthesis", np.round(y), "i"))
    z = run(arrays, kernels, "hyper_analysis", np.round(y))
    matrices, biases, factors = (
        [arrays[f"{'' if bits_back else 'entropy_bottleneck/'}{name}_{i}"] for i in range(count)]
        for name, count in (("matrix", 4), ("bias", 4), ("factor", 3)))
    if bits_back:
        posterior = model.posterior(given)
        agree(np.moveaxis(posterior["z"][0], -1, 0), z[:N])
        agree(np.moveaxis(posterior["z_log_scale"][0], -1, 0),
              np.minimum(z[N:] / 2, np.log(10) / 2))
        pixels = np.round(255 * image[0, :48, :64].numpy()).astype(np.uint8)
        model = load(folder, tmp_path / "exported")
        with chain.replaying(model, 0):
            ntb, _ = chain.compress(model, [pixels])
            pictures, _ = chain.decompress(model, ntb)
        assert [picture.shape for picture in pictures] == [pixels.shape]
        return
    medians = arrays["entropy_bottleneck/quantiles"][:, 0, 1]
    offset = (medians - np.round(medians))[:, None, None]
    np.testing.assert_allclose(model.z_prior.offset, offset[:, 0, 0], atol=1e-7)
    z_hat = np.round(z - medians[:, None, None]) + medians[:, None, None]
    agree(np.moveaxis(model.z_prior.bits(
        tf.constant(np.moveaxis(z_hat, 0, -1)[None], tf.float32))[0], -1, 0),
        np.minimum(reference.density_bits(z_hat, matrices, biases, factors), 20), 2e-4)
    psi = run(arrays, kernels, "mbt2018_hyper_synthesis", z_hat)
    agree(np.moveaxis(model.hyper_synthesis(
        tf.constant(np.moveaxis(z_hat, 0, -1)[None], tf.float32))[0], -1, 0), psi)
    round_trip(folder, image)


def test_improving_inference_without_an_array(tmp_path):
    make_names(tmp_path, bits_back=False)
    arrays = dict(convert.tensorflow_files.names(tmp_path))
    del arrays["synthesis_transform/layer_1/bias"]
    del arrays["synthesis_transform/layer_2/kernel_rdft"]
    with pytest.raises(UserError, match="without 'synthesis_transform/layer_2/kernel_rdft'"):
        convert.improving_inference.read(arrays)
