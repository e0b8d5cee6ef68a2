"""Seconds and memory of coding as images grow: `python -m benchmarks.scaling`.

Square images are coded with mbt2018, N = M = 192, as in benchmarks/coding.py, whose parts of the
time are those here; CompressAI takes no part. `--model` selects joint_ar or mshyper. The
photograph of 768 x 512 pixels is continued by mirroring, so that every size has the same details.
Those of more than one tile (common/tiles.py) are transformed in tiles; see benchmarks/tiling.py.

Each size is coded in a process of its own. The peak memory is that of the whole process, with the
set-up that any process has before its first image (TensorFlow, the model, its tables and integer
networks); what that alone takes is printed beside it.

The exponent of a part is the slope of a line fitted to log seconds over log pixels: 1 where twice
the pixels take twice the time, and 1/2 for a context whose time is that of its number of steps.

The range coder by itself is measured on symbols drawn from the Gaussians of the scale table, all
of them equally often and in random order.
"""

import argparse
import contextlib
import pathlib
import resource
import statistics
import sys
import tempfile

import numpy as np

from benchmarks import coding, side_by_side

OUTPUTS = {"joint_ar": "scaling.json", "mshyper": "scaling_mshyper.json"}  # by model


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=OUTPUTS, default="joint_ar")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048],
                        help="heights, and widths, of the images; default: %(default)s")
    parser.add_argument("--image", help="by default coffee.png of the data set `photos`")
    parser.add_argument("--rounds", type=int, default=5, help="codings of each image")
    parser.add_argument("--warmup", type=int, default=1, help="codings before measuring")
    parser.add_argument("--symbols", type=int, default=3_000_000, help="for the range coder")
    side_by_side.add_arguments(parser)
    args = parser.parse_args()
    if len(set(args.sizes)) < 2:
        parser.error("exponents take at least two sizes")
    side_by_side.run(args, measure, ours=worker)


def measure(args: argparse.Namespace) -> None:
    """Measures all sizes; prints tables and writes one of `OUTPUTS` to `side_by_side.RESULTS`."""
    from common import files, result_tables

    side_by_side.warn_if_busy()
    photograph = coding.read_image(args.image)
    sizes, rounds = [], {}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "image.npy"
        for size in args.sizes:
            np.save(path, tiled(photograph, size))
            with _process() as process:
                process.call("load", path=str(path))
                setup = process.call("peak_memory_gib")
                for _ in range(args.warmup):
                    process.call("code")
                rounds[size] = [process.call("code") for _ in range(args.rounds)]
                peak = process.call("peak_memory_gib")
                coded = process.call("sizes")
            sizes.append({"size": size, "megapixels": size**2 / 1e6, "symbols": coded["symbols"],
                          "bytes": coded["bytes"], "peak memory GiB": peak, "set-up GiB": setup})
    with _process() as process:
        coder = process.call("range_coder", count=args.symbols, rounds=args.rounds)
        facts = side_by_side.facts([process], args)

    seconds, per_megapixel = [], []
    for key in rounds[args.sizes[0]][0]:
        values = {size: statistics.median(r[key] for r in of_size)
                  for size, of_size in rounds.items()}
        seconds.append({"seconds": key, **{str(size): value for size, value in values.items()},
                        "exponent": exponent(values)})
        per_megapixel.append({"seconds a megapixel": key, **{
            str(size): value / (size**2 / 1e6) for size, value in values.items()}})
    for rows in (seconds, per_megapixel, sizes, coder):
        print(result_tables.render(rows, rows[0].keys()), end="\n\n")
    side_by_side.RESULTS.mkdir(parents=True, exist_ok=True)
    files.write_json(side_by_side.RESULTS / OUTPUTS[args.model], {
        **facts, "sizes": sizes, "seconds": seconds, "per_megapixel": per_megapixel,
        "range_coder": coder, "rounds": rounds})


def _process():
    return contextlib.closing(
        side_by_side.Worker("ours", "benchmarks.scaling", sys.argv[1:]))


def worker(args: argparse.Namespace) -> side_by_side.Methods:
    """The methods of the process of one size."""
    return coding.ours(args) | {
        "peak_memory_gib":  # KiB -> GiB
            lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "range_coder": range_coder,
    }


def tiled(photograph: np.ndarray, size: int) -> np.ndarray:
    """The top left [size, size, 3] of the photograph continued by mirroring."""
    missing = [(0, max(0, size - side)) for side in photograph.shape[:2]]
    return np.pad(photograph, [*missing, (0, 0)], mode="symmetric")[:size, :size]


def exponent(seconds: dict[int, float]) -> float:
    """Slope of log seconds over log pixels; `seconds` by height, which is the width."""
    pixels = [size**2 for size in seconds]
    return statistics.linear_regression(np.log(pixels), np.log(list(seconds.values()))).slope


def range_coder(count: int, rounds: int) -> list[dict]:
    """Symbols a second that our range coder encodes and decodes, medians; one row for each."""
    from common import priors, range_coding
    from common.coding_tables import CodingTables

    rng = np.random.default_rng(0)
    scales = np.geomspace(priors.MIN_SCALE, priors.MAX_SCALE, priors.NUM_SCALES)
    distributions = rng.integers(priors.NUM_SCALES, size=count, dtype=np.int32)
    symbols = np.round(rng.normal(scale=scales[distributions]))
    tables = CodingTables.build([priors.ScaleTable()])

    def encode():
        coder = range_coding.RangeEncoder(tables)
        coder.encode(symbols, distributions)
        return coder.finish()

    def decode(stream):
        return range_coding.RangeDecoder(tables, stream).decode(distributions)

    stream = encode()
    if not np.array_equal(decode(stream), symbols):
        raise RuntimeError("the range coder does not return the symbols it was given")
    return [{
        "range coder": name,
        "symbols a second": count / statistics.median(
            side_by_side.seconds(function, *arguments) for _ in range(rounds)),
        "bits a symbol": 8 * len(stream) / count,
    } for name, function, *arguments in (("encode", encode), ("decode", decode, stream))]


if __name__ == "__main__":
    main()
