"""How close `codec compress` comes to what was asked for: `python -m benchmarks.dials --model M`.

For every image of a data set, files of given sizes and PSNRs within the range of its levels: each
target lies at one of three places between the ends, evenly in the logarithm of the size or in PSNR.
Of sizes and of PSNRs, over all images and places

    gap        how much smaller than allowed files are, or by how many dB better than asked for
    codings    how many it took
    seconds    for one file, and beside it with one coding at a known quality

What gains, scales and the level itself cost is measured beside the same weights without them:
encoding and decoding in turns.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from unittest import mock

import numpy as np
import tqdm

from benchmarks import side_by_side
from common import result_tables, zoo
from common.cli import report
from common.lazy import Codec, coding, data, metrics, targets, tf, tiles

_OUTPUT = side_by_side.KEPT / "dials"
_PLACES = (0.2, 0.5, 0.8)
_REPEATS = 30


def reach(model: Codec, image: np.ndarray) -> dict[str, tuple[float, float]]:
    """The smallest and the largest value of each target that files of an image can have."""
    assert model.levels is not None
    small, large = (coding.compress(model, image, level=level)
                    for level in (0, model.levels.count - 1))
    return {"max_bytes": (len(small), len(large)),
            "psnr": (metrics.psnr(image, coding.decompress(model, small)),
                     metrics.psnr(image, coding.decompress(model, large)))}


def between(kind: str, ends: tuple[float, float], place: float) -> float:
    """A value of a target, from one end at 0 to the other at 1."""
    low, high = ends
    if kind == "psnr":
        return low + place * (high - low)
    return float(math.floor(low * (high / low)**place))


def meet(model: Codec, image: np.ndarray, target: targets.Target) -> dict[str, float]:
    """Codes an image so that it meets a target, and measures how it does."""
    with mock.patch.object(coding, "encode", side_effect=coding.encode) as encode:
        start = time.perf_counter()
        coded = targets.compress(model, image, target)
        seconds = time.perf_counter() - start
    if target.kind == "psnr":
        gap = metrics.psnr(image, coding.decompress(model, coded.ntc)) - target.value
    else:
        gap = 1 - len(coded.ntc) / target.value
    return {"value": target.value, "gap": gap, "codings": encode.call_count, "seconds": seconds}


def cost(name: str, image: np.ndarray) -> dict[str, float]:
    """Times of a model with levels over those of it without: medians of ratios."""
    model, plain = (zoo.load(name, "auto") for _ in range(2))
    plain.levels = None
    ends: list[tf.keras.Model] = [plain.analysis, plain.synthesis]
    for transform in ends:
        for layer in (transform, *transform.submodules):
            layer.__dict__.pop("level_scale", None)
            tiles.forget(layer)  # its graphs have the scales in them
    plain.tables = model.tables
    ratios = {"encoding": [], "decoding": []}
    for repeat in range(_REPEATS + 1):
        seconds = []
        for each in (model, plain):
            start = time.perf_counter()
            ntc = coding.compress(each, image)
            middle = time.perf_counter()
            coding.decompress(each, ntc)
            seconds.append((middle - start, time.perf_counter() - middle))
        if repeat:  # the first run of each operation sets it up
            for key, one, other in zip(ratios, *seconds):
                ratios[key].append(one / other)
    return {key: statistics.median(values) for key, values in ratios.items()}


@report
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="a model with levels")
    parser.add_argument("--dataset", default="photos/validation")
    parser.add_argument("--output", nargs="?", const=_OUTPUT,
                        help="write OUTPUT.json and OUTPUT.csv (without a name: %(const)s)")
    args = parser.parse_args()
    model = zoo.load(args.model, "auto")
    targets.require_levels(model, "this benchmark")
    sources, rows = data.find(args.dataset), []
    coding.compress(model, sources[0].read())  # the first run of each operation sets it up
    for source in tqdm.tqdm(sources, unit="image", disable=None):
        image = source.read()
        start = time.perf_counter()
        coding.compress(model, image)
        once = time.perf_counter() - start
        for kind, ends in reach(model, image).items():
            for place in _PLACES:
                target = targets.Target(kind, between(kind, ends, place))
                rows.append({"image": source.name, "kind": kind, "place": place, "once": once,
                             **meet(model, image, target)})
    summary = []
    for kind in ("max_bytes", "psnr"):
        mine = [row for row in rows if row["kind"] == kind]
        summary.append({
            "kind": kind, "files": len(mine),
            "mean gap": statistics.fmean(row["gap"] for row in mine),
            "largest gap": max(row["gap"] for row in mine),
            "smallest gap": min(row["gap"] for row in mine),
            "most codings": max(row["codings"] for row in mine),
            "seconds": statistics.fmean(row["seconds"] for row in mine),
            "seconds at a known quality": statistics.fmean(row["once"] for row in mine)})
    print(result_tables.render(summary, columns=[*summary[0]]))
    ratios = cost(args.model, sources[0].read())
    print("with levels / without: " + ", ".join(f"{k} {v:.3f}" for k, v in ratios.items()))
    if args.output:
        result_tables.save(
            args.output, summary, files=rows, cost=ratios, model=args.model,
            fingerprint=model.fingerprint, precision=model.precision, dataset=args.dataset)


if __name__ == "__main__":
    main()
