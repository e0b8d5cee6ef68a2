"""CompressAI's models, from the state dicts that its examples/train.py and its zoo save.

Ballé et al. 2018 (factorized and hyperprior), Minnen et al. 2018 (mean-scale and joint
autoregressive) and Cheng et al. 2020 (anchor and attention). All share their entropy models:
`EntropyBottleneck` with five layers, Gaussians by linear scales of at least 0.11.

Keys have changed with its versions; see `_normalised`. What the models there do and these do too:
pixels are in [0, 1], GDN has squares and a root, leaky ReLU a slope of 0.01, and z is rounded
around stored medians. Its joint autoregressive models are evaluated with y on the integers, but
code it around its means, as is done here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping

import numpy as np

from common.errors import UserError
from convert import kernels
from convert.imported import (
    Imported,
    Layer,
    convolution,
    density,
    gdn,
    halves_swapped,
    reordered,
)

# Of bpp + lambda * 255^2 * MSE for pixels in [0, 1], as is ours, and of bpp + lambda * (1 -
# MS-SSIM), by quality 1 to 8: the table of its documentation.
LAMBDAS = {
    "mse": (0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932, 0.1800),
    "ms_ssim": (2.40, 4.58, 8.73, 16.64, 31.73, 60.50, 115.37, 220.00),
}

# What the zoo calls its files, as bmshj2018-hyperprior-ms-ssim-4-0123abcd.pth.tar and
# cheng2020_attn-mse-1-0123abcd.pth.tar.
_ZOO_NAME = re.compile(r"(?:^|/)[a-z0-9_-]+?(?P<ms_ssim>-ms-ssim)?-(?P<quality>[1-8])"
                       r"(?:-[0-9a-f]{8})?\.pth(?:\.tar)?$")

_COMMON = dict(density=dict(num_filters=[3, 3, 3, 3]), use_offset="stored", pixel_range=[0, 1])
_LEAKY = "leaky_relu_0.01"

# Of models that are known and not here: a key that only they have, and why.
_OTHERS = (
    ("Gain", "the variable-rate models (vbr): their gains are not implemented here"),
    ("res_encoder.", "ssf2020, a video codec"),
    ("cc_mean_transforms.", "channel-conditional models (Minnen & Singh 2020): not implemented "
                            "here"),
    ("g_a.0.patch_embed.", "stf: its window attention is not implemented here"),
)


def recognises(state: Mapping) -> bool:
    """Whether this seems to be a state dict of CompressAI, or holds one."""
    return any(key.startswith("g_a.") for key in _normalised(state))


def read(state: Mapping, file_name: str = "") -> Imported:
    """The model of a state dict, or of what its training script saves.

    Args:
      state: keys to tensors.
      file_name: which for a file of the zoo tells the quality, and thereby lambda.

    Raises:
      UserError: it is none of the models above.
    """
    state = _normalised(state)
    for key, reason in _OTHERS:
        if any(name.startswith(key) for name in state):
            raise UserError(f"this checkpoint is of {reason}")
    try:
        imported = _read(state)
    except KeyError as error:
        raise UserError(f"a state dict of CompressAI, but without {error}: its models "
                        "bmshj2018, mbt2018 and cheng2020 can be imported") from None
    named = _ZOO_NAME.search(file_name)
    if named:
        imported.train["distortion"] = "ms_ssim" if named["ms_ssim"] else "mse"
        imported.rd_lambda = LAMBDAS[imported.train["distortion"]][int(named["quality"]) - 1]
    return imported


def _normalised(saved: Mapping) -> dict:
    """The state dict in what was saved, with the keys of CompressAI 1.2.7 and later."""
    for key in ("state_dict", "network"):
        if isinstance(saved.get(key), Mapping):
            saved = saved[key]
    state = {}
    for key, value in saved.items():
        key = str(key).removeprefix("module.")
        # matrices.0 was _matrix0 before 1.2.7, and _matrices.0 before 1.1.
        key = re.sub(r"^entropy_bottleneck\._(matri)(?:x|ces\.)(\d)$",
                     r"entropy_bottleneck.\1ces.\2", key)
        key = re.sub(r"^entropy_bottleneck\._(bias|factor)(?:e?s\.)?(\d)$",
                     lambda m: f"entropy_bottleneck.{_PLURALS[m[1]]}.{m[2]}", key)
        state[key.replace(".downsample.", ".skip.")] = value
    return state


_PLURALS = {"bias": "biases", "factor": "factors"}


def _read(state):
    bottleneck = _density(state)
    if "g_a.0.conv1.weight" in state:
        return _cheng2020(state, bottleneck)
    n, m = _width(state, "g_a.0"), _width(state, "g_a.6")
    normed = "g_a.1.beta" in state
    model = dict(
        analysis=dict(cls="CNNAnalysis", channels=[n, n, n, m],
                      activation="gdn_square" if normed else "relu"),
        synthesis=dict(cls="CNNSynthesis", channels=[n, n, n, 3],
                       activation="igdn_square" if normed else "relu"),
        **_COMMON)
    parts = dict(
        analysis=_convolutions(state, "g_a") + _gdns(state, "g_a"),
        synthesis=_convolutions(state, "g_s", kernels.conv_transpose) + _gdns(state, "g_s"))
    if "h_a.0.weight" not in state:
        name = "bmshj2018-factorized" + ("" if normed else "-relu")
        return Imported(f"CompressAI's {name}", "factorized", model, parts | {"prior": bottleneck})

    first, second, last = (state[f"h_s.{i}.weight"].shape[axis] for i, axis in ((0, 1), (2, 1),
                                                                               (4, 0)))
    mean = last == 2 * m
    activation = _LEAKY if mean else "relu"
    model |= dict(
        hyper_analysis=dict(cls="HyperAnalysis", channels=[n, n, n], activation=activation),
        hyper_synthesis=dict(cls="HyperSynthesis", channels=[first, second, last],
                             activation=activation))
    # The last layer is a convolution there, and a transposed one here.
    *doubling, final = _names(state, "h_s")
    hyper = [_convolution(state, key, kernels.conv_transpose) for key in doubling]
    hyper.append(_convolution(state, final, functools.partial(kernels.conv, flip=True)))
    parts |= dict(hyper_analysis=_convolutions(state, "h_a"), z_prior=bottleneck)
    if "context_prediction.weight" in state:
        return _with_context("mbt2018", state, model, parts | {"hyper_synthesis": hyper}, m)
    if mean:
        hyper[-1] = reordered(hyper[-1], halves_swapped(last))  # scales come first there
    model |= dict(predict_mean=mean, scale_output="scale")
    name = "mbt2018-mean" if mean else "bmshj2018-hyperprior"
    return Imported(f"CompressAI's {name}", "mshyper", model, parts | {"hyper_synthesis": hyper})


def _cheng2020(state, bottleneck):
    n = _width(state, "g_a.0.conv1")
    attention = any(".conv_a." in key for key in state)
    model = dict(
        analysis=dict(cls="Cheng2020Analysis", channels=n, attention=attention),
        synthesis=dict(cls="Cheng2020Synthesis", channels=n, attention=attention),
        hyper_analysis=dict(cls="Cheng2020HyperAnalysis", channels=n),
        hyper_synthesis=dict(cls="Cheng2020HyperSynthesis", channels=n),
        **_COMMON)
    parts = {part: _convolutions(state, key) + _gdns(state, key) for part, key in (
        ("analysis", "g_a"), ("synthesis", "g_s"), ("hyper_analysis", "h_a"),
        ("hyper_synthesis", "h_s"))}
    name = "cheng2020-attn" if attention else "cheng2020-anchor"
    return _with_context(name, state, model, parts | {"z_prior": bottleneck}, n)


def _with_context(name, state, model, parts, m):
    """A model with the context network and the entropy parameters of mbt2018; y has m channels."""
    context, (first, *inner, last) = "context_prediction", _names(state, "entropy_parameters")
    widths = [_width(state, key) for key in (first, *inner, last)]
    channels, _, kernel, _ = state[f"{context}.weight"].shape
    model |= dict(
        context=dict(cls="MaskedContext", channels=channels, kernel=kernel),
        entropy_parameters=dict(cls="EntropyParameters", channels=widths, activation=_LEAKY),
        scale_output="scale")
    first, *inner, last = (_convolution(state, key) for key in (first, *inner, last))
    parts |= dict(
        context=[_convolution(state, context)],
        # There [psi, phi] goes in, and [scales, means] comes out.
        entropy_parameters=[reordered(first, halves_swapped(4 * m), axis=-2), *inner,
                            reordered(last, halves_swapped(2 * m))])
    return Imported(f"CompressAI's {name}", "joint_ar", model, parts)


def _density(state):
    matrices, biases, factors = (
        [state[key] for key in sorted(state) if key.startswith(f"entropy_bottleneck.{name}.")]
        for name in ("matrices", "biases", "factors"))
    return [density(matrices, biases, factors,
                    np.asarray(state["entropy_bottleneck.quantiles"])[:, 0, 1])]


def _names(state, part):
    """Names of the convolutions of a part, in order."""
    return [key.removesuffix(".weight") for key, value in state.items()
            if key.startswith(f"{part}.") and key.endswith(".weight") and len(value.shape) == 4]


def _width(state, name):
    """Outputs of a convolution."""
    return state[f"{name}.weight"].shape[0]


def _convolutions(state, part, kernel=kernels.conv) -> list[Layer]:
    return [_convolution(state, name, kernel) for name in _names(state, part)]


# Sub-pixel convolutions: a convolution and PixelShuffle, which orders channels otherwise.
_SUBPIXEL = re.compile(r"^[gh]_s\.\d+\.0$|\.subpel_conv\.0$|\.upsample\.0$")


def _convolution(state, name, kernel=kernels.conv) -> Layer:
    layer = convolution(kernel(state[f"{name}.weight"]),
                        np.asarray(state[f"{name}.bias"]))
    if _SUBPIXEL.search(name):
        return reordered(layer, kernels.pixel_shuffle(len(layer["bias"]) // 4))
    return layer


def _gdns(state, part) -> list[Layer]:
    return [gdn(*kernels.gdn(value, state[f"{key.removesuffix('beta')}gamma"]))
            for key, value in state.items() if key.startswith(f"{part}.") and key.endswith(".beta")]
