"""Rate-distortion evaluation of trained runs, with real files.

    python -m evaluate --runs experiments/mshyper-mbt2018 mshyper-small-1 --dataset kodak

A run is the folder of a run, of an experiment (all its runs), of an exported model, or a name of
the zoo. Models of one folder are the points of one curve. A model with levels is a curve by itself,
<folder>-<run>, of --points levels from the lowest to the highest, each of which is called
<run>-level=<level>. Below OUTPUT/<dataset>/ appear

    <curve>/<run>.json     every image of one model, or of one of its levels
    <curve>.json           the curve, in CompressAI's results schema
    curves.csv             all points
    curves.png             the plot, with any published curves asked for
    crops.png              with --figure, crops of originals and of what each model makes of them

LPIPS, FID and KID judge what PSNR does not see; their networks' weights come with `make lpips` and
`make inception`.
"""

import argparse
import contextlib
import functools
import json
import pathlib
import re
import shutil
import sys
from typing import NamedTuple

from matplotlib.figure import Figure

import codec
from common import coding, data, export, fidelity, images, metrics, tables
from common import precision as precisions
from common.cli import UserError, report
from common.files import replacing, write_json
from common.inception import Inception
from common.lpips import Lpips
from common.model import Codec

POINTS = 7  # of the curve of a model with levels; 13 would have these among them
_CROP = 256  # sides of the figure's crops, in pixels

# Names in our tables -> names in CompressAI's results files.
_SCHEMA = {"bpp": "bpp", "psnr": "psnr-rgb", "ms_ssim": "ms-ssim-rgb",
           "encoding_time": "encoding_time", "decoding_time": "decoding_time"}


def find_runs(names: list[str], keep_going: bool = False) -> dict[str, list[pathlib.Path]]:
    """The exported models behind the names of runs, grouped into curves.

    The name of a model's curve is a matter of the model alone, not of what else is evaluated.

    Args:
      names: of runs.
      keep_going: leave out those of which the rest could not be evaluated, with a line each.

    Raises:
      UserError: a name leads to no exported model, a run of an experiment has none yet, or two
        curves have one name; or there is no model at all.
    """
    curves, folders = {}, {}
    for name in names:
        runs = sorted(pathlib.Path(name).glob("wid=*")) or [name]
        for run in runs:
            with _leaving_out(keep_going):
                model = export.find(run).resolve()
                folder = model.parent.parent if model.name == "model" else model.parent
                curve = folder.name
                with contextlib.suppress(UserError):  # of a damaged model, when it is measured
                    if export.read_levels(model):
                        curve += f"-{run_name(model)}"  # as in the zoo
                if folders.setdefault(curve, folder) != folder:
                    raise UserError(f"{folders[curve]} and {folder} would be curves of one name; "
                                    "evaluate them into two folders --output")
                curves.setdefault(curve, []).append(model)
    if not curves:
        raise UserError(f"there is nothing to evaluate in {', '.join(names)}")
    return curves


@contextlib.contextmanager
def _leaving_out(keep_going):
    """Makes a `UserError` a line, if it is one to go on after."""
    try:
        yield
    except UserError as error:
        if not keep_going:
            raise
        print(f"left out: {error}", file=sys.stderr)


class Judges(NamedTuple):
    """The networks that judge images, as far as they are asked to.

    Attributes:
      lpips: for LPIPS of every image.
      inception: for FID and KID of the patches of all images.
    """

    lpips: Lpips | None = None
    inception: Inception | None = None

    @property
    def scores(self) -> list[str]:
        """What they add to a model's means."""
        return ["lpips"] * bool(self.lpips) + ["fid", "kid", "kid_error"] * bool(self.inception)


def evaluate_model(model_path: pathlib.Path, dataset: str, output: pathlib.Path,
                   save_images: bool, skip_existing: bool, judges: Judges,
                   precision: str = "float32", points: int = POINTS) -> list[dict]:
    """Codes every image of a data set with one model, at each of its points.

    Args:
      model_path: folder of an exported model.
      dataset: name, folder or glob.
      output: folder that gets <run>.json for each point, and its decoded images below <run>/.
      save_images: write the decoded images.
      skip_existing: read those <run>.json that are of this model and data set already.
      judges: see there.
      precision: of the transforms, as of `codec.load_model`.
      points: how many, at most, in a model with levels; as of `points_of`.

    Returns:
      The content of <run>.json of each point: the model's fingerprint, the point as from
      `points_of`, precision and environment, a row for each image and the row of means, which has
      FID and KID too.
    """
    sources = data.find(dataset)
    names = [source.name for source in sources]
    facts = {"fingerprint": export.fingerprint(model_path), "dataset": dataset,
             "precision": precisions.choose(precision)}
    if save_images and len({decoded_path(output, image) for image in names}) < len(names):
        raise UserError(f"images of {dataset} have the same name; their decoded ones would too")
    load = functools.cache(lambda: codec.load_model(model_path, facts["precision"]))
    results = []
    for run, point in points_of(model_path, points).items():
        path, folder, result = output / f"{run}.json", output / run, None
        if skip_existing and (not save_images or folder.is_dir()):
            result = read_result(path, facts, names, judges)
        if not result:
            result = {
                "run": run, **facts, **point, **tables.environment(),
                **_measure(load(), point.get("level"), sources, folder, save_images, judges)}
            write_json(path, result)
        results.append(result)
    return results


def points_of(model_path: pathlib.Path, number: int) -> dict[str, dict]:
    """What is measured of an exported model, by the names of the results.

    Args:
      model_path: its folder.
      number: of levels, from the lowest to the highest, or all if it has fewer.

    Returns:
      For each point its rd_lambda and rate_target; if it has levels its level and quality too.
    """
    run, levels = run_name(model_path), export.build_levels(model_path)
    train = export.read_config(model_path)["train"]
    target = {"rate_target": train.get("rate_target")}
    if not levels:
        return {run: {"rd_lambda": train["rd_lambda"], **target}}
    return {f"{run}-level={level}": {
        "level": level, "quality": levels.quality(level),
        "rd_lambda": float(levels.rd_lambda(level)), **target} for level in levels.spread(number)}


def _measure(model: Codec, level: int | None, sources: list[data.Source], folder: pathlib.Path,
             save_images: bool, judges: Judges) -> dict:
    """Codes all images at one point; leaves them in `folder`, or with `save_images` false nothing.

    Returns:
      The row of means as "mean", and as "images" the row of each image.
    """
    comparison, rows = fidelity.Comparison(judges.inception) if judges.inception else None, []
    with replacing(folder) as temporary:
        temporary.mkdir(parents=True)
        for source, (row, decoded) in zip(
                sources, coding.measure_all(model, sources, folder.name, level)):
            if judges.lpips:
                row["lpips"] = metrics.lpips(source.read(), decoded, judges.lpips)
            if comparison:
                comparison.add(source.read(), decoded)
            rows.append(row)
            if save_images:
                images.write(decoded_path(temporary, row["image"]), decoded)
    if not save_images:  # those of another model may have been there
        shutil.rmtree(folder)
    return {"mean": {**tables.mean_row(rows), **(comparison.scores() if comparison else {})},
            "images": rows}


def read_result(path: pathlib.Path, facts: dict, names: list[str], judges: Judges) -> dict | None:
    """What an earlier evaluation wrote, if it was the same.

    Args:
      path: of <run>.json, which may be missing or damaged.
      facts: entries that it must have, such as the model's fingerprint and the data set.
      names: of the images, in their order.
      judges: whose scores it must have, if not others too.
    """
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        found = json.loads(path.read_text())
        found["mean"] = tables.read_row(found["mean"])
        found["images"] = [tables.read_row(row) for row in found["images"]]
        if (found.items() >= facts.items() and [row["image"] for row in found["images"]] == names
                and found["mean"].keys() >= {*judges.scores}):
            return found
    return None


def run_name(model_path: pathlib.Path) -> str:
    """What the results of an exported model are called; of one with levels, how they begin."""
    return model_path.parent.name if model_path.name == "model" else model_path.name


def decoded_path(folder: pathlib.Path, image: str) -> pathlib.Path:
    """Where the decoded image is that is called `image` in the rows."""
    return folder / f"{image.removesuffix('.png')}.png"


def to_schema(name: str, results: list[dict]) -> dict:
    """A curve in CompressAI's results schema, points in the order of their rates."""
    means = sorted((result["mean"] for result in results), key=lambda mean: mean["bpp"])
    return {
        "name": name,
        "description": f"ntc-zoo, {results[0]['dataset']}, bpp of whole files, means over images",
        "results": {theirs: [mean[ours] for mean in means] for ours, theirs in _SCHEMA.items()},
    }


def read_published(path: str, names: list[str]) -> dict[str, dict]:
    """Published curves by name: {name: {"bpp": [...], "psnr": [...], ...}}.

    Raises:
      UserError: the file cannot be read, or has no such curve.
    """
    try:
        published = json.loads(pathlib.Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(published, dict):
        raise UserError(f'{path}: need {{"<name>": {{"bpp": [...], "psnr": [...]}}}}')
    for name in names:
        if name not in published:
            raise UserError(f"{path} has no curve '{name}'; it has: {', '.join(published)}")
        if not {"bpp", "psnr"} <= published[name].keys():
            raise UserError(f"{path}: the curve '{name}' lacks bpp or psnr")
    return {name: published[name] for name in names}


def plot(path: pathlib.Path, curves: dict[str, list[dict]], published: dict[str, dict],
         title: str) -> None:
    """PSNR over bits per pixel: our curves in full lines, published ones dashed."""
    figure = Figure(figsize=(8, 6))
    axes = figure.subplots()
    for name, curve in published.items():
        axes.plot(curve["bpp"], curve["psnr"], "--", linewidth=1, label=name)
    for name, results in curves.items():
        means = sorted((result["mean"] for result in results), key=lambda mean: mean["bpp"])
        axes.plot([m["bpp"] for m in means], [m["psnr"] for m in means], "o-", label=name)
    if published and curves:
        # Published curves reach far beyond the rates of interest.
        rates = [result["mean"]["bpp"] for results in curves.values() for result in results]
        axes.set_xlim(0, 2 * max(rates))
    axes.set(xlabel="bits per pixel", ylabel="PSNR (RGB), dB", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, bbox_inches="tight")


def draw_crops(path: pathlib.Path, sources: list[data.Source],
               columns: list[tuple[str, dict, pathlib.Path]]) -> None:
    """Crops from the middle of images: the original, and what each model makes of it.

    Args:
      path: file to write.
      sources: the images, one a row.
      columns: for each model its name, its results as from `evaluate_model`, and the folder of its
        decoded images.
    """
    figure = Figure(figsize=(3 * (1 + len(columns)), 3.4 * len(sources)), layout="constrained")
    axes = figure.subplots(len(sources), 1 + len(columns), squeeze=False)
    for line, source in zip(axes, sources):
        line[0].imshow(_crop(source.read()))
        line[0].set_title(source.name, fontsize=9)
        for cell, (name, result, folder) in zip(line[1:], columns):
            row = next(row for row in result["images"] if row["image"] == source.name)
            cell.imshow(_crop(images.read(decoded_path(folder, source.name))))
            lpips = f", LPIPS {row['lpips']:.3f}" if "lpips" in row else ""
            cell.set_title(f"{name}\n{row['bpp']:.3f} bpp, {row['psnr']:.2f} dB{lpips}", fontsize=9)
    for cell in axes.flat:
        cell.axis("off")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _columns(curves: dict[str, list[dict]], folder: pathlib.Path
             ) -> list[tuple[str, dict, pathlib.Path]]:
    """What `draw_crops` shows of curves: every model, each at one level if it has some."""
    columns = []
    for name, results in curves.items():
        if "level" in results[0]:
            middle = min(results, key=lambda result: abs(result["quality"] - 50))
            titled = {f"{name}, quality {middle['quality']:g}": middle}
        elif len(results) == 1:
            titled = {name: results[0]}
        else:
            titled = {f"{name} {result['run']}": result for result in results}
        columns += [(title, result, folder / name / result["run"])
                    for title, result in titled.items()]
    return columns


def _crop(image):
    top, left = (max(0, side - _CROP) // 2 for side in image.shape[:2])
    return image[top:top + _CROP, left:left + _CROP]


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the command line. Raises UserError for options that do not go together."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluate", description="Rate-distortion evaluation.",
        parents=[codec.precision_option("float32")])
    parser.add_argument("--runs", nargs="+", required=True, metavar="RUN",
                        help="folders of runs, experiments or exported models, or zoo names")
    parser.add_argument("--dataset", default="kodak",
                        help="name of a data set, folder or glob (default: %(default)s)")
    parser.add_argument("--output", default="results", help="folder (default: %(default)s)")
    parser.add_argument("--save_images", action="store_true", help="write the decoded images")
    parser.add_argument("--lpips", action="store_true",
                        help="measure LPIPS too; its weights come with `make lpips`")
    parser.add_argument("--fid", action="store_true",
                        help="measure FID and KID of 256 x 256 patches too, which takes as long "
                        "again; the weights come with `make inception`")
    parser.add_argument("--figure", type=int, default=0, metavar="N",
                        help="draw crops of the first N images beside those of every model, in the "
                        "order of RUN; of a model with levels at the point that is nearest to "
                        "quality 50")
    parser.add_argument("--points", type=int, default=POINTS, metavar="N",
                        help="of the curve of a model with levels, from its lowest level to its "
                        "highest (default: %(default)s)")
    parser.add_argument("--skip_existing", action="store_true",
                        help="do not repeat evaluations that are there already")
    parser.add_argument("--keep_going", action="store_true",
                        help="leave out runs without an exported model that can be read, with a "
                        "line each")
    parser.add_argument("--published", metavar="JSON", help="file of published curves")
    parser.add_argument("--curves", nargs="+", default=[], metavar="NAME",
                        help="which of the published curves to plot")
    args = parser.parse_args(argv)
    if bool(args.curves) != bool(args.published):
        raise UserError("--published (the file) and --curves (the names) need each other")
    if args.figure < 0:
        raise UserError(f"--figure {args.figure}: need the number of images to draw")
    if args.points < 2:
        raise UserError(f"--points {args.points}: a curve needs 2 or more")
    return args


def output_folder(args: argparse.Namespace) -> pathlib.Path:
    """Where the results for a data set are."""
    return pathlib.Path(args.output, re.sub(r"[^\w.]+", "-", args.dataset).strip("-"))


def run(argv: list[str], collect: bool = True) -> None:
    """What the command line asks for.

    Args:
      argv: the command line.
      collect: write curves too. Evaluations of several runs at once, which have these files in
        common, leave that to one after them, with --skip_existing.

    Raises:
      UserError: a mistake in it, or a run that cannot be evaluated.
    """
    args = parse(argv)
    published = read_published(args.published, args.curves) if args.published else {}
    folder = output_folder(args)
    judges = Judges(Lpips.load() if args.lpips else None, Inception.load() if args.fid else None)
    curves = {}
    for name, models in find_runs(args.runs, args.keep_going).items():
        for model in models:
            with _leaving_out(args.keep_going):
                results = evaluate_model(
                    model, args.dataset, folder / name, args.save_images or args.figure > 0,
                    args.skip_existing, judges, args.precision, args.points)
                curves.setdefault(name, []).extend(results)
    if not collect:
        return
    if not curves:
        raise UserError("no run is left to evaluate")
    for name, results in curves.items():
        write_json(folder / f"{name}.json", to_schema(name, results))
    rows = [{"curve": name, "run": result["run"],
             **{key: result.get(key) for key in ("level", "quality", "rd_lambda", "rate_target")},
             **{key: value for key, value in result["mean"].items() if key != "image"}}
            for name, results in curves.items() for result in results]
    tables.write_csv(folder / "curves.csv", rows)
    plot(folder / "curves.png", curves, published, args.dataset)
    if args.figure:
        draw_crops(folder / "crops.png", data.find(args.dataset)[:args.figure],
                   _columns(curves, folder))
    print(tables.render(rows, columns=(
        "curve", "run", "bpp", "estimated_bpp", "psnr", "psnr_y", "ms_ssim", *judges.scores,
        "encoding_time", "decoding_time")))
    print(f"written: {folder}")


main = report(run)


if __name__ == "__main__":
    main(sys.argv[1:])
