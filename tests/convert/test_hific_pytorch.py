"""Models of HiFiC-PyTorch: made with random weights, imported, and compared with its formulas."""

import collections

import numpy as np
import pytest
import tensorflow as tf

import convert
from common.errors import UserError
from tests.helpers.convert import reference, torch_writer
from tests.helpers.convert.models import agree, check_files, load
from tests.helpers.convert.reference import conv, deconv, relu

WIDTHS, Y, Z, BLOCKS, K = (4, 6, 8, 10, 12), 8, 6, 2, 3
DENSITY = "Hyperprior.hyperlatent_likelihood"


def make(norm="channel", mixture=False, seed=0):
    """A state dict of random weights."""
    random, state = np.random.default_rng(seed), collections.OrderedDict()

    def add(name, *shape, scale=1.0, centre=0.0):
        state[name] = (centre + scale * random.standard_normal(shape)).astype(np.float32)

    def add_conv(name, outputs, inputs, kernel, transposed=False):
        shape = (inputs, outputs) if transposed else (outputs, inputs)
        add(f"{name}.weight", *shape, kernel, kernel,
            scale=1 / np.sqrt(inputs * kernel**2 / (4 if transposed else 1)))
        add(f"{name}.bias", outputs, scale=0.1)

    def add_norm(name, channels):
        shape = (1, channels, 1, 1) if norm == "channel" else (channels,)
        names = ("gamma", "beta") if norm == "channel" else ("weight", "bias")
        add(f"{name}.{names[0]}", *shape, scale=0.1, centre=1.0)
        add(f"{name}.{names[1]}", *shape, scale=0.1)

    for i, (outputs, inputs) in enumerate(zip(WIDTHS, (3, *WIDTHS)), start=1):
        add_conv(f"Encoder.conv_block{i}.1", outputs, inputs, 7 if i == 1 else 3)
        add_norm(f"Encoder.conv_block{i}.2", outputs)
    add_conv("Encoder.conv_block_out.1", Y, WIDTHS[-1], 3)
    width = WIDTHS[-1]
    add_norm("Generator.conv_block_init.0", Y)
    add_conv("Generator.conv_block_init.2", width, Y, 3)
    add_norm("Generator.conv_block_init.3", width)
    for i in range(BLOCKS):
        for name in "conv1", "conv2":
            add_conv(f"Generator.resblock_{i}.{name}", width, width, 3)
        for name in "norm1", "norm2":
            add_norm(f"Generator.resblock_{i}.{name}", width)
    for i, (inputs, outputs) in enumerate(zip(WIDTHS[::-1], WIDTHS[-2::-1]), start=1):
        add_conv(f"Generator.upconv_block{i}.0", outputs, inputs, 3, transposed=True)
        add_norm(f"Generator.upconv_block{i}.1", outputs)
    add_conv("Generator.conv_block_out.1", 3, WIDTHS[0], 7)
    for i, (inputs, kernel) in enumerate(((Y, 3), (Z, 5), (Z, 5)), start=1):
        add_conv(f"Hyperprior.analysis_net.conv{i}", Z, inputs, kernel)
    for part in ("DLMM_params",) if mixture else ("mu", "std"):
        for i, (outputs, inputs, kernel) in enumerate(((Z, Z, 5), (Z, Z, 5), (Y, Z, 3)), start=1):
            add_conv(f"Hyperprior.synthesis_{part}.conv{i}", outputs, inputs, kernel, True)
    if mixture:
        add_conv("Hyperprior.synthesis_DLMM_params.conv_out", 3 * Y * K, Y, 1)
    else:
        state["Hyperprior.synthesis_std.conv3.bias"] += 1
    sizes = (1, 3, 3, 3, 1)
    for i, (inputs, outputs) in enumerate(zip(sizes, sizes[1:])):
        add(f"{DENSITY}.H_{i}", Z, outputs, inputs, scale=0.3)
        add(f"{DENSITY}.b_{i}", Z, outputs, 1, scale=0.3)
        add(f"{DENSITY}.a_{i}", Z, outputs, 1, scale=0.3)
    add("Discriminator.conv1.weight_orig", 4, 6, 3, 3)
    return state


ARGS = {
    "low": dict(normalize_input_image=True, likelihood_type="gaussian", use_channel_norm=True,
                regime="low", k_M=0.00234375, k_P=1.0, lambda_A=2.0),
    "med": dict(normalize_input_image=False, likelihood_type="logistic", use_channel_norm=True,
                regime="med", k_M=0.00234375, k_P=1.0, lambda_A=1.0),
    "instance": dict(normalize_input_image=False, likelihood_type="gaussian",
                     use_channel_norm=False, regime="low", k_M=0.00234375, k_P=1.0, lambda_A=2.0),
    "mixture": dict(normalize_input_image=True, likelihood_type="gaussian", regime="low",
                    use_latent_mixture_model=True, k_M=0.00234375, k_P=1.0, lambda_A=2.0),
}


def saved(kind):
    state = make("instance" if kind == "instance" else "channel", kind == "mixture")
    return {"model_state_dict": state, "args": ARGS[kind], "epoch": 3, "steps": 10,
            "compression_optimizer_state_dict": {"state": {0: {"exp_avg": np.zeros(9)}}}}


def read(tmp_path, content):
    torch_writer.write(tmp_path / "hific.pt", content)
    return convert.read(tmp_path / "hific.pt")


# --- What the port computes -------------------------------------------------------------------


NO_PADDING = ((0, 0), (0, 0))


def reflecting(state, name, x, rows, columns, stride=1):
    x = np.pad(x, ((0, 0), rows, columns), "reflect")
    return conv(x, state[f"{name}.weight"], state[f"{name}.bias"], stride, NO_PADDING)


def norm(state, name, x):
    if f"{name}.gamma" in state:
        gamma, beta = (state[f"{name}.{which}"].reshape(-1, 1, 1) for which in ("gamma", "beta"))
        mean, variance = x.mean(0), x.var(0, ddof=1)
        return gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta
    gamma, beta = (state[f"{name}.{which}"].reshape(-1, 1, 1) for which in ("weight", "bias"))
    mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
    return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta


def encoder(state, x):
    x = reflecting(state, "Encoder.conv_block1.1", x, (3, 3), (3, 3))
    x = relu(norm(state, "Encoder.conv_block1.2", x))
    for i in range(2, 6):
        # ReflectionPad2d((0, 1, 1, 0)): left, right, top, bottom.
        x = reflecting(state, f"Encoder.conv_block{i}.1", x, (1, 0), (0, 1), stride=2)
        x = relu(norm(state, f"Encoder.conv_block{i}.2", x))
    return reflecting(state, "Encoder.conv_block_out.1", x, (1, 1), (1, 1))


def generator(state, y):
    x = norm(state, "Generator.conv_block_init.0", y)
    x = reflecting(state, "Generator.conv_block_init.2", x, (1, 1), (1, 1))
    head = x = norm(state, "Generator.conv_block_init.3", x)
    for i in range(BLOCKS):
        name = f"Generator.resblock_{i}"
        z = relu(norm(state, f"{name}.norm1", reflecting(state, f"{name}.conv1", x, *[(1, 1)] * 2)))
        x = x + norm(state, f"{name}.norm2", reflecting(state, f"{name}.conv2", z, *[(1, 1)] * 2))
    x = x + head
    for i in range(1, 5):
        name = f"Generator.upconv_block{i}"
        x = deconv(x, state[f"{name}.0.weight"], state[f"{name}.0.bias"])
        x = relu(norm(state, f"{name}.1", x))
    return reflecting(state, "Generator.conv_block_out.1", x, (3, 3), (3, 3))


def hyper_analysis(state, y):
    name = "Hyperprior.analysis_net"
    x = relu(conv(y, state[f"{name}.conv1.weight"], state[f"{name}.conv1.bias"]))
    x = relu(reflecting(state, f"{name}.conv2", x, (2, 2), (2, 2), stride=2))
    return reflecting(state, f"{name}.conv3", x, (2, 2), (2, 2), stride=2)


def hyper_synthesis(state, part, z):
    x = z
    for i in (1, 2, 3):
        weight, bias = (state[f"Hyperprior.synthesis_{part}.conv{i}.{which}"]
                        for which in ("weight", "bias"))
        x = deconv(x, weight, bias, stride=2 if i < 3 else 1)
        x = relu(x) if i < 3 else x
    return x


def chw(x):
    return np.moveaxis(np.asarray(x)[0], -1, 0)


def hwc(x):
    return tf.constant(np.moveaxis(x, 0, -1)[None], tf.float32)


# --- Tests ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image():
    x = np.random.default_rng(1).random((256, 192, 3), np.float32)
    return tf.nn.avg_pool2d(x[None], 5, 1, "SAME").numpy()[0]


@pytest.mark.parametrize("kind", ARGS)
def test_networks_are_those_of_the_formulas(kind, tmp_path, image):
    content = saved(kind)
    state, signed = content["model_state_dict"], ARGS[kind]["normalize_input_image"]
    imported = read(tmp_path, content)
    model = imported.build()
    x = np.moveaxis(image, -1, 0)
    y = encoder(state, 2 * x - 1 if signed else x)
    latents = model.infer(image[None])
    tolerance = 2e-4 if kind == "instance" else 1e-5
    agree(chw(latents["y"]), y, tolerance)
    z = hyper_analysis(state, y)
    agree(chw(latents["z"]), z, tolerance)
    x_hat = generator(state, np.round(y))
    agree(chw(model.to_image(hwc(np.round(y)))),
          (np.tanh(x_hat) + 1) / 2 if signed else x_hat, tolerance)
    z_hat = np.floor(z + 0.5)
    letters = ([state[f"{DENSITY}.{letter}_{i}"] for i in range(4)] for letter in "Hba")
    bits = np.minimum(reference.density_bits(z_hat, *letters), 20)
    agree(chw(model.z_prior.bits(hwc(z_hat))), bits, 2e-4)
    psi = chw(model.hyper_synthesis(hwc(z_hat)))
    if kind == "mixture":
        name = "Hyperprior.synthesis_DLMM_params.conv_out"
        theirs = conv(hyper_synthesis(state, "DLMM_params", z_hat),
                      state[f"{name}.weight"], state[f"{name}.bias"])
        # [3, C, K] there: logits, means and scales of each channel.
        theirs = theirs.reshape(3, Y, K, *theirs.shape[1:])
        agree(psi.reshape(3, K, Y, *psi.shape[1:]), np.moveaxis(theirs, 2, 1))
    else:
        mean, scale = (hyper_synthesis(state, part, z_hat) for part in ("mu", "std"))
        agree(psi, np.concatenate([mean, scale]))
        # Scales are linear: their positions in the table, where not below its first entry.
        index = model.y_prior.table.index(tf.constant(scale, tf.float32)).numpy()
        step = np.log(256 / 0.11) / 63
        np.testing.assert_allclose(
            index, np.clip(np.log(np.maximum(scale, 0.11) / 0.11) / step, 0, 63), atol=1e-3)


@pytest.mark.parametrize("kind", ["low", "med", "mixture"])
def test_files_decode_at_any_size(kind, tmp_path, image):
    torch_writer.write(tmp_path / "hific.pt", saved(kind))
    model = load(tmp_path / "hific.pt", tmp_path / "model")
    for height, width in (53, 75), (17, 9):
        check_files(model, np.round(255 * image[:height, :width]).astype(np.uint8))


def test_training_arguments_become_the_objective(tmp_path):
    imported = read(tmp_path, saved("med"))
    assert imported.rd_lambda == 0.00234375
    assert imported.train == {"lpips_weight": 1.0, "rate_weight": 1.0}


def test_what_is_not_implemented_is_refused(tmp_path):
    content = saved("low")
    with pytest.raises(UserError, match="sample_noise"):
        read(tmp_path, content | {"args": ARGS["low"] | {"sample_noise": True}})
    with pytest.raises(UserError, match='arguments \\("args"\\)'):
        read(tmp_path, {key: value for key, value in content.items() if key != "args"})
    with pytest.raises(UserError, match="likelihood 'laplace'"):
        read(tmp_path, content | {"args": ARGS["low"] | {"likelihood_type": "laplace"}})
