"""Bytes of the zoo's models and of JPEG at equal PSNR: `python -m benchmarks.versus_jpeg`.

Each image is coded by each model to a real file. JPEG (4:2:0, optimised Huffman tables) codes it
at every quality from 1 to 95; its size at the model's PSNR is interpolated, in the logarithm,
between the two qualities around it. Sizes are compared image by image; images at whose PSNR there
is no JPEG are left out and counted. A model with levels codes at quality 50, or at those of
--quality, and each is a row.
"""

from __future__ import annotations

import argparse
import datetime
import math

import numpy as np
import tqdm

from benchmarks.side_by_side import RESULTS
from common import export, files, jpeg, result_tables, zoo
from common.cli import add_option, report
from common.lazy import coding, data, metrics, targets

QUALITIES = range(1, 96)


def jpeg_bytes_at(image: np.ndarray, psnrs: list[float]) -> list[float]:
    """Sizes in bytes of the JPEG files of `image` with these PSNRs in dB; NaN out of range."""
    points = [(metrics.psnr(image, jpeg.decode(file)), math.log(len(file)))
              for file in (jpeg.encode(image, quality) for quality in QUALITIES)]
    measured, logarithms = np.array(sorted(points)).T
    return np.exp(np.interp(psnrs, measured, logarithms, left=np.nan, right=np.nan)).tolist()


def trained_for_mse() -> list[str]:
    """Names of the released models whose loss is bpp + lambda MSE of files of one image.

    Bits-back ones need a chain of images, and that of HiFiC has LPIPS too.
    """
    return [name for name, path in export.released_models().items()
            if export.read_module(path) != zoo.BITS_BACK
            and not export.read_config(path)["train"].get("lpips_weight")]


@report
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_option(parser, ["--model"], ["--models"], nargs="+", default=trained_for_mse(),
               metavar="MODEL", help="default: %(default)s")
    parser.add_argument("--dataset", default="kodak")
    parser.add_argument("--quality", type=float, nargs="+", metavar="Q",
                        help="0 to 100, of models with levels only")
    args = parser.parse_args()
    models, levels = {}, {}
    for name in args.model:
        model = zoo.load(name)
        for quality in args.quality or [None]:
            title = name if quality is None else f"{name}, quality {quality:g}"
            models[title], levels[title] = model, targets.level(model, quality)
    rows = {name: [] for name in models}
    for source in tqdm.tqdm(data.find(args.dataset), unit="image", disable=None):
        image = source.read()
        measured = {name: coding.measure(model, image, levels[name])[0]
                    for name, model in models.items()}
        sizes = jpeg_bytes_at(image, [row["psnr"] for row in measured.values()])
        for (name, row), size in zip(measured.items(), sizes):
            rows[name].append({
                "image": source.name,
                **{key: row[key] for key in ("bytes", "bpp", "estimated_bpp", "integer_bpp",
                                             *metrics.METRICS)},
                "file / estimate": row["bpp"] / row["estimated_bpp"],
                "JPEG bytes": size,
                "saved": 1 - row["bytes"] / size,
            })
    means = []
    for name in models:
        print(f"\n{name}")
        compared = [row for row in rows[name] if math.isfinite(row["JPEG bytes"])]
        images = len(rows[name])
        if compared:
            rows[name].append(result_tables.mean_row(compared))
            means.append({"model": name, **rows[name][-1]})
        print(result_tables.render(rows[name], rows[name][0].keys()))
        print(f"mean over {len(compared)} of {images} images, of which JPEG reaches the PSNR")
    path = RESULTS / "versus_jpeg.json"
    RESULTS.mkdir(parents=True, exist_ok=True)
    files.write_json(path, {
        "date": datetime.date.today().isoformat(), **result_tables.environment(),
        "dataset": args.dataset,
        "fingerprints": {name: model.fingerprint for name, model in models.items()},
        "levels": levels,
        "means": means, "rows": rows})
    print(f"written: {path}")


if __name__ == "__main__":
    main()
