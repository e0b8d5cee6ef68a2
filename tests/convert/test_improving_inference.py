"""Models of improving-inference: made, imported, compared.

Their checkpoints are those of TensorFlow 1; what is expected is computed by formulas.
"""

import numpy as np
import pytest
import tensorflow as tf

import convert
from common.errors import UserError
from mshyper import chain
from tests.helpers.convert import reference
from tests.helpers.convert.models import agree, load
from tests.helpers.convert.tensorflow_models import M, N, round_trip


@pytest.fixture(scope="module")
def image(image):
    """Float32 [1, 64, 128, 3]."""
    return tf.constant(image[None])


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
        with chain.searching(model, 0):
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
