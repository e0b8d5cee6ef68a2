"""The cost of bfloat16 in files and images: `python -m benchmarks.precision --dataset kodak`.

Every image is coded and decoded with transforms in float32 and in bfloat16. Against all in float32:

    decoding    the file that float32 wrote, decoded in bfloat16: PSNR lost, and the share of
                samples that differ at all, and by more than one level
    encoding    the file that bfloat16 wrote, decoded in float32: bytes, PSNR lost, and the rate
                it takes more for the same MSE, (dR + lambda dMSE) / R: to first order, for the
                model has been trained until -dR / dMSE is lambda

A model with levels codes at quality 50, and lambda is that of this level. Means over images; those
of single images are in the JSON.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import tqdm

from benchmarks import side_by_side, versus_jpeg
from common import export, precision, result_tables, zoo
from common.cli import add_option, report
from common.lazy import coding, data, metrics, targets

_OUTPUT = side_by_side.KEPT / "precision"


def compare(models: dict, rd_lambda: float, image: np.ndarray) -> dict[str, float]:
    """The row of one image, uint8 [H, W, 3]; of two models, by the names of their precision."""
    files = {name: coding.compress(model, image) for name, model in models.items()}
    reference = coding.decompress(models["float32"], files["float32"])
    decoded = coding.decompress(models["bfloat16"], files["float32"])
    encoded = coding.decompress(models["float32"], files["bfloat16"])
    size, other = (len(files[name]) for name in ("float32", "bfloat16"))
    pixels = image.shape[0] * image.shape[1]
    mse = metrics.mse(image, reference)
    change = 8 * (other - size) / pixels + rd_lambda * (metrics.mse(image, encoded) - mse)
    difference = np.abs(decoded.astype(int) - reference)
    return {
        "bytes": size,
        "psnr": metrics.psnr(image, reference),
        "decoding: dB lost": metrics.psnr(image, reference) - metrics.psnr(image, decoded),
        "samples differ": float(np.mean(difference > 0)),
        "by more than 1": float(np.mean(difference > 1)),
        "by at most": int(np.max(difference)),
        "encoding: bytes": other / size - 1,
        "encoding: dB lost": metrics.psnr(image, reference) - metrics.psnr(image, encoded),
        "rate at equal MSE": change / (8 * size / pixels),
    }


@report
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_option(parser, ["--model"], ["--models"], nargs="+", default=versus_jpeg.trained_for_mse(),
               metavar="MODEL", help="default: %(default)s")
    parser.add_argument("--dataset", default="photos/validation")
    parser.add_argument("--output", nargs="?", const=_OUTPUT,
                        help="write OUTPUT.json and OUTPUT.csv (without a name: %(const)s)")
    args = parser.parse_args()
    means, images = [], {}
    for name in args.model:
        models = {chosen: zoo.load(name, chosen) for chosen in side_by_side.PRECISIONS}
        level = targets.level(models["float32"], None)
        levels = models["float32"].levels
        rd_lambda = (float(levels.rd_lambda(level)) if levels else
                     export.read_config(export.find(name))["train"]["rd_lambda"])
        rows = [{"image": source.name, **compare(models, rd_lambda, source.read())}
                for source in tqdm.tqdm(data.find(args.dataset), desc=name, disable=None)]
        images[name] = rows
        means.append({"model": name, **{
            key: max(row[key] for row in rows) if key == "by at most"
            else statistics.fmean(row[key] for row in rows) for key in rows[0] if key != "image"}})
    print("\n".join(f"{key}: " + ", ".join(
        f"{row[key]:.6g}" if isinstance(row[key], float) else str(row[key]) for row in means)
        for key in means[0]))
    if args.output:
        result_tables.save(args.output, means, images=images, dataset=args.dataset,
                           bfloat16=precision.hardware())


if __name__ == "__main__":
    main()
