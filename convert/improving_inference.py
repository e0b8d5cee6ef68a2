"""mandt-lab/improving-inference-for-neural-image-compression (Yang, Bamler & Mandt 2020).

Checkpoints of TensorFlow 1: arrays by name. mbt2018 is the mean-scale hyperprior, mbt2018_bb the
model for bits-back coding, whose hyper-analysis predicts the mean and the logarithm of the
variance of z. Pixels are in [0, 1]; GDN has squares and a root.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from common.errors import UserError
from convert import kernels
from convert.imported import Imported, Layer, convolution, density, gdn, widths

_LAMBDA = re.compile(r"lmbda=([0-9.]+(?:e-?[0-9]+)?)")


def recognises(arrays: Mapping) -> bool:
    """Whether these seem to be the arrays of one of the models."""
    return {"analysis_transform/layer_0/kernel_rdft",
            "mbt2018_hyper_synthesis_transform/layer_0/kernel"} <= arrays.keys()


def read(arrays: Mapping, path: str = "") -> Imported:
    """The model of a checkpoint.

    Args:
      arrays: by name.
      path: the folder's name holds lambda, as in mbt2018-num_filters=192-lmbda=0.01.

    Raises:
      UserError: an array is missing.
    """
    try:
        imported = _read(arrays)
    except KeyError as error:
        raise UserError(f"a checkpoint of improving-inference without {error}") from None
    named = _LAMBDA.findall(path)
    imported.rd_lambda = float(named[-1].rstrip(".")) if named else None
    return imported


def _read(arrays):
    analysis, synthesis = (_image_transform(arrays, f"{name}_transform", inverse)
                           for name, inverse in (("analysis", ""), ("synthesis", "i")))
    hyper_analysis = [_convolution(arrays, f"hyper_analysis_transform/layer_{i}", inputs)
                      for i, inputs in enumerate(_hyper_inputs(arrays, analysis))]
    hyper_synthesis = [_convolution(arrays, f"mbt2018_hyper_synthesis_transform/layer_{i}")
                       for i in range(3)]
    medians = arrays.get("entropy_bottleneck/quantiles")
    bits_back = medians is None
    model = dict(
        analysis=dict(cls="CNNAnalysis", activation="gdn_square", channels=widths(analysis)),
        synthesis=dict(cls="CNNSynthesis", activation="igdn_square", channels=widths(synthesis)),
        hyper_analysis=dict(cls="HyperAnalysis", activation="relu", last_bias=False,
                            channels=widths(hyper_analysis)),
        hyper_synthesis=dict(cls="HyperSynthesis", activation="relu",
                             channels=widths(hyper_synthesis)),
        density=dict(num_filters=[3, 3, 3]), pixel_range=[0, 1])
    matrices, biases, factors = (
        [_array(arrays, f"{name}_{i}") for i in range(count)]
        for name, count in (("matrix", 4), ("bias", 4), ("factor", 3)))
    prior = density(matrices, biases, factors,
                    None if bits_back else np.asarray(medians)[:, 0, 1])
    parts = dict(analysis=analysis, synthesis=synthesis, hyper_analysis=hyper_analysis,
                 hyper_synthesis=hyper_synthesis, z_prior=[prior])
    if not bits_back:
        model["use_offset"] = "stored"
        return Imported("improving-inference's mbt2018", "mshyper", model, parts)
    # From the logarithm of the variance to that of the deviation.
    kernel = hyper_analysis[-1]["kernel"]
    half = np.repeat((1.0, 0.5), kernel.shape[-1] // 2)
    hyper_analysis[-1]["kernel"] = kernel * half.astype(np.float32)
    return Imported("improving-inference's mbt2018_bb", "mshyper", model, parts,
                    module="bits_back")


def _image_transform(arrays, name, inverse) -> list[Layer]:
    layers, inputs = [], None
    for i in range(4):
        layer = _convolution(arrays, f"{name}/layer_{i}", inputs or _first_inputs(arrays, name))
        normed = f"{name}/layer_{i}/{inverse}gdn_{i}"
        if i < 3:
            layers.append(gdn(*(np.asarray(arrays[f"{normed}/reparam_{which}"])
                                for which in ("beta", "gamma"))))
        layers.append(layer)
        inputs = layer["kernel"].shape[-1]
    return layers


def _first_inputs(arrays, name):
    """Channels of the image, or of y."""
    if name == "analysis_transform":
        return 3
    return arrays["analysis_transform/layer_3/bias"].shape[0]


def _hyper_inputs(arrays, analysis):
    """Channels of y and of the first two outputs of the hyper-analysis."""
    return (widths(analysis)[-1], *(
        arrays[f"hyper_analysis_transform/layer_{i}/bias"].shape[0] for i in range(2)))


def _convolution(arrays, name, inputs=None) -> Layer:
    bias = arrays.get(f"{name}/bias")
    kernel = np.asarray(arrays[f"{name}/kernel"]) if inputs is None else \
        kernels.kernel_rdft(arrays[f"{name}/kernel_rdft"], inputs)
    return convolution(kernel, None if bias is None else np.asarray(bias))


def _array(arrays, name):
    """The array whose name ends so: there is one of the density, before it its model's name."""
    found = [key for key in arrays
             if (key == name or key.endswith(f"/{name}"))]
    if len(found) != 1:
        raise UserError(f"a checkpoint of improving-inference with {len(found)} arrays "
                        f"'{name}' of a density; expected one")
    return np.asarray(arrays[found[0]])
