"""The gains of iterative inference, method by method: `python -m benchmarks.inference_table`.

The rows are those of table 1 of Yang, Bamler & Mandt 2020:

    M1  SGA                       A1  MAP                     A4  deterministic annealing
    M2  SGA and bits-back         A2  straight-through        A5  bits-back without SGA
    M3  the model as it is        A3  uniform noise           A6  bits-back, nothing optimised

M1, M3 and A1 to A4 need `--model`, the others `--bits_back_model`, trained with the same lambda. A
model with levels codes at quality 50, and its lambda is that of this level.
All methods take the same number of steps, without an early end; their schedules scale with it.
What is measured are files: of bits-back, what the file has more than its payload, which is random
and longer than the bits that the image takes. Seconds are those of encoding: of a method's first
image with the set-up, of bits-back twice, because a chain first tries out what it needs. Finished
images are kept in OUTPUT.json, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Callable

import numpy as np
from ml_collections import config_dict

from chain import load_model
from common import export, methods, result_tables, zoo
from common.cli import report
from common.errors import UserError
from common.lazy import Codec, Latents, coding, data, metrics, objectives, refinement, targets
from mshyper import chain

ROWS = {"M1": "sga", "M2": "bb_sga", "M3": "base", "A1": "map", "A2": "ste", "A3": "unoise",
        "A4": "danneal", "A5": "bb_no_sga", "A6": "bb_plain"}
# Those that optimise y: the others know no number of steps.
_REFINED = ("sga", "bb_sga", "map", "ste", "unoise", "danneal")
# Every method as published, so that none is tuned more than another.
_PUBLISHED = {"sga": "sga_yang2020"}
_COLUMNS = ("row", "method", "steps", "images", "estimated_bpp", "bpp", "psnr", "rd_loss",
            "change", "seconds")
_PAYLOAD = 1_000_000


def settings(method: str, steps: int) -> dict:
    """The row of a method that refines."""
    name = method.removeprefix("bb_")
    config = methods.method(_PUBLISHED.get(name, name))
    config.num_steps, config.patience = steps, 0
    return config.to_dict()


def measure(model: Codec, infer: Callable[[Codec, np.ndarray, int | None], Latents],
            rd_lambda: float, method: str, image: np.ndarray) -> dict:
    """One image by one method: actual rate, quality, and seconds of encoding."""
    code = _bits_back if method.startswith("bb_") else _file
    coded, estimated_bits, decoded, seconds = code(model, method, image, infer)
    pixels = image.shape[0] * image.shape[1]
    row = {"bytes": coded, "bpp": 8 * coded / pixels, "estimated_bpp": estimated_bits / pixels,
           "psnr": metrics.psnr(image, decoded), "mse": metrics.mse(image, decoded)}
    return {**row, "rd_loss": row["bpp"] + rd_lambda * row["mse"], "seconds": seconds}


def _file(model, method, image, infer):
    del method
    start = time.perf_counter()
    ntc = coding.compress(model, image, sys.maxsize, infer)
    seconds = time.perf_counter() - start
    decoded = coding.decode(model, ntc, sys.maxsize)
    reconstruction = coding.reconstruct(model, decoded)
    row = coding.measure_file(model, image, ntc, decoded, reconstruction)
    pixels = image.shape[0] * image.shape[1]
    return len(ntc), row["estimated_bpp"] * pixels, reconstruction, seconds


def _bits_back(model, method, image, infer):
    payload = np.random.default_rng(0).bytes(_PAYLOAD)
    with chain.searching(model, 0 if method == "bb_plain" else model.replay_steps):
        start = time.perf_counter()
        ntb, (row,) = chain.compress(model, [image], payload, infer)
        seconds = time.perf_counter() - start
    (decoded,), returned = chain.decompress(model, ntb, sys.maxsize)
    if returned != payload:
        raise AssertionError("the payload came back as another one")
    return len(ntb) - len(payload), row["information"], decoded, seconds


def _objective(name, model):
    """The objective of an exported model; of one with levels, that of the level that codes here."""
    objective = refinement.objective(export.find(name))
    if model.levels:
        return dataclasses.replace(
            objective, rd_lambda=float(model.levels.rd_lambda(targets.level(model, None))))
    return objective


def _middle(image, size):
    top, left = (max(0, side - size) // 2 if size else 0 for side in image.shape[:2])
    return image[top:, left:][:size, :size]


def summary(rows: list[dict], images: list[str], methods: list[str], steps: int) -> list[dict]:
    """Means over `images` for each method of which all of them have been measured."""
    table = []
    for label, method in ROWS.items():
        mine = [row for row in rows if row["method"] == method and row["image"] in images
                and row["steps"] == (steps if method in _REFINED else 0)]
        if method in methods and len(mine) == len(images):
            mean = result_tables.mean_row([{k: v for k, v in row.items() if k != "method"}
                                           for row in mine])
            table.append({"row": label, "method": method, "images": len(mine), **mean})
    base = next((row["rd_loss"] for row in table if row["method"] == "base"), None)
    for row in table:
        row["change"] = f"{row['rd_loss'] / base - 1:+.2%}" if base else ""
        row["steps"] = str(int(row["steps"]))
    return table


@report
def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.inference_table", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=zoo.DEFAULT,
                        help="exported model, run or zoo name (default: %(default)s)")
    parser.add_argument("--dataset", default="kodak",
                        help="name of a data set, folder or glob (default: %(default)s)")
    parser.add_argument("--images", nargs="+", metavar="NAME",
                        help="only these of the data set, e.g. kodim01.png")
    parser.add_argument("--bits_back_model", help="likewise, for the rows with bits-back")
    parser.add_argument("--crop", type=int, metavar="N",
                        help="only the N x N pixels in the middle of each, which takes less time")
    parser.add_argument("--methods", nargs="+", choices=ROWS.values(),
                        help="which rows (default: all, those with bits-back if there is a model)")
    parser.add_argument("--steps", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--output", default="inference_table",
                        help="writes OUTPUT.json and OUTPUT.csv (default: %(default)s)")
    args = parser.parse_args(argv)
    model = zoo.load(args.model)
    objective = _objective(args.model, model)
    rd_lambda = objective.rd_lambda
    if objective != objectives.Objective(rd_lambda):
        raise UserError(f"{args.model} was not trained for bpp + lambda * MSE, as this table needs")
    bits_back_model = load_model(args.bits_back_model) if args.bits_back_model else None
    if bits_back_model and _objective(
            args.bits_back_model, bits_back_model).rd_lambda != rd_lambda:
        raise UserError(f"{args.bits_back_model} was not trained with lambda {rd_lambda:g}")
    models = {False: model, **({True: bits_back_model} if bits_back_model else {})}
    methods = args.methods or [
        method for method in ROWS.values() if method.startswith("bb_") in models]
    if any(method.startswith("bb_") not in models for method in methods):
        raise UserError("the methods bb_... need --bits_back_model")
    sources = {source.name: source for source in data.find(args.dataset)}
    unknown = sorted(set(args.images or ()) - set(sources))
    if unknown:
        raise UserError(f"no image {unknown[0]} in {args.dataset}; it has: {', '.join(sources)}")
    names = args.images or [*sources]

    path = pathlib.Path(f"{args.output}.json")
    facts = dict(dataset=args.dataset, crop=args.crop, rd_lambda=rd_lambda,
                 fingerprint=model.fingerprint)
    if bits_back_model:
        facts["bits_back_fingerprint"] = bits_back_model.fingerprint
    facts |= {f"{method}, {args.steps} steps": settings(method, args.steps)
              for method in methods if method in _REFINED}
    rows = []
    if path.exists():
        found = json.loads(path.read_text())
        rows = found.pop("rows")
        different = [key for key in facts if found.get(key, facts[key]) != facts[key]]
        if different:
            raise UserError(f"{path} has results with another {', '.join(different)}; choose "
                            "another --output")
        facts = {**found, **facts}
    for method in methods:
        steps = args.steps if method in _REFINED else 0
        codec_model, infer = models[method.startswith("bb_")], coding.infer
        if method in _REFINED:
            config = config_dict.ConfigDict(settings(method, steps))
            infer = refinement.Refiner(codec_model, config, objective).infer
        for name in names:
            if any((row["method"], row["steps"], row["image"]) == (method, steps, name)
                   for row in rows):
                continue
            image = _middle(sources[name].read(), args.crop)
            rows.append({"method": method, "steps": steps, "image": name,
                         **measure(codec_model, infer, rd_lambda, method, image)})
            result_tables.save(args.output, rows, **facts)
            print(result_tables.render(rows[-1:], columns=(
                "method", "image", "bpp", "psnr", "rd_loss", "seconds")), flush=True)
    print(result_tables.render(summary(rows, names, methods, args.steps), columns=_COLUMNS))


if __name__ == "__main__":
    main(sys.argv[1:])
