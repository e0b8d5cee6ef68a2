"""The models of tensorflow/compression: bls2017 and bmshj2018, as `model.save` writes them.

A SavedModel names its variables by numbers; the graph of its objects tells what they are. The graph
of its functions, which holds pickled code, is not read. Models of older versions of the library
(since 2.0) have the same objects with other forms of kernels.

Pixels are in [0, 1]. The hyper-synthesis of bmshj2018 predicts the index in the table of scales,
here their logarithm: an affine map, which its last layer takes on. The table is that of the
published code, 64 scales from 0.11 to 256; models with another cannot be told apart.
"""

from __future__ import annotations

import math

import numpy as np

from common.errors import UserError
from common.lazy import priors
from convert import kernels
from convert.imported import Imported, Layer, convolution, density, gdn, widths
from convert.tensorflow_files import Object

_COMMON = dict(use_offset="stored", pixel_range=[0, 1])


def recognises(root: Object) -> bool:
    """Whether these seem to be the objects of one of the models."""
    return {"analysis_transform", "synthesis_transform"} <= root.children.keys()


def read(root: Object, path: str = "") -> Imported:
    """The model of a SavedModel.

    Raises:
      UserError: it is neither bls2017 nor bmshj2018.
    """
    del path
    if any(name.startswith(("cc_mean", "hyper_synthesis_mean")) for name in root.children):
        raise UserError("ms2020 (channel-conditional, Minnen & Singh 2020) is not implemented "
                        "here: only bls2017 and bmshj2018 of tensorflow/compression can be "
                        "imported")
    analysis, synthesis = (_layers(root.find(f"{name}_transform"))
                           for name in ("analysis", "synthesis"))
    parts = dict(analysis=analysis, synthesis=synthesis)
    if "hyper_analysis_transform" not in root.children:
        model = dict(analysis=dict(cls="BLS2017Analysis", channels=widths(analysis)),
                     synthesis=dict(cls="BLS2017Synthesis", channels=widths(synthesis)), **_COMMON)
        parts["prior"] = [learned_density(root.find("prior"), _offset(root, "entropy_model"))]
        return Imported("tensorflow/compression's bls2017", "factorized", model, parts)
    hyper_analysis, hyper_synthesis = (_layers(root.find(f"hyper_{name}_transform"))
                                       for name in ("analysis", "synthesis"))
    step = math.log(priors.MAX_SCALE / priors.MIN_SCALE) / (priors.NUM_SCALES - 1)
    last = hyper_synthesis[-1]
    last |= dict(kernel=last["kernel"] * step,
                 bias=last["bias"] * step + math.log(priors.MIN_SCALE))
    model = dict(
        analysis=dict(cls="MBT2018Analysis", channels=widths(analysis)),
        synthesis=dict(cls="MBT2018Synthesis", channels=widths(synthesis)),
        hyper_analysis=dict(cls="HyperAnalysis", channels=widths(hyper_analysis),
                            activation="relu", last_bias=False),
        hyper_synthesis=dict(cls="HyperSynthesis", channels=widths(hyper_synthesis),
                             activation="relu"),
        predict_mean=False, **_COMMON)
    parts |= dict(
        hyper_analysis=hyper_analysis, hyper_synthesis=hyper_synthesis,
        z_prior=[learned_density(root.find("hyperprior"), _offset(root, "side_entropy_model"))])
    return Imported("tensorflow/compression's bmshj2018", "mshyper", model, parts)


def _layers(transform):
    layers, inputs = [], None
    for node in transform.layers:
        layers += signal_convolution(node, inputs)
        inputs = widths(layers)[-1]
    return layers


def signal_convolution(node: Object, inputs: int | None = None) -> list[Layer]:
    """A SignalConv2D, and the GDN that is its activation, if it is one.

    Args:
      node: the layer.
      inputs: its channels, needed for the kernels of versions before 2.2; 3 by default.
    """
    kernel, bias = node.find("_kernel_parameter"), node.children.get("_bias_parameter")
    if "real" in kernel.children:
        value = kernels.rdft(kernel.find("real").array, kernel.find("imag").array)
    elif "rdft" in kernel.children:
        value = kernels.kernel_rdft(kernel.find("rdft").array, inputs or 3)
    else:
        value = np.asarray(_variable(kernel))
    layer = convolution(value, None if bias is None else np.asarray(_variable(bias)))
    return [*normalisation(node), layer]


def normalisation(node: Object) -> list[Layer]:
    """The GDN that is the activation of a layer; none if that is another."""
    for name in ("_activation", "activation"):
        children = node.children[name].children if name in node.children else {}
        if "_beta_parameter" in children:
            return [gdn(*(np.asarray(_variable(children[f"_{which}_parameter"]))
                          for which in ("beta", "gamma")))]
    return []


def learned_density(prior: Object, median: np.ndarray | None = None) -> Layer:
    """A NoisyDeepFactorized, with the medians that its latents are rounded around."""
    base = prior.find("_base")
    matrices, biases, factors = (
        [np.asarray(child.array) for child in base.find(name).children.values()]
        for name in ("_matrices", "_biases", "_factors"))
    return density(matrices, biases, factors, median)


def _offset(root, model):
    """The medians that an entropy model has stored, or None."""
    stored = root.find(model).children.get("_quantization_offset")
    return stored and np.asarray(stored.array)


def _variable(parameter: Object):
    """The array of a parameter, which is a variable or holds one."""
    return parameter.array or parameter.find("variable").array
