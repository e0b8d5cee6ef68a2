"""Encoding and decoding of a 768 x 512 photograph: `python -m benchmarks.coding`.

Both sides code the same photograph with mbt2018, N = M = 192, on the CPU: from uint8 pixels to
bytes, and from bytes to uint8 pixels. `--model` selects the mean-scale hyperprior (mshyper) or the
joint autoregressive model (joint_ar).

    ours         `coding.compress` and `coding.decompress`: a whole .ntc file.
    CompressAI   `compress` and `decompress` of `MeanScaleHyperprior(192, 192)`, or for joint_ar of
                 `JointAutoregressiveHierarchicalPriors(192, 192)`, and the conversions.

Transforms run in float32 and again in bfloat16 on both sides: by `--precision` in ours, in
CompressAI under torch.autocast, as its user could. The rest is float32 in CompressAI. In ours the
networks that encoder and decoder must agree on (hyper-synthesis, context, entropy parameters) are
integer networks, whose integers are held in float64. With the context model ours codes y by
wavefronts, CompressAI position by position.

The weights are untrained, from fixed seeds. Neither the arithmetic of the networks nor the number
of symbols depends on weights, but the entropy coder's work depends a little on the distributions.
Fresh from their initialisers, our model predicts scales near 1 and CompressAI's scales near 0.
With 1 added to the bias that predicts them, both code the same number of symbols in about the same
number of bytes, which are printed; they are those of a reconstruction of high quality.

Parts of the time:

    analysis     image to y, and y to z
    hyper        z to the hyper-synthesis' output; for mshyper that is means, and scales' positions
                 in the tables
    coding       entropy coding of z, for mshyper also of y, with conversions to and from integers
    context      joint_ar only: the serial loop, from the hyper-synthesis' output to y and back,
                 entropy coding of y included
    synthesis    y to image
    rest         what none of these contains

The rate that the hardware attains is measured on the product of two large float32 matrices, in
each of the processes; the better counts. The operations of the transforms are those of their
convolutions and GDNs, two a multiply-add.
"""

import argparse
import importlib
import math
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

from benchmarks import side_by_side
from common.timing import recording, stage

WIDTH, HEIGHT = 768, 512
PARTS = ("analysis", "hyper", "coding", "context", "synthesis")
OUTPUTS = {"mshyper": "coding.json", "joint_ar": "coding_joint_ar.json"}  # by model


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=OUTPUTS, default="mshyper")
    parser.add_argument("--image", help="by default coffee.png of the data set `photos`")
    parser.add_argument("--rounds", type=int, default=9, help="codings by each side")
    parser.add_argument("--warmup", type=int, default=2, help="codings before measuring")
    parser.add_argument("--matrix", type=int, default=4096, help="side of the matrices")
    side_by_side.add_arguments(parser)
    args = parser.parse_args()
    side_by_side.run(args, measure, ours=ours, CompressAI=compressai)


def measure(args: argparse.Namespace) -> None:
    """Measures both sides; prints tables and writes one of `OUTPUTS` to `side_by_side.RESULTS`."""
    from common import files, result_tables

    with (tempfile.TemporaryDirectory() as folder,
          side_by_side.workers("benchmarks.coding", sys.argv[1:]) as sides):
        path = pathlib.Path(folder) / "image.npy"
        np.save(path, read_image(args.image))
        for worker in sides:
            worker.call("load", path=str(path))
        side_by_side.alternate_precisions(sides, args.warmup, "code")
        rounds = side_by_side.alternate_precisions(sides, args.rounds, "code")
        matmul = side_by_side.alternate(sides, 1, "matmul", size=args.matrix)
        sizes = {worker.side: worker.call("sizes") for worker in sides}
        facts = side_by_side.facts(sides, args)

    medians = {side: {key: statistics.median(r[key] for r in of_side) for key in of_side[0]}
               for side, of_side in rounds.items()}
    rows = []
    for key in medians["ours float32"]:
        seconds = {side: medians[side][key] for side in medians}
        rows.append({"seconds": key, **seconds, **side_by_side.ratios(seconds)})
    rates = []
    attainable = max(rate for of_side in matmul.values() for rate in of_side)
    for side, seconds in medians.items():
        for key, operations in sizes["ours"]["operations"].items():
            rate = operations / seconds[key] / 1e9
            rates.append({"GFLOP/s": f"{side}: {key}", "GFLOP": operations / 1e9, "rate": rate,
                          "matrix product": attainable, "share": rate / attainable})
    print(result_tables.render(rows, rows[0].keys()))
    print()
    print(result_tables.render(rates, rates[0].keys()))
    print()
    for side, size in sizes.items():
        print(f"{side}: {size['symbols']} symbols in {size['bytes']} bytes")
    side_by_side.RESULTS.mkdir(parents=True, exist_ok=True)
    files.write_json(side_by_side.RESULTS / OUTPUTS[args.model], {
        **facts, "sizes": sizes, "rows": rows, "rates": rates, "matrix_product": matmul,
        "rounds": rounds})


def read_image(path: str | None) -> np.ndarray:
    """The photograph, resized and cropped to uint8 [HEIGHT, WIDTH, 3]."""
    from PIL import Image, ImageOps

    from common import data, images

    image = images.read(path) if path else data.find("photos/validation")[0].read()
    return np.asarray(ImageOps.fit(
        Image.fromarray(image), (WIDTH, HEIGHT), Image.Resampling.LANCZOS))


def ours(args: argparse.Namespace) -> side_by_side.Methods:
    """The worker of our side."""
    tf = side_by_side.tensorflow(args.threads)
    from common import coding, export, precision, zoo

    model_class = zoo.CODECS[f"{args.model}.models"]
    config = importlib.import_module(f"{args.model}.configs.mbt2018").get_config()
    model = export.build(model_class, config.to_dict())
    model.prepare_coding()
    with precision.policy("bfloat16"):
        narrow = export.build(model_class, config.to_dict())
    narrow.set_weights(model.get_weights())
    narrow.tables, narrow.networks = model.tables, model.networks
    model.fingerprint = narrow.fingerprint = "0" * 64  # stands in for an exported model's
    models = {"float32": model, "bfloat16": narrow}

    def sizes(image, ntc):
        latents = coding.infer(model, image)
        _, h, w, _ = latents["y"].shape
        analysis = (_multiply_adds(model.analysis, *image.shape[:2])
                    + _multiply_adds(model.hyper_analysis, h, w))
        return {
            "symbols": int(sum(tf.size(latent) for latent in latents.values())),
            "bytes": len(ntc),
            "operations": {
                "encode.analysis": 2 * analysis,
                "decode.synthesis": 2 * _multiply_adds(model.synthesis, h, w),
            },
        }

    def product(size):
        matrix = tf.random.normal([size, size])
        return lambda: tf.matmul(matrix, matrix)[0, 0].numpy()

    return _methods(lambda image, name: coding.compress(models[name], image),
                    lambda ntc, name: coding.decompress(models[name], ntc), sizes, product)


def compressai(args: argparse.Namespace) -> side_by_side.Methods:
    """The worker of CompressAI."""
    torch = side_by_side.torch(args.threads)
    from compressai import models

    if args.model == "joint_ar":
        net = models.JointAutoregressiveHierarchicalPriors(192, 192).eval()
        predictor = net.entropy_parameters[-1]
        of_y = [(net, "_compress_ar", "context"), (net, "_decompress_ar", "context")]
    else:
        net = models.MeanScaleHyperprior(192, 192).eval()
        predictor, conditional = net.h_s[-1], net.gaussian_conditional
        of_y = [(conditional, "build_indexes", "hyper"), (conditional, "compress", "coding"),
                (conditional, "decompress", "coding")]
    with torch.no_grad():
        predictor.bias[:192] += 1  # scales come first; see the module's docstring
    net.update()
    prior = net.entropy_bottleneck
    def transform(forward):
        def run(x):
            with torch.autocast("cpu", torch.bfloat16, enabled=state["autocast"]):
                return forward(x).float()

        return run

    state = {"autocast": False}
    for net_of in (net.g_a, net.h_a, net.g_s):
        net_of.forward = transform(net_of.forward)
    for owner, method, part in (
            (net.g_a, "forward", "analysis"), (net.h_a, "forward", "analysis"),
            (net.h_s, "forward", "hyper"),
            (prior, "compress", "coding"), (prior, "decompress", "coding"), *of_y,
            (net.g_s, "forward", "synthesis")):
        setattr(owner, method, stage(part)(getattr(owner, method)))

    @torch.no_grad()
    def compress(image, name):
        state["autocast"] = name == "bfloat16"
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
        return net.compress(x)

    @torch.no_grad()
    def decompress(coded, name):
        state["autocast"] = name == "bfloat16"
        x_hat = net.decompress(**coded)["x_hat"]
        return x_hat.mul(255).round().to(torch.uint8)[0].permute(1, 2, 0).contiguous().numpy()

    def sizes(image, coded):
        del image
        h, w = coded["shape"]
        return {
            "symbols": 192 * h * w + 192 * 4 * h * 4 * w,
            "bytes": sum(len(string) for strings in coded["strings"] for string in strings),
        }

    def product(size):
        matrix = torch.randn(size, size)
        return lambda: (matrix @ matrix)[0, 0].item()

    return _methods(compress, decompress, sizes, product)


def _methods(compress: Callable, decompress: Callable, sizes: Callable,
             product: Callable) -> side_by_side.Methods:
    """The methods of either worker, made of what differs between the two."""
    state = {}

    def load(path):
        state["image"] = np.load(path)

    def code(precision="float32"):
        state["coded"], encoding = _timed(compress, state["image"], precision)
        _, decoding = _timed(decompress, state["coded"], precision)
        return {f"{name}{part}": seconds
                for name, parts in (("encode", encoding), ("decode", decoding))
                for part, seconds in parts.items()}

    def matmul(size):
        multiply = product(size)
        return 2 * size**3 / 1e9 / min(side_by_side.seconds(multiply) for _ in range(5))

    return {"load": load, "code": code, "matmul": matmul,
            "sizes": lambda: sizes(state["image"], state["coded"])}


def _timed(function, *arguments):
    """The result; and seconds, of the whole under the key "" and of each part that it has."""
    with recording() as parts:
        start = time.perf_counter()
        result = function(*arguments)
        total = time.perf_counter() - start
    named = {f".{part}": parts[part] for part in PARTS if part in parts}
    return result, {"": total, **named, ".rest": total - sum(named.values())}


def _multiply_adds(transform, height, width):
    """The number in the convolutions and GDNs of a transform, for an input of this size."""
    from common.transforms.gdn import GDN

    total = 0
    for layer in transform.layers:
        height, width = height // layer.strides_down[0], width // layer.strides_down[1]
        # A transposed convolution multiplies each of its inputs, before the size grows.
        total += height * width * math.prod(layer.kernel.shape)
        height, width = height * layer.strides_up[0], width * layer.strides_up[1]
        if isinstance(layer.activation, GDN):
            total += height * width * math.prod(layer.activation.gamma.shape)
    return total


if __name__ == "__main__":
    main()
