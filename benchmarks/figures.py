"""Pictures that tell how good the models are: `python -m benchmarks.figures`.

    rate_distortion.svg    curves of Kodak, as benchmarks.rate_distortion measured them
    decoding.svg           their BD-rates over what decoding costs, in FLOPs and in seconds
    crops.png              a photograph at equal bytes, of a model and of other codecs
    perceptual.png         photographs at equal bytes, of hific and of the model

The photographs ship inside scikit-image and scikit-learn; the other codecs, and the model beside
hific, have the best quality whose file is no larger.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import sys
from collections.abc import Sequence

from benchmarks import bd, complexity, rate_distortion, report
from benchmarks.side_by_side import RESULTS
from common import export, zoo
from common.cli import report as reporting
from common.files import replacing
from common.lazy import Figure, coding, data, metrics, pictures, targets

OUTPUT = RESULTS / "figures"
# Besides the zoo's models.
CURVES = ("jpeg", "webp", "jpeg2000", "avif", "bpg", "vtm", "mbt2018-mean")
# FLOPs a pixel to decode, as Yang & Mandt 2023 count them (their flops_per_pixel.csv).
PUBLISHED_FLOPS = {"mbt2018-mean": 217_940, "yang2023-two-layer": 41_035,
                   "yang2023-two-layer-sga": 41_035, "minnen2020": 700_600, "elic2022": 763_976}
# In dB: from where all models' curves begin.
PSNRS = (28.3, 37.0)
CODECS = ("avif", "webp", "jpeg")
IMAGE, TOP, LEFT, SIDE = "photos/validation", 90, 170, 224
CORNERS = ((90, 170), (100, 200))  # of the crops of perceptual.png: top, left


def draw_curves(path: pathlib.Path, results: dict) -> None:
    """PSNR over rate, of all models and of `CURVES`, from `report.read_results`."""
    curves = {name: curve for name, curve in results["curves"].items()
              if curve["kind"] == "model" or name in CURVES}
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    rate_distortion.draw(axes, curves, "psnr")
    axes.set_title(f"{results['dataset'].capitalize()}: whole files; dashed: as published")
    with replacing(path) as temporary:
        figure.savefig(temporary, metadata={"Date": None})


def draw_decoding(path: pathlib.Path, results: dict, psnrs: bd.Range = PSNRS) -> None:
    """Bits saved over what decoding costs: kFLOPs a pixel, and seconds for an image.

    Args:
      path: file to write.
      results: of `report.read_results`. FLOPs are those of models of the zoo and of
        `PUBLISHED_FLOPS`, seconds those that were measured.
      psnrs: to compare over; what a curve does not reach of them is left out of its BD-rate.
    """
    curves = {name: curve for name, curve in results["curves"].items()
              if curve["kind"] != "published" or name == results["anchor"]}
    if results["dataset"] == "kodak":  # as published curves are
        curves |= rate_distortion.published_curves([*PUBLISHED_FLOPS])
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    of_flops, of_seconds = figure.subplots(1, 2, sharey=True)
    for row in rate_distortion.compare(curves, results["anchor"], psnrs):
        name = row["curve"]
        flops = PUBLISHED_FLOPS.get(name) or decoding_flops(curves[name].get("fingerprints", ()))
        for axes, cost in ((of_flops, flops / 1e3), (of_seconds, row["decoding_time"])):
            if math.isfinite(cost) and math.isfinite(row["bd_rate"]):
                published = row["kind"] == "published"
                axes.plot(cost, row["bd_rate"], "o", fillstyle="none" if published else "full",
                          color="#d62728" if row["kind"] == "model" else "#8c8c8c")
                axes.annotate(name, (cost, row["bd_rate"]), (-6 if published else 6, 3),
                              ha="right" if published else "left", textcoords="offset points",
                              fontsize="small", parse_math=False)
    of_flops.set(xlabel="kFLOPs a pixel to decode", xscale="log",
                 ylabel=f"BD-rate to {results['anchor']}, %, {psnrs[0]:g} to {psnrs[1]:g} dB")
    of_seconds.set(xlabel=f"seconds to decode an image, {results['cores']} CPU cores",
                   xscale="log")
    for axes in (of_flops, of_seconds):
        axes.margins(x=0.3, y=0.1)
        axes.grid(alpha=0.3)
    figure.suptitle(f"{results['dataset'].capitalize()}: lower and to the left is better; hollow: "
                    "as published", fontsize="medium")
    with replacing(path) as temporary:
        figure.savefig(temporary, metadata={"Date": None})


def decoding_flops(fingerprints: Sequence[str]) -> float:
    """FLOPs a pixel to decode with the released model of a curve's `fingerprints`; NaN for others.

    They are in complexity.json, under whatever config has that model.
    """
    path = next((path for path in export.released_models().values()
                 if export.fingerprint(path) in fingerprints), None)
    if path is None:
        return math.nan
    config = export.read_config(path)
    model = {key: value for key, value in config["model"].items() if key != "levels"}
    counted = json.loads(complexity.OUTPUT.read_text())["configs"]
    return next((each["decoder"]["flops_per_pixel"] for name, each in counted.items()
                 if name.startswith(f"{config['package']}/") and each["model"] == model), math.nan)


def draw_crops(path: pathlib.Path, name: str, quality: float) -> None:
    """A crop of one photograph: the original, and what each codec makes of it."""
    model = zoo.load(name)
    coded = report.code(data.find(IMAGE)[0].read(), name, model, CODECS,
                        rate_distortion.load_judges(),
                        targets.level(model, quality) if model.levels else None)
    pictures.draw(path, [{
        picture.name + (f"\n{picture.row['bytes']:,} bytes, {picture.row['psnr']:.2f} dB"
                        if picture.row else ""):
        picture.image[TOP:TOP + SIDE, LEFT:LEFT + SIDE] for picture in coded}])


def draw_perceptual(path: pathlib.Path, name: str, other: str, quality: float = 4) -> None:
    """Crops of photographs: the originals, and what two models make of them.

    Args:
      path: file to write.
      name: of the model that codes at `quality`.
      other: of the model whose files are as large at most.
      quality: as in codec.
    """
    models, rows = {each: zoo.load(each) for each in (name, other)}, []
    for source, (top, left) in zip(data.find(IMAGE), CORNERS):
        image = source.read()
        shown = {"Original": image}
        files = {name: models[name].compress(image, quality=quality)}
        files[other] = models[other].compress(image, max_bytes=len(files[name]))
        for each, file in files.items():
            decoded = coding.decompress(models[each], file)
            title = f"{each}\n{len(file):,} bytes, {metrics.psnr(image, decoded):.2f} dB"
            shown[title] = decoded
        rows.append({title: picture[top:top + SIDE, left:left + SIDE]
                     for title, picture in shown.items()})
    pictures.draw(path, rows)


@reporting
def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.figures", description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=pathlib.Path, default=rate_distortion.OUTPUT / "kodak",
                        help="folder that benchmarks.rate_distortion wrote (default: "
                        "benchmarks/results/rate_distortion/kodak)")
    parser.add_argument("--model", default=zoo.DEFAULT,
                        help="of the photograph (default: %(default)s)")
    parser.add_argument("--quality", type=float, default=10, help="default: %(default)s")
    parser.add_argument("--perceptual", default="hific", metavar="MODEL",
                        help="of perceptual.png (default: %(default)s)")
    parser.add_argument("-o", "--output", type=pathlib.Path, default=OUTPUT,
                        help="folder (default: results/benchmarks/figures)")
    args = parser.parse_args(argv)
    results = report.read_results(args.results)
    args.output.mkdir(parents=True, exist_ok=True)
    draw_curves(args.output / "rate_distortion.svg", results)
    draw_decoding(args.output / "decoding.svg", results)
    draw_crops(args.output / "crops.png", args.model, args.quality)
    draw_perceptual(args.output / "perceptual.png", args.perceptual, args.model)
    print(f"written: {args.output}")


if __name__ == "__main__":
    main(sys.argv[1:])
