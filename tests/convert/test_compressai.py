"""Models of CompressAI: made with random weights, imported, and compared with its formulas."""

import collections
import hashlib
import re

import numpy as np
import pytest
import tensorflow as tf

import convert
from common import export
from common.errors import UserError
from convert import compressai
from tests.helpers.convert import reference, torch_writer
from tests.helpers.convert.compressai_states import STATES, N, plain
from tests.helpers.convert.models import agree, check_files, load
from tests.helpers.convert.reference import conv, deconv, gdn, leaky_relu, pixel_shuffle, relu

# --- What CompressAI computes -----------------------------------------------------------------


def weights(state, name):
    return state[f"{name}.weight"], state[f"{name}.bias"]


def run(state, part, x, up=False, after=None):
    """g_a, g_s or a hyper transform of a model with plain layers."""
    numbers = sorted({int(key.split(".")[1]) for key in state if key.startswith(f"{part}.")
                      and not key.endswith((".beta", ".gamma"))})
    for number in numbers:
        name = f"{part}.{number}"
        weight, bias = weights(state, name)
        last = number == numbers[-1]
        if up and not (part == "h_s" and last):
            x = deconv(x, weight, bias)
        else:
            x = conv(x, weight, bias, 1 if weight.shape[-1] == 3 else 2)
        if last:
            return x
        if after:
            x = after(x)
        elif f"{part}.{number + 1}.beta" in state:
            x = gdn(x, state[f"{part}.{number + 1}.beta"], state[f"{part}.{number + 1}.gamma"], up)


def run_cheng(state, part, x):
    """The same of cheng2020."""
    def unit(name, x):
        y = relu(conv(x, *weights(state, f"{name}.conv.0")))
        y = relu(conv(y, *weights(state, f"{name}.conv.2")))
        return relu(x + conv(y, *weights(state, f"{name}.conv.4")))

    for number in sorted({int(key.split(".")[1]) for key in state if key.startswith(f"{part}.")}):
        name = f"{part}.{number}"
        if f"{name}.conv_a.0.conv.0.weight" in state:
            trunk = mask = x
            for i in range(3):
                trunk, mask = unit(f"{name}.conv_a.{i}", trunk), unit(f"{name}.conv_b.{i}", mask)
            mask = conv(mask, *weights(state, f"{name}.conv_b.3"))
            x = x + trunk * reference.sigmoid(mask)
        elif f"{name}.subpel_conv.0.weight" in state:
            y = leaky_relu(pixel_shuffle(conv(x, *weights(state, f"{name}.subpel_conv.0"))))
            y = gdn(conv(y, *weights(state, f"{name}.conv")), state[f"{name}.igdn.beta"],
                    state[f"{name}.igdn.gamma"], inverse=True)
            x = y + pixel_shuffle(conv(x, *weights(state, f"{name}.upsample.0")))
        elif f"{name}.skip.weight" in state:
            y = leaky_relu(conv(x, *weights(state, f"{name}.conv1"), 2))
            y = gdn(conv(y, *weights(state, f"{name}.conv2")), state[f"{name}.gdn.beta"],
                    state[f"{name}.gdn.gamma"])
            x = y + conv(x, *weights(state, f"{name}.skip"), 2)
        elif f"{name}.conv1.weight" in state:
            y = leaky_relu(conv(x, *weights(state, f"{name}.conv1")))
            x = x + leaky_relu(conv(y, *weights(state, f"{name}.conv2")))
        elif f"{name}.0.weight" in state:
            x = pixel_shuffle(conv(x, *weights(state, f"{name}.0")))
        else:
            x = conv(x, *weights(state, name),
                     2 if part == "g_a" or (part == "h_a" and number in (4, 8)) else 1)
        if part[0] == "h" and number < 8:
            x = leaky_relu(x)
    return x


def shifted(state, part="entropy_bottleneck"):
    return state[f"{part}.quantiles"][:, 0, 1][:, None, None]


def bottleneck_bits(state, z):
    return reference.density_bits(z, *(
        [state[f"entropy_bottleneck.{name}.{i}"] for i in range(count)]
        for name, count in (("matrices", 5), ("biases", 5), ("factors", 4))))


# --- Tests ------------------------------------------------------------------------------------


def import_state(tmp_path, saved, name="model.pth", legacy=False):
    path = tmp_path / name
    torch_writer.write(path, saved, legacy=legacy)
    return convert.read(path)


def chw(x):
    return np.moveaxis(np.asarray(x)[0], -1, 0)


@pytest.mark.parametrize("name", STATES)
def test_transforms_are_those_of_the_formulas(name, tmp_path, image):
    state = STATES[name]
    imported = import_state(tmp_path, state)
    assert imported.name == f"CompressAI's {name}"
    model = imported.build()
    forward = run_cheng if name.startswith("cheng") else run
    y = forward(state, "g_a", np.moveaxis(image, -1, 0))
    latents = model.infer(image[None])
    agree(chw(latents["y"]), y)
    y_hat = np.round(y)
    given = tf.constant(np.moveaxis(y_hat, 0, -1)[None], tf.float32)
    up = {} if name.startswith("cheng") else dict(up=True)
    agree(chw(model.to_image(given)), forward(state, "g_s", y_hat, **up))
    if name == "bmshj2018-factorized":
        medians = shifted(state)
        agree(chw(model.prior.bits(tf.round(latents["y"] - model.prior.offset)
                                   + model.prior.offset)),
              np.minimum(bottleneck_bits(state, np.round(y - medians) + medians), 20), 2e-4)
        return
    after = {} if name.startswith("cheng") else dict(
        after=relu if name == "bmshj2018-hyperprior" else leaky_relu)
    z = forward(state, "h_a", np.abs(y) if name == "bmshj2018-hyperprior" else y, **after)
    agree(chw(latents["z"]), z)
    medians = shifted(state)
    z_hat = np.round(z - medians) + medians
    given = tf.constant(np.moveaxis(z_hat, 0, -1)[None], tf.float32)
    agree(chw(model.z_prior.bits(given)), np.minimum(bottleneck_bits(state, z_hat), 20), 2e-4)
    psi = forward(state, "h_s", z_hat, **after, **up)
    ours = chw(model.hyper_synthesis(given))
    if name == "bmshj2018-hyperprior":
        agree(ours, psi)
        scale, mean = psi, 0.0
    elif name == "mbt2018-mean":
        scale, mean = np.split(psi, 2)
        agree(ours, np.concatenate([mean, scale]))
    else:
        agree(ours, psi)
        causal = np.ones((5, 5))
        causal[2, 2:] = causal[3:] = 0
        weight, bias = weights(state, "context_prediction")
        phi = conv(y_hat, weight * causal, bias)
        x = np.concatenate([psi, phi])
        for i in (0, 2, 4):
            x = conv(x, *weights(state, f"entropy_parameters.{i}"))
            x = leaky_relu(x) if i < 4 else x
        rounded = tf.constant(np.moveaxis(y_hat, 0, -1)[None], tf.float32)
        parameters = model.entropy_parameters(tf.concat(
            [model.context(rounded), model.hyper_synthesis(given)], -1))
        agree(chw(parameters), np.concatenate([*np.split(x, 2)][::-1]))
        return
    # The likelihood of y on its grid, by the scales themselves: between those of the table.
    scale = np.maximum(scale, 0.11)
    y_hat = np.round(y - mean) + mean
    given_y = model.y_prior.given(
        tf.constant(np.moveaxis(ours, 0, -1)[None]), continuous=True)
    bits = given_y.bits(tf.constant(np.moveaxis(y_hat, 0, -1)[None], tf.float32))
    agree(chw(bits), np.minimum(reference.normal_bits(y_hat - mean, scale), 20), 1e-3)


# What is coded of cheng2020-anchor is what is of cheng2020-attn.
@pytest.mark.parametrize("name", [name for name in STATES if name != "cheng2020-anchor"])
def test_files_of_imported_models_decode_to_the_same_latents(name, tmp_path, image):
    torch_writer.write(tmp_path / "model.pth", STATES[name])
    model = load(tmp_path / "model.pth", tmp_path / "model")
    check_files(model, np.round(255 * image[:53, :75]).astype(np.uint8))


def older(state, version):
    """The state dict with the keys of another version."""
    renamed = collections.OrderedDict()
    for key, value in state.items():
        for old, new in {
            "1.0": (r"matrices\.", "_matrices."), "1.1": (r"matrices\.", "_matrix")}[version],:
            key = re.sub(old, new, key)
        for singular, plural in (("bias", "biases"), ("factor", "factors")):
            key = key.replace(f"bottleneck.{plural}.",
                              f"bottleneck._{plural}." if version == "1.0" else
                              f"bottleneck._{singular}")
        renamed[key.replace(".skip.", ".downsample.")] = value
    return renamed


@pytest.mark.parametrize("variant", ["1.0", "1.1", "legacy file", "training", "network",
                                     "DataParallel"])
def test_all_forms_of_state_dicts_are_read(variant, tmp_path):
    state = STATES["mbt2018-mean"]
    expected = import_state(tmp_path, state)
    saved = {
        "1.0": lambda: older(state, "1.0"),
        "1.1": lambda: older(state, "1.1"),
        "legacy file": lambda: state,
        "training": lambda: {"epoch": 3, "state_dict": state, "loss": 1.0,
                             "optimizer": {"state": {0: {"step": 1}}}},
        "network": lambda: {"network": state},
        "DataParallel": lambda: collections.OrderedDict(
            (f"module.{key}", value) for key, value in state.items()),
    }[variant]()
    found = import_state(tmp_path, saved, "other.pth", legacy=variant == "legacy file")
    assert found.model == expected.model and found.name == expected.name
    for part, layers in expected.parts.items():
        for ours, theirs in zip(found.parts[part], layers, strict=True):
            assert ours.keys() == theirs.keys()
            for key in ours:
                np.testing.assert_array_equal(ours[key], theirs[key])


@pytest.mark.parametrize("file_name, expected", [
    ("bmshj2018-factorized-1-446d5c7f.pth.tar", ("mse", 0.0018)),
    ("mbt2018-mean-8-e089f1ed.pth.tar", ("mse", 0.18)),
    ("bmshj2018-hyperprior-ms-ssim-4-0123abcd.pth.tar", ("ms_ssim", 16.64)),
    ("cheng2020-anchor-1-dad2ebff.pth.tar", ("mse", 0.0018)),
    ("cheng2020_anchor-ms-ssim-1-20f521db.pth.tar", ("ms_ssim", 2.4)),
    ("cheng2020_attn-mse-1-465f2b64.pth.tar", ("mse", 0.0018)),
    ("cheng2020_attn-ms-ssim-1-c5381d91.pth.tar", ("ms_ssim", 2.4)),
    ("checkpoint_best_loss.pth.tar", (None, None)),
])
def test_names_of_the_zoo_tell_lambda(file_name, expected, tmp_path):
    imported = import_state(tmp_path, STATES["bmshj2018-factorized"], file_name)
    assert (imported.train.get("distortion"), imported.rd_lambda) == expected


def test_what_is_not_implemented_is_refused_by_name(tmp_path):
    state = plain(STATES["mbt2018-mean"]) | {"Gain": np.ones(6, np.float32)}
    with pytest.raises(UserError, match="vbr"):
        import_state(tmp_path, state)
    state = collections.OrderedDict(
        (key, value) for key, value in STATES["mbt2018-mean"].items()
        if key != "entropy_bottleneck.quantiles")
    with pytest.raises(UserError, match="without 'entropy_bottleneck.quantiles'"):
        import_state(tmp_path, state)


def test_other_shapes_than_expected_are_named(tmp_path):
    state = collections.OrderedDict(STATES["bmshj2018-factorized"])
    state["g_a.2.weight"] = np.zeros((N, N, 3, 3), np.float32)
    with pytest.raises(UserError, match=r"kernel 1 of the analysis is \[3, 3, 8, 8\]"):
        import_state(tmp_path, state).build()


def test_lambdas_are_as_many_as_qualities():
    assert {len(values) for values in compressai.LAMBDAS.values()} == {8}


def test_an_exported_import_loads_as_any_model(tmp_path):
    path = tmp_path / "mbt2018-mean-4-e089f1ed.pth.tar"
    torch_writer.write(path, STATES["mbt2018-mean"])
    fingerprint = convert.save(convert.read(path), path, tmp_path / "model")
    config = export.read_config(tmp_path / "model")
    assert config["train"] == {"distortion": "mse", "rd_lambda": 0.013}
    assert config["source"]["file"] == path.name
    assert config["source"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert export.fingerprint(tmp_path / "model") == fingerprint
