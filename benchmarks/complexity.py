"""Parameters, FLOPs and receptive fields of all configs: `python -m benchmarks.complexity`.

Every config counts as `get_config()` gives it; its sweep may make it wider at high rates. A config
whose model is another's (mshyper/configs/demo.py) has no row of its own.

Encoding and decoding are sums over the transforms: analysis and synthesis each on its own side,
hyper-analysis in the encoder, and hyper-synthesis, context and entropy parameters in both. Priors
are not in the sums: their cost is that of a table look-up. Their parameters are listed beside.

FLOPs are those of TensorFlow's profiler, as in Yang & Mandt 2023: a multiply-add is two, batch 1,
an image of 512 x 768 pixels, every transform at the size of its own input, divided by the pixels of
the image. What the profiler does otherwise than one may think:

* Element-wise operations count one an element (softmax five), and so do those that only prepare
  weights (GDN's reparametrisation, masks): less than 0.1 % of any transform.
* It has no entry for the activations in `_UNCOUNTED` and for batch normalisation. They count where
  they come to more than 0.1 % of a transform, which happens in advDNIC's; elsewhere numbers are
  those of the profiler alone, and can be compared with published ones.
* It counts the masked taps of a context's kernels, which the coder does not compute (12 of the 25
  of a 5x5 kernel are used). They are taken off. As weights they exist, never used: they are in
  `parameters`, and by themselves in `masked_parameters`.
* Convolutions count as tensorflow-compression computes them. What common/transforms/convolution.py
  does instead is faster, but multiplies some zeros too.
* The coder evaluates hyper-synthesis, context and entropy parameters as integer networks
  (common/integer_networks.py), every position once. That is as many operations, of another kind.

Receptive fields are those of benchmarks/receptive_fields.py.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import re
import unittest.mock
from typing import NamedTuple

import tqdm

from benchmarks import receptive_fields
from benchmarks.side_by_side import KEPT, RESULTS, ROOT
from common import files, result_tables, zoo
from common.cli import report
from common.errors import UserError
from common.lazy import ops, tf, tfc, transforms

HEIGHT, WIDTH = 512, 768  # pixels of the image

OUTPUT = KEPT / "complexity.json"
PAGE = ROOT / "docs" / "models.md"
BEGIN = "<!-- complexity: written by python -m benchmarks.complexity --page -->"
END = "<!-- end -->"

_DECODER_ONLY = {"synthesis"}
_ENCODER_ONLY = {"analysis", "hyper_analysis"}

# Operations an element of what the profiler does not know. One each, as it counts logarithms and
# powers; batch normalisation of a trained model is a scale and a shift.
_UNCOUNTED = {"Abs": 1, "Elu": 1, "LeakyRelu": 1, "Relu": 1, "Sigmoid": 1, "Softplus": 1, "Sqrt": 1,
              "Tanh": 1, "FusedBatchNormV3": 2}
_NO_ARITHMETIC = {
    "Cast", "ConcatV2", "Const", "DepthToSpace", "ExpandDims", "FloorDiv", "FloorMod", "GatherV2",
    "Identity", "IdentityN", "MirrorPad", "NoOp", "Pack", "Pad", "Placeholder", "Range",
    "ReadVariableOp", "Reshape", "ReverseV2", "Shape", "Slice", "SpaceToDepth", "SplitV", "Squeeze",
    "StridedSlice", "Transpose", "Unpack"}
_MATTERS = 1e-3


# --- Configs ----------------------------------------------------------------------------------


class Config(NamedTuple):
    """The facts of a model by its config of training.

    Attributes:
      title: what the model is called.
      paper: where it is from.
      model: `config.model`.
    """

    title: str
    paper: str
    model: dict


def configurations() -> dict[str, Config]:
    """The configs of training by path, each model only once: packages as in `zoo`, then by title.

    TITLE and PAPER of a config's module make it a row of the table. A config without has the model
    of another one, with levels or without, whose gains are not counted. Those for bits-back coding,
    by their entry `module`, are left out: the posterior's optimisation is most of their work.

    Raises:
      UserError: a config has neither TITLE and PAPER nor the model of another one.
    """
    found, others = {}, {}
    for path in sorted(ROOT.glob("*/configs/*.py")):
        if path.stem == "itinf":  # of refinement
            continue
        name, package = str(path.relative_to(ROOT)), path.parts[-3]
        module = vars(importlib.import_module(f"{package}.configs.{path.stem}"))
        config = module["get_config"]()
        if config.get("module") == "bits_back":
            continue
        model = json.loads(json.dumps(config.model.to_dict()))
        model.pop("levels", None)
        if "TITLE" in module:
            found[name] = Config(module["TITLE"], module["PAPER"], model)
        else:
            others[name] = model
    models = [(_package(path), config.model) for path, config in found.items()]
    wrong = [path for path, model in others.items() if (_package(path), model) not in models]
    if wrong:
        raise UserError(f"{', '.join(wrong)}: no TITLE and PAPER, which a config needs whose model "
                        "is not that of another one")
    packages = list(dict.fromkeys(map(_package, zoo.CODECS)))
    return dict(sorted(found.items(),
                       key=lambda item: (packages.index(_package(item[0])), item[1].title)))


def _package(name: str) -> str:
    """The package in a config's path, or in the name of a class's module."""
    return re.split("[/.]", name)[0]


# --- Parameters and FLOPs ---------------------------------------------------------------------


class Cost(NamedTuple):
    """The cost of one transform.

    Attributes:
      parameters: trainable.
      masked_parameters: those of them that are never used.
      flops: for the whole input.
    """

    parameters: int
    masked_parameters: int
    flops: int


def cost(transform: tf.keras.Model, height: int, width: int, channels: int) -> Cost:
    """Counts a transform of an input of this size.

    Raises:
      ValueError: it has an operation of which nothing is known.
    """
    function = tf.function(lambda x: transform(x), autograph=False)
    convolution = transforms.convolution.SignalConv2D
    with unittest.mock.patch.object(convolution, "call", tfc.SignalConv2D.call):
        graph = function.get_concrete_function(tf.TensorSpec([1, height, width, channels])).graph
    profiled = uncounted = 0
    for op in graph.get_operations():
        flops = ops.get_stats_for_node_def(graph, op.node_def, "flops").value
        if flops is not None:
            profiled += flops
        elif op.type in _UNCOUNTED:
            uncounted += _UNCOUNTED[op.type] * op.outputs[0].shape.num_elements()
        elif op.type not in _NO_ARITHMETIC:
            raise ValueError(f"how many FLOPs has the operation {op.type} ({op.name})? Add it to "
                             "_UNCOUNTED or _NO_ARITHMETIC in benchmarks/complexity.py")
    masked = 0
    for layer in transform.submodules:
        if isinstance(layer, transforms.layers.ShiftedConv):
            rows, columns, inputs, outputs = layer.kernel.shape
            masked += (rows * columns - len(layer.taps)) * inputs * outputs
    # Those with a mask keep the size: each weight is used once a position.
    profiled -= 2 * masked * height * width
    return Cost(_size(transform), masked,
                profiled + (uncounted if uncounted > _MATTERS * profiled else 0))


def _size(module: tf.Module) -> int:
    return sum(variable.shape.num_elements() for variable in module.trainable_variables)


def inputs(parts: dict[str, tf.keras.Model]) -> dict[str, tuple[int, int]]:
    """Pixels of the image between two positions of each part's input, and its channels."""
    stride, latents = parts["analysis"].stride, parts["analysis"].out_channels
    found = dict.fromkeys(("synthesis", "hyper_analysis", "context"), (stride, latents))
    found["analysis"] = 1, 3
    if "hyper_analysis" in parts:
        hyper = parts["hyper_analysis"]
        found["hyper_synthesis"] = stride * hyper.stride, hyper.out_channels
    if "context" in parts:
        found["entropy_parameters"] = stride, sum(
            parts[name].out_channels for name in ("context", "hyper_synthesis"))
    return {name: found[name] for name in parts}


# --- Configs measured -------------------------------------------------------------------------


def measure(package: str, model: dict) -> dict:
    """The figures of the model that `package` builds from `model`, an entry of `configurations`."""
    described = {name: json.dumps(value, sort_keys=True) for name, value in model.items()
                 if isinstance(value, dict)}
    places = inputs({name: _build(text) for name, text in described.items()})
    parts = {}
    for name, (stride, channels) in places.items():
        counted = _part_cost(described[name], stride, channels)
        parts[name] = {"parameters": counted.parameters,
                       "masked_parameters": counted.masked_parameters,
                       "flops_per_pixel": counted.flops / (HEIGHT * WIDTH)}
    fields = {
        "analysis": _part_field(described["analysis"]),
        "synthesis": _part_influence(described["synthesis"], places["synthesis"][1]),
    }
    if "hyper_analysis" in parts:
        fields["analysis to z"] = _part_field(described["analysis"], described["hyper_analysis"])
    priors = zoo.CODECS[f"{package}.models"](**model).priors
    return {
        "model": model,
        "parts": parts,
        "priors": {"parameters": sum(_size(p) for p in priors if isinstance(p, tf.Module))},
        "encoder": _total(parts, _DECODER_ONLY),
        "decoder": _total(parts, _ENCODER_ONLY),
        "receptive_field": fields,
    }


def _total(parts: dict, without: set[str]) -> dict:
    used = [part for name, part in parts.items() if name not in without]
    return {key: sum(part[key] for part in used) for key in ("parameters", "flops_per_pixel")}


def _build(description: str) -> tf.keras.Model:
    return transforms.build(json.loads(description))


# Configs share most of their parts.
@functools.cache
def _part_cost(description: str, stride: int, channels: int) -> Cost:
    return cost(_build(description), HEIGHT // stride, WIDTH // stride, channels)


@functools.cache
def _part_field(*descriptions: str) -> dict:
    return receptive_fields.receptive_field([_build(description) for description in descriptions])


@functools.cache
def _part_influence(description: str, channels: int) -> dict:
    return receptive_fields.influence(_build(description), channels)


# --- Output -----------------------------------------------------------------------------------


def render(results: dict[str, dict]) -> str:
    """The results as text."""
    parts = list(dict.fromkeys(name for result in results.values() for name in result["parts"]))
    fields = ["analysis", "synthesis", "analysis to z"]
    costs = {"parameters": "parameters, thousands", "flops_per_pixel": "kFLOPs/pixel"}
    text = []
    for key, title in costs.items():
        columns = [*parts, "encoder", "decoder"]
        if key == "parameters":
            columns += ["priors", "masked"]
        rows = []
        for path, result in results.items():
            masked = sum(part["masked_parameters"] for part in result["parts"].values())
            values = {**result["parts"], **result, "masked": {"parameters": masked}}
            rows.append({title: path, **{
                column: f"{values[column][key] / 1000:,.2f}" if column in values else "-"
                for column in columns}})
        text.append(result_tables.render(rows, [title, *columns]))
    title = "receptive field, pixels"
    rows = [{title: path, **{name: _describe(result["receptive_field"].get(name))
                             for name in fields}} for path, result in results.items()]
    text.append(result_tables.render(rows, [title, *fields]))
    return "\n\n".join(text)


def _describe(field: dict | None) -> str:
    if field is None:
        return "-"
    height, width = field["height"], field["width"]
    text = f"{height}" if height == width else f"{height} x {width}"
    text = f"up to {text}" if field["largest"] else text
    return f"image ({text} without means)" if field["whole_image"] else text


def page_table(results: dict[str, dict]) -> str:
    """The table of docs/models.md, in Markdown."""
    lines = ["| Model | Paper | Config | Parameters | Encode | Decode |",
             "|---|---|---|--:|--:|--:|"]
    known = configurations()
    for path, result in results.items():
        title, paper, _ = known[path]
        parameters = sum(part["parameters"] for part in result["parts"].values()) / 1e6
        encode, decode = (result[side]["flops_per_pixel"] / 1000 for side in ("encoder", "decoder"))
        lines.append(f"| {title} | {paper} | `{path}` | {parameters:.1f} M | {encode:.1f} "
                     f"| {decode:.1f} |")
    return "\n".join([*lines, "", "Encode and decode are kFLOPs a pixel of all transforms on that "
                      "side, a multiply-add being two."])


def replace_table(text: str, table: str) -> str:
    """`text` with `table` between the markers.

    Raises:
      UserError: the markers are not there.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"docs/models.md has no '{BEGIN}' followed by '{END}'")
    return f"{before}{begin}\n{table}\n{end}{after}"


@report
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--configs", nargs="+", metavar="CONFIG",
                        help="print these only, and save nothing; e.g. mshyper/configs/small.py")
    parser.add_argument("--page", action="store_true", help="rewrite the table in docs/models.md "
                        "and the numbers in benchmarks/results")
    args = parser.parse_args()
    if args.configs and args.page:
        parser.error("--page takes all configs")
    known = configurations()
    unknown = set(args.configs or ()) - set(known)
    if unknown:
        raise UserError(f"no config {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    tf.get_logger().setLevel("ERROR")  # the profiler warns of itself
    results = {path: measure(_package(path), known[path].model)
               for path in tqdm.tqdm(args.configs or known, unit="config", disable=None)}
    print(render(results))
    if args.configs:
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    output = OUTPUT if args.page else RESULTS / OUTPUT.name
    versions = result_tables.environment()["versions"]
    files.write_json(output, {
        "height": HEIGHT, "width": WIDTH, "versions": versions, "configs": results})
    print(f"written: {output}")
    if args.page:
        text = replace_table(PAGE.read_text(), page_table(results))
        with files.replacing(PAGE) as temporary:
            temporary.write_text(text)
        print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
