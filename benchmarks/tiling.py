"""Large images in tiles: memory, seconds, and what differs: `python -m benchmarks.tiling`.

Square images, a photograph continued by mirroring, are coded by the command line's functions.
Every measurement is made in a process of its own, and peak memory is that of the whole process,
with TensorFlow, the model, and the image.

    agreement   the same image as a whole and in tiles of several sides, with a trained model: the
                share of symbols and of decoded pixels that differ from those of the whole, and by
                how many levels. A symbol that differs moves pixels by more than one; so pixels of
                the same file, decoded both ways, are compared as well.
    large       images that do not fit into memory as a whole, with models of full size. Their
                weights are fresh, from fixed seeds: neither memory nor work depends on them, but
                for the length of the stream.

Models are names of the zoo, folders, or configs; those with levels code at quality 50.
"""

import argparse
import contextlib
import importlib
import pathlib
import resource
import sys
import tempfile
import time

import numpy as np

from benchmarks import coding, scaling, side_by_side

OUTPUT = side_by_side.RESULTS / "tiling.json"
WHOLE = 2**20  # a side that no image here exceeds


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="mshyper", help="for agreement")
    parser.add_argument("--size", type=int, default=2048,
                        help="height, and width, of the image for agreement; default: %(default)s")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 896],
                        help="of the tiles; default: %(default)s")
    parser.add_argument("--large", nargs="*", metavar="CONFIG:SIZE",
                        default=["mshyper/configs/mbt2018.py:10000",
                                 "hific/configs/stage2_low.py:4000"],
                        help="models and sizes for large images; default: %(default)s")
    parser.add_argument("--image", help="by default coffee.png of the data set `photos`")
    side_by_side.add_arguments(parser)
    args = parser.parse_args()
    side_by_side.run(args, measure, ours=worker)


def measure(args: argparse.Namespace) -> None:
    """Measures everything; prints tables and writes `OUTPUT`."""
    from common import files, result_tables

    side_by_side.warn_if_busy()
    photograph = coding.read_image(args.image)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        agreement = compare(args, photograph, folder)
        print(result_tables.render(agreement, agreement[0].keys()), end="\n\n", flush=True)
        large = []
        for name in args.large:
            model, _, size = name.rpartition(":")
            path = folder / "large.npy"
            np.save(path, scaling.tiled(photograph, int(size)))
            row = {"model": model, "megapixels": int(size)**2 / 1e6}
            large.append(row | code(model, path, folder / "large", None))
            print(result_tables.render(large[-1:], large[-1].keys()), end="\n\n", flush=True)
        with _process() as process:
            facts = side_by_side.facts([process], args)
    side_by_side.RESULTS.mkdir(parents=True, exist_ok=True)
    files.write_json(OUTPUT, {**facts, "agreement": agreement, "large": large})


def compare(args: argparse.Namespace, photograph: np.ndarray, folder: pathlib.Path) -> list[dict]:
    """Rows of agreement: the image as a whole, and in tiles of each side."""
    path = folder / "image.npy"
    np.save(path, scaling.tiled(photograph, args.size))
    rows = []
    for side in (WHOLE, *args.sides):
        name = folder / str(side)
        row = {"tiles": "whole" if side == WHOLE else str(side)}
        row |= code(args.model, path, name, side)
        with _process(args.model, WHOLE) as process:
            row |= process.call("difference", name=str(name), whole=str(folder / str(WHOLE)))
        rows.append(row)
    return rows


def code(model: str, image: pathlib.Path, name: pathlib.Path, side: int | None) -> dict:
    """Codes an image both ways; leaves `name`.ntc and what it decodes to, `name`.npy."""
    with _process(model, side) as process:
        row = process.call("compress", image=str(image), name=str(name))
    with _process(model, side) as process:
        return row | process.call("decompress", name=str(name))


@contextlib.contextmanager
def _process(model=None, side=None):
    with contextlib.closing(
            side_by_side.Worker("ours", "benchmarks.tiling", sys.argv[1:])) as process:
        if model:
            process.call("load", model=model, side=side)
        yield process


def worker(args: argparse.Namespace) -> side_by_side.Methods:
    """The methods of a process."""
    side_by_side.tensorflow(args.threads)
    from common import coding, export, tiles, zoo

    state = {}

    def load(model, side):
        if model.endswith(".py"):
            path = pathlib.PurePath(model)
            config = importlib.import_module(".".join(path.with_suffix("").parts)).get_config()
            model_class = zoo.CODECS[f"{path.parts[0]}.models"]
            state["model"] = export.build(model_class, config.to_dict())
            state["model"].prepare_coding()
            state["model"].fingerprint = "0" * 64  # stands in for an exported model's
        else:
            state["model"] = zoo.load(model)
        if side is not None:
            tiles.SIDE = tiles.LATENT_SIDE = side

    def measured(function, argument):
        start = time.perf_counter()
        result = function(state["model"], argument)
        name = function.__name__
        return result, {
            f"{name} seconds": time.perf_counter() - start,
            # KiB -> GiB
            f"{name} GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}

    def compress(image, name):
        ntc, row = measured(coding.compress, np.load(image))
        pathlib.Path(f"{name}.ntc").write_bytes(ntc)
        return row | {"bytes": len(ntc)}

    def decompress(name):
        pixels, row = measured(coding.decompress, _read(name))
        np.save(f"{name}.npy", pixels)
        return row

    def difference(name, whole):
        ours, theirs = (coding.decode(state["model"], _read(path)) for path in (name, whole))
        # Means follow from z; where they move y by little, its symbol is the same.
        symbols = np.concatenate([
            np.round(np.abs(value - theirs.latents[key])).ravel()
            for key, value in ours.latents.items()])
        pixels, reference = (np.load(f"{path}.npy").astype(int) for path in (name, whole))
        decoded_whole = coding.reconstruct(state["model"], ours)
        return {
            "symbols differing": float(np.mean(symbols > 0)),
            "pixels differing": float(np.mean(np.any(pixels != reference, axis=-1))),
            "pixels by at most": int(np.max(np.abs(pixels - reference))),
            "same file by at most": int(np.max(np.abs(pixels - decoded_whole))),
        }

    return {"load": load, "compress": compress, "decompress": decompress,
            "difference": difference}


def _read(name):
    return pathlib.Path(f"{name}.ntc").read_bytes()


if __name__ == "__main__":
    main()
