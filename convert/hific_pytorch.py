"""Justin-Tan/high-fidelity-generative-compression: HiFiC in PyTorch, the low, med and high models.

Its checkpoints hold the training's arguments, both networks and three optimisers: 2 GB, of which a
tenth is read. The discriminator is not a part of a codec and stays behind.

Other than in the paper and in hific/configs, images are padded by reflection, z has integers and a
density whose logits are scaled once more, and scales are linear. The models that were trained with
`-norm` (low and high) have pixels in [-1, 1] and end in tanh.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from common.errors import UserError
from convert import kernels
from convert.imported import Imported, convolution, density, norm, reordered

_ENCODER, _GENERATOR, _HYPER = "Encoder", "Generator", "Hyperprior"
_DENSITY = f"{_HYPER}.hyperlatent_likelihood"
_LIKELIHOODS = {"gaussian": "normal", "logistic": "logistic"}


def recognises(saved: Mapping) -> bool:
    """Whether this seems to be a checkpoint of that code."""
    return f"{_ENCODER}.conv_block1.1.weight" in _state(saved)


def read(saved: Mapping, file_name: str = "") -> Imported:
    """The model of a checkpoint.

    Raises:
      UserError: its generator draws noise, or it has no arguments of training.
    """
    del file_name
    state, args = _state(saved), saved.get("args")
    if not isinstance(args, Mapping):
        raise UserError("a HiFiC checkpoint without its training's arguments (\"args\"): whether "
                        "pixels lie in [0, 1] or [-1, 1] cannot be told from the weights")
    if args.get("sample_noise"):
        raise UserError("this HiFiC model was trained with sample_noise: its generator draws "
                        "random channels, which is not implemented here")
    likelihood = args.get("likelihood_type", "gaussian")
    if likelihood not in _LIKELIHOODS:
        raise UserError(f"this HiFiC model has the likelihood '{likelihood}'; known: "
                        f"{', '.join(_LIKELIHOODS)}")
    mixture = f"{_HYPER}.synthesis_DLMM_params.conv1.weight" in state
    signed = bool(args.get("normalize_input_image"))
    # Channel norms have gamma and beta; instance norms weight and bias.
    channel = f"{_ENCODER}.conv_block1.2.gamma" in state
    # Those of the port; channel norms have 1e-3 there too.
    norms = dict(norm="channel") if channel else dict(norm="instance", epsilon=1e-5)
    down, up = (_blocks(state, name)
                for name in (f"{_ENCODER}.conv_block", f"{_GENERATOR}.upconv_block"))
    residual = _blocks(state, f"{_GENERATOR}.resblock_")
    y = _width(state, f"{_ENCODER}.conv_block_out.1")

    def convolved(*names):
        return [convolution(kernels.conv(state[f"{name}.weight"]),
                            np.asarray(state[f"{name}.bias"])) for name in names]

    def transposed(*names):
        return [convolution(kernels.conv_transpose(state[f"{name}.weight"]),
                            np.asarray(state[f"{name}.bias"])) for name in names]

    def normed(*names):
        gamma, beta = ("gamma", "beta") if channel else ("weight", "bias")
        return [norm(np.asarray(state[f"{name}.{gamma}"]), np.asarray(state[f"{name}.{beta}"]))
                for name in names]

    init = f"{_GENERATOR}.conv_block_init"
    model = dict(
        analysis=dict(
            cls="HiFiCAnalysis", channels=[*(_width(state, f"{name}.1") for name in down), y],
            padding="reflect", **norms),
        synthesis=dict(
            cls="HiFiCSynthesis", blocks=len(residual), padding="reflect", **norms,
            channels=[_width(state, f"{init}.2"),
                      *(_width(state, f"{name}.0", axis=1) for name in up), 3],
            **(dict(last_activation="tanh") if signed else {})),
        hyper_analysis=dict(
            cls="HyperAnalysis", activation="relu", padding="reflect",
            channels=[_width(state, f"{_HYPER}.analysis_net.conv{i}") for i in (1, 2, 3)]),
        likelihood=_LIKELIHOODS[likelihood],
        density=dict(num_filters=[3, 3, 3], last_factor=True),
        use_offset=False,
        pixel_range=[-1, 1] if signed else [0, 1])
    matrices, biases, factors = (
        [np.asarray(state[f"{_DENSITY}.{letter}_{i}"]) for i in range(4)] for letter in "Hba")
    parts = dict(
        analysis=[*convolved(*(f"{name}.1" for name in down), f"{_ENCODER}.conv_block_out.1"),
                  *normed(*(f"{name}.2" for name in down))],
        synthesis=[
            *convolved(f"{init}.2",
                       *(f"{name}.conv{i}" for name in residual for i in (1, 2))),
            *transposed(*(f"{name}.0" for name in up)),
            *convolved(f"{_GENERATOR}.conv_block_out.1"),
            *normed(f"{init}.0", f"{init}.3",
                    *(f"{name}.norm{i}" for name in residual for i in (1, 2)),
                    *(f"{name}.1" for name in up))],
        hyper_analysis=convolved(*(f"{_HYPER}.analysis_net.conv{i}" for i in (1, 2, 3))),
        z_prior=[density(matrices, biases, factors)])
    if mixture:
        names = [f"{_HYPER}.synthesis_DLMM_params.conv{i}" for i in (1, 2, 3)]
        out = f"{_HYPER}.synthesis_DLMM_params.conv_out"
        components, rest = divmod(_width(state, out), 3 * y)
        if rest:
            raise UserError(f"the mixtures of this HiFiC model have {_width(state, out)} "
                            f"parameters for {y} channels; expected a multiple of {3 * y}")
        # [3, C, K] there, [3, K, C] here.
        order = np.arange(3 * y * components).reshape(3, y, components).swapaxes(1, 2).ravel()
        model["hyper_synthesis"] = dict(
            cls="HiFiCMixtureHyperSynthesis", activation="relu", components=components,
            channels=[*(_width(state, name, axis=1) for name in names[:2]), y])
        last, = convolved(out)
        parts["hyper_synthesis"] = [*transposed(*names), reordered(last, order)]
    else:
        names = [f"{_HYPER}.synthesis_{part}.conv{i}" for part in ("mu", "std") for i in (1, 2, 3)]
        model["hyper_synthesis"] = dict(
            cls="SeparateHyperSyntheses", activation="relu",
            channels=[_width(state, name, axis=1) for name in names[:3]])
        model["scale_output"] = "scale"
        parts["hyper_synthesis"] = transposed(*names)
    # Of lambda * bpp + k_M * MSE + k_P * LPIPS, with the weight of the rate above the target.
    train = dict(lpips_weight=float(args.get("k_P", 1.0)),
                 rate_weight=float(args.get("lambda_A", 2.0)))
    return Imported(
        f"HiFiC-PyTorch ({args.get('regime', 'of no known rate')})", "hific", model, parts,
        module="mixture" if mixture else "models",
        rd_lambda=float(args.get("k_M", 0.075 * 2**-5)), train=train)


def _state(saved: Mapping) -> Mapping:
    state = saved.get("model_state_dict")
    return state if isinstance(state, Mapping) else {}


def _blocks(state, prefix):
    """Names of the blocks that are numbered after this prefix, in order."""
    numbers = {key.removeprefix(prefix).partition(".")[0] for key in state
               if key.startswith(prefix)}
    return [f"{prefix}{i}" for i in sorted(int(number) for number in numbers if number.isdigit())]


def _width(state, name, axis=0):
    """Outputs of a convolution (axis 0 of its weight) or transposed convolution (axis 1)."""
    return state[f"{name}.weight"].shape[axis]
