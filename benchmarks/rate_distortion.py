"""Rate and distortion of models, of classical codecs and of published curves, side by side.

    python -m benchmarks.rate_distortion --model mshyper joint_ar --codecs jpeg,avif
    python -m benchmarks.rate_distortion --refined experiments/sga --codecs jpeg

Every image becomes a real file, whose bytes are the rate; what it decodes to is measured as 8-bit
RGB. Rates and distortions are means over images (of PSNRs, not the PSNR of the mean error), and of
LPIPS too if its weights are there. Models of one folder, a codec's qualities, and levels of a model
that has some are the points of a curve (names are those of evaluate.py); so are the runs of an
experiment of refinement (`python -m <package>.itinf`), if they are of these images. Each curve is
compared with the anchor by BD-rate and BD-PSNR (see bd.py). Below OUTPUT appear

    <curve>/<run>.json      every image of one model, at one of its levels if it has some, or at one
                            quality of a codec
    points.csv              the means of all points
    curves.json             the same with versions, settings and sources, and the comparison
    curves.png, curves.svg  the plot

The comparison has the seconds to encode and to decode an image too, of models in float32; they mean
something if the machine was idle. What is there is not measured again, so the same command goes on
where it was stopped. Published curves are those of published.json, and of Kodak.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import pathlib
import statistics
import sys
import time
from typing import Any

import numpy as np
import tqdm

import configs
import evaluate
from benchmarks import bd, classical, versus_jpeg
from benchmarks.side_by_side import KEPT, RESULTS
from common import export, files, result_tables
from common.cli import add_option, printable, report
from common.errors import UserError
from common.lazy import Axes, Figure, Lpips, data, metrics

OUTPUT = KEPT / "rate_distortion"
_SECONDS = ("encoding_time", "decoding_time")
PUBLISHED = pathlib.Path(__file__).with_name("published.json")
_DATASET = "kodak"  # of the published curves
_SHOWN = ("bpg", "vtm", "bmshj2018-factorized", "mbt2018-mean", "yang2020-sga")


def _decibels(ms_ssim):
    """Near 1, where all codecs are, differences would not be seen."""
    return math.inf if ms_ssim >= 1 else -10 * math.log10(1 - ms_ssim)


# What can be plotted over the rate: its label, and how it is drawn.
PANELS = {"psnr": ("PSNR (RGB), dB", float), "ms_ssim": ("MS-SSIM (RGB), dB", _decibels)}
# Thirteen that can be told apart on white and on black.
_COLORS = ("#d62728", "#1f83c6", "#ff7f0e", "#2ca02c", "#9467bd", "#17becf", "#e377c2", "#8c8c8c",
           "#bcbd22", "#b5764a", "#5b8ff9", "#c05a9d", "#6b8e23")
_LINES: dict[str, dict[str, Any]] = {
    "model": dict(linestyle="-", linewidth=2.2, marker="o", markersize=6),
    "codec": dict(linestyle="-", linewidth=1.2, marker="o", markersize=3),
    "published": dict(linestyle="--", linewidth=1.2),
}

# A curve is its kind ("model", "codec" or "published"), facts about it, and its "points", which
# are means over images, in the order of their rates.
Curve = dict


def load_judges() -> metrics.Judges:
    """LPIPS, if its weights are there."""
    return metrics.Judges(Lpips.load() if configs.LPIPS_WEIGHTS.exists() else None)


def measure(image: np.ndarray, num_bytes: int, decoded: np.ndarray, judges: metrics.Judges
            ) -> result_tables.Row:
    """Rate and distortions of a file.

    Args:
      image: the original, uint8 [H, W, 3].
      num_bytes: size of the file.
      decoded: what it decodes to, uint8 [H, W, 3].
      judges: LPIPS, or none.
    """
    return {"bytes": num_bytes, "bpp": 8 * num_bytes / (image.shape[0] * image.shape[1]),
            **metrics.all_metrics(image, decoded), **judges.of_pair(image, decoded)}


def evaluate_codec(name: str, quality: float, dataset: str, output: pathlib.Path,
                   judges: metrics.Judges) -> dict:
    """Codes every image of a data set with a classical codec, as `evaluate.evaluate_model` does.

    Args:
      name: key of `classical.CODECS`.
      quality: as its `encode` takes it.
      dataset: name, folder or glob.
      output: folder that gets <run>.json, or has it already.
      judges: LPIPS, or none.

    Returns:
      The content of <run>.json.
    """
    codec, sources = classical.find(name), data.find(dataset)
    run = f"{codec.unit}={quality:g}"
    path, names = output / f"{run}.json", [source.name for source in sources]
    facts = {"codec": name, "quality": quality, "settings": codec.settings,
             "library": codec.library, "dataset": dataset, "content": data.content(sources)}
    found = evaluate.read_result(path, facts, names, judges)
    if found:
        return found
    rows = []
    for source in tqdm.tqdm(sources, desc=f"{name} {run}", unit="image", disable=None):
        image = source.read()
        start = time.perf_counter()
        file = codec.encode(image, quality)
        middle = time.perf_counter()
        decoded = codec.decode(file)
        seconds = dict(zip(_SECONDS, (middle - start, time.perf_counter() - middle)))
        rows.append({"image": source.name, **measure(image, len(file), decoded, judges), **seconds})
    result = {"run": run, **facts, **result_tables.environment(),
              "mean": result_tables.mean_row(rows), "images": rows}
    output.mkdir(parents=True, exist_ok=True)
    files.write_json(path, result)
    return result


def _curve(kind: str, about: dict, results: list[dict]) -> Curve:
    kept = ("bpp", *metrics.METRICS, "lpips", *_SECONDS)
    points = [{"run": result["run"], **{
        score: result["mean"][score] for score in kept if score in result["mean"]}}
        for result in results]
    return {"kind": kind, **about, "points": sorted(points, key=lambda point: point["bpp"])}


def model_curve(paths: list[pathlib.Path], dataset: str, output: pathlib.Path,
                judges: metrics.Judges) -> Curve:
    """The curve of exported models, measured as far as it is not below `output` yet."""
    results = [result for path in paths for result in evaluate.evaluate_model(
        path, dataset, output, save_images=False, skip_existing=True, judges=judges)]
    for result in results:
        for image, reason in result["missing"].items():
            raise UserError(f"{output.name} cannot code {image} ({reason}); curves need the same "
                            "images, so leave it out of --dataset, or this model out of --model")
    return _curve("model", {"fingerprints": [export.fingerprint(path) for path in paths]}, results)


def codec_curve(name: str, dataset: str, output: pathlib.Path, judges: metrics.Judges) -> Curve:
    """The curve of a classical codec, measured as far as it is not below `output` yet."""
    codec = classical.find(name)
    return _curve("codec", {"title": codec.title, "library": codec.library,
                            "settings": codec.settings},
                  [evaluate_codec(name, quality, dataset, output, judges)
                   for quality in codec.qualities])


def refined_curve(experiment: pathlib.Path, dataset: str) -> Curve:
    """The curve of what refinement coded of a data set: the runs of an experiment are its points.

    Args:
      experiment: folder of the runs of `python -m <package>.itinf`.
      dataset: name, folder or glob.

    Raises:
      UserError: no run is finished, or they are of other images or of several methods.
    """
    results, names = [], [source.name for source in data.find(dataset)]
    fingerprints, methods = [], []
    for path in sorted(experiment.glob("*/results.json")):
        try:
            found = json.loads(path.read_text())
            *rows, mean = map(result_tables.read_row, found["rows"])
            # Of models trained for a rate, the rate's weight is what lambda is of others.
            methods.append([found[key] for key in ("method", "distortion", "lpips_weight")])
            fingerprints.append(found["fingerprint"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path} is damaged, or not of refinement") from None
        if [row["image"] for row in rows] != names:
            raise UserError(f"{path} is of {found['dataset']}, or a part of it, not of {dataset}")
        results.append({"run": path.parent.name, "mean": {
            name.removeprefix("refined."): value for name, value in mean.items()
            if name.startswith("refined.")}})
    if not results:
        raise UserError(f"{experiment}: no run in it has finished refinement")
    if any(method != methods[0] for method in methods):
        raise UserError(f"{experiment}: its runs have different methods or losses; a curve needs "
                        "the same for all")
    return _curve("model", {"fingerprints": fingerprints, "experiment": str(experiment)}, results)


def published_curves(names: list[str]) -> dict[str, Curve]:
    """Curves of published.json. Raises UserError."""
    return {
        name: {"kind": "published", "source": found["source"], "note": found["note"],
               "points": [dict(zip(("bpp", "psnr", "ms_ssim"), point)) for point in zip(
                   *(found[key] for key in ("bpp", "psnr", "ms_ssim") if key in found))]}
        for name, found in evaluate.read_published(str(PUBLISHED), names).items()}


def compare(curves: dict[str, Curve], anchor: str, psnrs: bd.Range | None
            ) -> list[result_tables.Row]:
    """BD-rate and BD-PSNR of all curves against one of them, the best first.

    Args:
      curves: by name.
      anchor: the one to compare with.
      psnrs: lowest and highest PSNR in dB; None for all that a curve shares with the anchor.

    Returns:
      For each curve its name, kind, number of points, bd_rate in percent, bd_psnr in dB, the ranges
      these are over (psnrs in dB, rates in bits per pixel), encoding_time and decoding_time of an
      image in seconds, means over the points, and a note. Numbers that do not exist are NaN.

    Raises:
      UserError: the anchor has fewer than two points.
    """
    of = {name: bd.Curve.of(*zip(*((point["bpp"], point["psnr"]) for point in curve["points"])))
          for name, curve in curves.items()}
    if len(of[anchor].bpp) < 2:
        raise UserError(f"'{anchor}' is not a curve; an anchor needs two points of rising PSNR")
    rows = []
    for name, curve in curves.items():
        if name == anchor:
            continue
        delta = bd.compare(of[anchor], of[name], psnrs or bd.UNLIMITED)
        rows.append({
            "curve": name, "kind": curve["kind"], "points": len(curve["points"]),
            "bd_rate": delta.rate, "bd_psnr": delta.psnr, "psnrs": delta.psnrs,
            "rates": delta.rates, **_seconds(curve), "note": _note(curve, of[name], delta, psnrs)})
    return sorted(rows, key=lambda row: (math.isnan(row["bd_rate"]), row["bd_rate"]))


def _seconds(curve):
    """Means of a curve's points; NaN where they were not measured."""
    return {key: statistics.fmean(point.get(key, math.nan) for point in curve["points"])
            for key in _SECONDS}


def _note(curve, used, delta, psnrs):
    """The remarks on a comparison."""
    notes = []
    if len(used.bpp) < len(curve["points"]):
        notes.append(f"{len(used.bpp)} points used: others need more bits for no higher PSNR, or "
                     "have none that is finite")
    if len(used.bpp) < 2:
        notes.append("fewer than two points are no curve")
    elif math.isnan(delta.rate):
        notes.append("no PSNR in common" + " in that range" * bool(psnrs))
    elif len(used.bpp) == 2:
        notes.append("two points, joined straight over log rate")
    if psnrs and not math.isnan(delta.rate) and delta.psnrs != psnrs:
        notes.append("covers less than was asked for")
    return "; ".join(notes)


def cells(row: result_tables.Row) -> dict[str, str]:
    """A row of `compare` as people read it, by column."""
    def number(value, digits, sign="+"):
        return "" if math.isnan(value) else f"{value:{sign}.{digits}f}"

    def ends(values, digits):
        low, high = values
        return "" if math.isnan(low) else f"{low:.{digits}f} to {high:.{digits}f}"

    return {"curve": row["curve"], "points": str(row["points"]),
            "BD-rate, %": number(row["bd_rate"], 1), "over dB": ends(row["psnrs"], 1),
            "BD-PSNR, dB": number(row["bd_psnr"], 2), "over bpp": ends(row["rates"], 2),
            "encode, s": number(row["encoding_time"], 3, ""),
            "decode, s": number(row["decoding_time"], 3, ""),
            "note": row["note"]}


def draw(axes: Axes, curves: dict[str, Curve], score: str) -> None:
    """Draws one of `PANELS`: a score over bits per pixel."""
    label, scale = PANELS[score]
    # Published curves reach far beyond the rates of interest.
    measured = [curve for curve in curves.values() if curve["kind"] != "published"]
    limit = 1.03 * max(point["bpp"] for curve in measured or curves.values()
                       for point in curve["points"])
    shown, lines = [], {}
    for i, (name, curve) in enumerate(curves.items()):
        points = [(point["bpp"], scale(point.get(score, math.nan))) for point in curve["points"]]
        points = [point for point in points if math.isfinite(point[1])]
        if points:
            lines[printable(name)], = axes.plot(
                *zip(*points), color=_COLORS[i % len(_COLORS)], **_LINES[curve["kind"]])
            shown += [value for bpp, value in points if bpp <= limit]
    axes.set(xlabel="bits per pixel", ylabel=label, xlim=(0, limit))
    if shown:
        axes.set_ylim(min(shown) - 0.5, max(shown) + 0.5)
        # Named here, for labels of lines that begin with _ would be left out.
        for name in axes.legend(lines.values(), lines, loc="lower right",
                                fontsize="small").get_texts():
            name.set_parse_math(False)
    axes.grid(alpha=0.3)


def plot(path: pathlib.Path, curves: dict[str, Curve], title: str) -> None:
    """Draws all panels side by side into `path`.png and `path`.svg."""
    figure = Figure(figsize=(14, 6.2), layout="constrained")
    for axes, score in zip(figure.subplots(1, len(PANELS)), PANELS):
        draw(axes, curves, score)
    figure.suptitle(printable(title), parse_math=False)
    for suffix in (".png", ".svg"):
        with files.replacing(path.with_suffix(suffix)) as temporary:
            figure.savefig(temporary, dpi=150)


def _names(text):
    return [name for name in text.split(",") if name]


@report
def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rate_distortion", description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", default=_DATASET,
                        help="name of a data set, folder or glob (default: %(default)s)")
    add_option(parser, ["--model"], ["--models", "--runs"], nargs="*", metavar="MODEL",
               default=versus_jpeg.trained_for_mse(),
               help="exported models, runs, experiments or names of the zoo (default: "
               "%(default)s)")
    parser.add_argument("--refined", nargs="*", type=pathlib.Path, default=[], metavar="FOLDER",
                        help="experiments of itinf, a curve each, named for the folder")
    parser.add_argument("--codecs", type=_names, default=[*classical.CODECS], metavar="A,B",
                        help="classical codecs, separated by commas (default: all: "
                        f"{','.join(classical.CODECS)})")
    parser.add_argument("--published", nargs="*", metavar="NAME",
                        help=f"published curves (default: {' '.join(_SHOWN)} if the data set is "
                        f"{_DATASET}, else none)")
    parser.add_argument("--anchor", default="jpeg",
                        help="the curve to compare with (default: %(default)s)")
    parser.add_argument("--range", nargs=2, type=float, metavar=("LOW", "HIGH"),
                        help="PSNRs in dB to compare over (default: all that a curve and the "
                        "anchor have)")
    add_option(parser, ["-o", "--output"], ["--output_dir"], type=pathlib.Path,
               default=RESULTS / OUTPUT.name,
               help="folder (default: results/benchmarks/rate_distortion); results are in one "
               "below it, named for the data set")
    args = parser.parse_args(argv)
    if args.range and not args.range[0] < args.range[1]:
        raise UserError(f"--range {args.range[0]:g} {args.range[1]:g}: need the lower PSNR first")
    if args.published and args.dataset != _DATASET:
        raise UserError(f"published curves are of {_DATASET}, not of {args.dataset}")
    if args.published is None:
        args.published = _SHOWN if args.dataset == _DATASET else ()
    runs = evaluate.find_runs(args.model) if args.model else {}
    published = published_curves(args.published)
    for name in args.codecs:
        classical.find(name)
    refined = [(path.resolve().name, path) for path in args.refined]
    names = [*runs, *(name for name, _ in refined), *args.codecs, *published]
    if len({*names}) < len(names):
        raise UserError(f"two curves have the same name: {', '.join(sorted(names))}")
    if args.anchor not in names:
        raise UserError(f"--anchor {args.anchor}: not one of the curves: {', '.join(names)}")

    for source in data.find(args.dataset):
        source.read()  # or nothing is measured
    read = {name: refined_curve(path, args.dataset) for name, path in refined}
    folder = evaluate.output_folder(args)
    folder.mkdir(parents=True, exist_ok=True)
    judges = load_judges()
    curves = {
        **{name: model_curve(paths, args.dataset, folder / name, judges)
           for name, paths in runs.items()},
        **read,
        **{name: codec_curve(name, args.dataset, folder / name, judges)
           for name in args.codecs},
        **published}
    psnrs = tuple(args.range) if args.range else None
    comparison = compare(curves, args.anchor, psnrs)
    points = [{"curve": name, "kind": curve["kind"], **point}
              for name, curve in curves.items() for point in curve["points"]]
    result_tables.write_csv(folder / "points.csv", points)
    files.write_json(folder / "curves.json", {
        "date": datetime.date.today().isoformat(), **result_tables.environment(),
        "dataset": args.dataset, "images": [source.name for source in data.find(args.dataset)],
        "anchor": args.anchor, "range": psnrs, "comparison": comparison, "curves": curves})
    plot(folder / "curves", curves, args.dataset)
    shown = [cells(row) for row in comparison]
    print(result_tables.render(shown, shown[0].keys() if shown else ()))
    print(statement(args.anchor, psnrs))
    print(f"written: {folder}")


def statement(anchor: str, psnrs: bd.Range | None) -> str:
    """The anchor of the comparison, and its range."""
    over = (f"from {psnrs[0]:g} to {psnrs[1]:g} dB" if psnrs else
            "over all PSNRs that a curve shares with it")
    return (f"BD-rate against {anchor}, {over}; BD-PSNR over the rates that {anchor} needs there, "
            "as far as the curve has them")


if __name__ == "__main__":
    main(sys.argv[1:])
