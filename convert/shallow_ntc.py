"""mandt-lab/shallow-ntc (Yang & Mandt 2023): its five models, from a run's folder.

The run's config.json says what the transforms are. Their convolutions are Keras's, which lie
otherwise than tensorflow-compression's, and the hyper-synthesis predicts the logarithm of the index
in the table of scales, not that of the scale.
"""

from __future__ import annotations

import json
import pathlib

import numpy as np

from common.errors import UserError
from convert.imported import Imported, Layer, convolution
from convert.tensorflow_compression import learned_density, normalisation, signal_convolution
from convert.tensorflow_files import Object


def recognises(root: Object) -> bool:
    """Whether these seem to be the objects of one of the models."""
    return "_analysis" in _model(root)


def read(root: Object, path: str) -> Imported:
    """The model of a checkpoint.

    Args:
      root: its objects.
      path: in a run's folder, in which config.json is.

    Raises:
      UserError: there is no config.json, or it names what cannot be imported.
    """
    model = _model(root)
    config = _read_config(pathlib.Path(path))
    try:
        given = config["model_config"]
        ours = {part: _transform(dict(given["transform_config"][part]))
                for part in ("analysis", "synthesis")}
        rd_lambda = float(given["rd_lambda"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"config.json of the run is not one of shallow-ntc's ({error!r})") \
            from None
    # Mixed quantisation goes with integer grids, whatever the config says.
    method = ((given.get("latent_config") or {}).get("uq") or {}).get("method", "unoise")
    use_offset = bool(given.get("offset_heuristic", True)) and method != "mixedq"
    ours["use_offset"] = use_offset
    parts = {part: _layers(model[f"_{part}"]) for part in ("analysis", "synthesis")}
    prior = [learned_density(model["_prior"])]
    name = f"shallow-ntc's {ours['analysis']['cls']} and {ours['synthesis']['cls']}"
    if "_hyper_synthesis" not in model:
        return Imported(name, "factorized", ours, parts | {"prior": prior}, rd_lambda=rd_lambda)
    hyper_analysis, hyper_synthesis = (
        _layers(model[f"_hyper_{part}"]) for part in ("analysis", "synthesis"))
    ours |= dict(
        hyper_analysis=dict(cls="HyperAnalysis", activation="relu", align="keras",
                            channels=[len(layer["bias"]) for layer in hyper_analysis]),
        hyper_synthesis=dict(cls="HyperSynthesis", activation="relu", align="keras",
                             channels=[len(layer["bias"]) for layer in hyper_synthesis]),
        scale_output="exp_index")
    parts |= dict(hyper_analysis=hyper_analysis, hyper_synthesis=hyper_synthesis, z_prior=prior)
    return Imported(name, "mshyper", ours, parts, rd_lambda=rd_lambda)


def _model(root):
    return root.children["model"].children if "model" in root.children else {}


def _read_config(path):
    """config.json of the run that a checkpoint lies in."""
    for folder in (path, *path.absolute().parents[:3]):
        file = folder / "config.json"
        if file.is_file():
            try:
                config = json.loads(file.read_text("utf-8"))
            except ValueError as error:
                raise UserError(f"{file} is damaged ({error})") from None
            if isinstance(config, dict):
                return config
    raise UserError("a checkpoint of shallow-ntc without its run's config.json, which says what "
                    "the transforms are and lambda; copy it beside the folder train/")


def _transform(given):
    """The config of a transform here of one there. Raises KeyError if an argument is missing."""
    name = given.pop("cls")
    activation = _activation(given.pop("activation_type", None))
    if name in ("BLS2017Analysis", "BLS2017Synthesis"):
        width = given["num_filters"]
        return dict(cls=name, channels=[width, width, width if name == "BLS2017Analysis" else 3])
    if name in ("MBT2018Analysis", "MBT2018Synthesis", "CNNAnalysis", "CNNSynthesis"):
        width = given["channels_base"]
        last = given.get("output_channels") or (width if name.endswith("Analysis") else 3)
        ours = dict(cls=name, channels=[width, width, width, last])
        if name.startswith("MBT2018"):
            return ours
        if activation in ("gdn", "igdn"):
            raise UserError(f"{name} with '{activation}' shares one among its layers, which is "
                            "not implemented here")
        return ours | dict(activation=activation or "leaky_relu", align="keras")
    if name == "ElicAnalysis":
        return dict(cls=name, channels=list(given["channels"]), align="keras")
    if name == "JPEGLikeSynthesis":
        return dict(cls=name, channels=given.get("output_channels", 3),
                    kernel=given.get("kernel_size", 16), stride=given.get("strides", 16),
                    use_offset=given.get("use_offset", False))
    if name in ("TwoLayerSynthesis", "TwoLayerResSynthesis"):
        default = 24 if name == "TwoLayerSynthesis" else 12
        ours = dict(cls=name, channels=list(given.get("channels", (default, 3))),
                    strides=list(given.get("strides", (8, 2))),
                    kernels=list(given.get("kernel_sizes", (13, 5))),
                    activation=activation or "igdn", align="keras")
        if name == "TwoLayerSynthesis":
            return ours
        if given.get("res_type", "conv") != "conv":
            raise UserError(f"{name} with res_type '{given['res_type']}' has activations that are "
                            "not implemented here; only 'conv' can be imported")
        return ours | dict(residual="conv")
    raise UserError(f"transform '{name}' of shallow-ntc cannot be imported")


def _activation(name):
    names = {"gdn1": "gdn", "igdn1": "igdn", "lrelu": "leaky_relu"}
    return name and names.get(name.lower(), name)


def _layers(node: Object) -> list[Layer]:
    """The layers within a transform, in the order in which they compute."""
    children = node.children
    if "_kernel_parameter" in children:
        return signal_convolution(node)
    if "kernel" in children:  # Keras's
        layer = convolution(*(np.asarray(children[name].array) for name in ("kernel", "bias")))
        return [*normalisation(node), layer]
    if "_trunk" in children:  # ELIC's attention; its mask shares the first layers' list
        held = [children["_trunk"], children["_attention_branch"]]
    elif node.layers:
        held = node.layers
    else:
        held = [children[name] for name in (
            "_transform", "_block", "conv1", "conv2", "conv", "base_conv", "res", "out_conv")
            if name in children]
    return [layer for child in held for layer in _layers(child)]
