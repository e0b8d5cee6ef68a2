"""Rate-distortion evaluation of trained runs, with real files.

    python -m evaluate --model experiments/mshyper-mbt2018 mshyper --dataset kodak

A model is the folder of an exported model, of a run, of an experiment (all its runs), or a name of
the zoo. Models of one folder are the points of one curve. A model with levels is a curve by itself,
<folder>-<run>, of --points levels from the lowest to the highest, each of which is called
<run>-level=<level>. Below OUTPUT/<dataset>/ appear

    <curve>/<run>.json     every image of one model, or of one of its levels
    <curve>.json           the curve, in CompressAI's results schema
    curves.csv             all points
    curves.png             the plot, with any published curves asked for
    crops.png              with --figure, crops of originals and of what each model makes of them

What cannot be read is named before anything is measured, and left out; all else is measured and
written, and the exit code is 2.

LPIPS, FID and KID judge what PSNR does not see; their networks' weights come with `make lpips` and
`make inception`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import pathlib
import re
import shutil
import sys
from collections.abc import Sequence

import codec
import configs
from common import export, images, result_tables, zoo
from common import precision as precisions
from common.cli import add_option, report
from common.curves import read_published, to_schema
from common.errors import UserError
from common.evaluation_figures import columns, decoded_path, draw_crops, plot
from common.files import replacing, write_json
from common.lazy import (
    Codec,
    Inception,
    Lpips,
    coding,
    data,
    fid,
    metrics,
)

POINTS = 7  # of the curve of a model with levels; 13 would have these among them


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
        runs = sorted(pathlib.Path(name).glob("wid=*")) or [pathlib.Path(name)]
        for run in runs:
            with _leaving_out(keep_going):
                model = export.find(run).resolve()
                folder = model.parent.parent if model.name == "model" else model.parent
                if folder == configs.ZOO_DIR.resolve():  # by itself in the zoo, in no family
                    folder = model
                curve = folder.name
                with contextlib.suppress(UserError):  # of a damaged model, when it is measured
                    if folder != model and export.read_levels(model):
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


def evaluate_model(model_path: pathlib.Path, dataset: str, output: pathlib.Path,
                   save_images: bool, skip_existing: bool, judges: metrics.Judges,
                   precision: str = "float32", points: int = POINTS,
                   sources: Sequence[data.Source] | None = None) -> list[dict]:
    """Codes every image of a data set with one model, at each of its points.

    Args:
      model_path: folder of an exported model.
      dataset: name, folder or glob.
      output: folder that gets <run>.json for each point, and its decoded images below <run>/.
      save_images: write the decoded images.
      skip_existing: read those <run>.json that are of this model and data set already.
      judges: see there.
      precision: of the transforms, as of `zoo.load`.
      points: how many, at most, in a model with levels; as of `points_of`.
      sources: the images of the data set to code, by default all.

    Returns:
      The content of <run>.json of each point: the model's fingerprint, the point as from
      `points_of`, precision and environment, a row for each image, the row of means, which has
      FID and KID too, and by name why images are missing.

    Raises:
      UserError: the model cannot be read, or none of the images can be coded.
    """
    sources = sources or data.find(dataset)
    names = [source.name for source in sources]
    facts = {"fingerprint": export.fingerprint(model_path), "dataset": dataset,
             "content": data.content(sources), "precision": precisions.choose(precision)}
    load = functools.cache(lambda: zoo.load(model_path, facts["precision"]))
    results = []
    for run, point in points_of(model_path, points).items():
        path, folder, result = output / f"{run}.json", output / run, None
        if skip_existing and (not save_images or folder.is_dir()):
            result = read_result(path, facts, names, judges)
        if not result:
            same = read_result(path, facts, names, metrics.Judges()) is not None
            result = {
                "run": run, **facts, **point, **result_tables.environment(),
                **_measure(load(), point.get("level"), sources, folder, save_images, judges)}
            output.mkdir(parents=True, exist_ok=True)
            if not (save_images or same):  # decoded images of another model
                shutil.rmtree(folder, ignore_errors=True)
            write_json(path, result)
        results.append(result)
    return results


def points_of(model_path: pathlib.Path, number: int) -> dict[str, dict]:
    """The points at which an exported model is measured, by the names of their results.

    Args:
      model_path: its folder.
      number: of levels, from the lowest to the highest, or all if it has fewer.

    Returns:
      For each point its rd_lambda and rate_target; of a model with levels, level and quality too.
    """
    run, levels = run_name(model_path), export.build_levels(model_path)
    train = export.read_config(model_path)["train"]
    target = {"rate_target": train.get("rate_target")}
    if not levels:
        return {run: {"rd_lambda": train["rd_lambda"], **target}}
    return {f"{run}-level={level}": {
        "level": level, "quality": levels.quality(level),
        "rd_lambda": float(levels.rd_lambda(level)), **target} for level in levels.spread(number)}


def _measure(model: Codec, level: int | None, sources: Sequence[data.Source], folder: pathlib.Path,
             save_images: bool, judges: metrics.Judges) -> dict:
    """Codes all images at one point, and writes them to `folder` if `save_images` is true.

    Returns:
      The row of means as "mean", as "images" the row of each image, and as "missing", by name, why
      others have none.
    """
    comparison = fid.Comparison(judges.inception) if judges.inception else None
    rows, missing = [], {}
    with replacing(folder) if save_images else contextlib.nullcontext() as temporary:
        if temporary:
            temporary.mkdir(parents=True)
        for source, row, decoded in _each(model, sources, folder.name, level, missing):
            row |= judges.of_pair(source.read(), decoded)
            if comparison:
                comparison.add(source.read(), decoded)
            rows.append(row)
            if temporary:
                images.write(decoded_path(temporary, row["image"]), decoded)
        if not rows:
            raise UserError(f"no image can be coded: {next(iter(missing.values()))}")
    return {"mean": {**result_tables.mean_row(rows), **(comparison.scores() if comparison else {})},
            "images": rows, "missing": missing}


def _each(model, sources, name, level, missing):
    """Every image with what `coding.measure_all` yields; why one has nothing goes to `missing`."""
    left = list(sources)
    while left:
        try:
            for row, decoded in coding.measure_all(model, [*left], name, level):
                yield left.pop(0), row, decoded
        except UserError as error:
            print(f"left out: {left[0].name}, {name}: {error}", file=sys.stderr)
            missing[left.pop(0).name] = str(error)


def read_result(path: pathlib.Path, facts: dict, names: list[str], judges: metrics.Judges
                ) -> dict | None:
    """The results that an earlier evaluation wrote, if it was the same.

    Args:
      path: of <run>.json, which may be missing or damaged.
      facts: entries that it must have, such as the model's fingerprint and the data set.
      names: of the images, in their order.
      judges: whose scores it must have, if not others too.
    """
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        found = json.loads(path.read_text())
        found["mean"] = result_tables.read_row(found["mean"])
        found["images"] = [result_tables.read_row(row) for row in found["images"]]
        if (found.items() >= facts.items() and [row["image"] for row in found["images"]] == names
                and found["mean"].keys() >= {*judges.scores}):
            return found
    return None


def run_name(model_path: pathlib.Path) -> str:
    """The name of an exported model's results; with levels, the beginning of their names."""
    return model_path.parent.name if model_path.name == "model" else model_path.name


def read_all(dataset: str) -> tuple[list[data.Source], dict[str, str]]:
    """The images of a data set that can be read, and why the others cannot, by name.

    Raises:
      UserError: there are none that can.
    """
    sources, missing = [], {}
    for source in data.find(dataset):
        try:
            source.read()
            sources.append(source)
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr)
            missing[source.name] = str(error)
    if not sources:
        raise UserError(f"none of the {len(missing)} images of {dataset} can be read")
    return sources, missing


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads the command line. Raises UserError for options that do not go together."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluate", description="Rate-distortion evaluation.",
        parents=[codec.precision_option("float32")])
    add_option(parser, ["--model"], ["--runs", "--models"], nargs="+", required=True,
               metavar="MODEL",
               help="folders of exported models, runs or experiments, or names of the zoo")
    parser.add_argument("--dataset", default="kodak",
                        help="name of a data set, folder or glob (default: %(default)s)")
    add_option(parser, ["-o", "--output"], ["--output_dir"], default="results",
               help="folder (default: %(default)s)")
    parser.add_argument("--save_images", action="store_true", help="write the decoded images")
    parser.add_argument("--lpips", action="store_true",
                        help="measure LPIPS too; its weights come with `make lpips`")
    parser.add_argument("--fid", action="store_true",
                        help="measure FID and KID of 256 x 256 patches too, which takes as long "
                        "again; the weights come with `make inception`")
    parser.add_argument("--figure", type=int, default=0, metavar="N",
                        help="draw crops of the first N images beside those of every model, in the "
                        "order of MODEL; of a model with levels at the point that is nearest to "
                        "quality 50")
    parser.add_argument("--points", type=int, default=POINTS, metavar="N",
                        help="of the curve of a model with levels, from its lowest level to its "
                        "highest (default: %(default)s)")
    parser.add_argument("--skip_existing", action="store_true",
                        help="do not repeat evaluations that are there already")
    parser.add_argument("--keep_going", action="store_true",
                        help="leave out runs without an exported model that can be read, with a "
                        "line each")
    parser.add_argument("--published", metavar="FILE", help="curves to plot beside: a file that "
                        "this software or CompressAI has written, or of published curves")
    parser.add_argument("--curves", nargs="+", default=[], metavar="NAME",
                        help="which of these curves to plot (default: all)")
    args = parser.parse_args(argv)
    if args.curves and not args.published:
        raise UserError("--curves (the names) needs --published (the file)")
    if args.figure < 0:
        raise UserError(f"--figure {args.figure}: need the number of images to draw")
    if args.points < 2:
        raise UserError(f"--points {args.points}: a curve needs 2 or more")
    return args


def output_folder(args: argparse.Namespace) -> pathlib.Path:
    """The folder of the results for a data set."""
    return pathlib.Path(args.output, re.sub(r"[^\w.]+", "-", args.dataset).strip("-"))


def run(argv: list[str], collect: bool = True) -> None:
    """Does what the command line asks for.

    Args:
      argv: the command line.
      collect: write curves too. Evaluations of several runs at once, which have these files in
        common, leave that to one after them, with --skip_existing.

    Raises:
      UserError: a mistake in it; or a run or an image that cannot be evaluated, after all others
        have been.
    """
    args = parse(argv)
    published = read_published(args.published, args.curves or None) if args.published else {}
    folder = output_folder(args)
    found = find_runs(args.model, args.keep_going)
    if not args.keep_going:
        for model in itertools.chain(*found.values()):  # what is quickly read of them
            zoo.find_class(model)
            points_of(model, args.points)
    judges = metrics.Judges(Lpips.load() if args.lpips else None,
                            Inception.load() if args.fid else None)
    sources, missing = read_all(args.dataset)
    names = [source.name for source in sources]
    if (args.save_images or args.figure) and len(
            {decoded_path(folder, name) for name in names}) < len(names):
        raise UserError(f"images of {args.dataset} have the same name; their decoded ones would "
                        "too")
    large = sum(min(source.size()) >= fid.PATCH_SIZE for source in sources)
    if judges.inception and large < fid.MIN_IMAGES:
        print(f"KID will be nan: it needs {fid.MIN_IMAGES} images or more with sides of at "
              f"least {fid.PATCH_SIZE} pixels; {args.dataset} has {large}", file=sys.stderr)
    least = {"MS-SSIM": metrics.MS_SSIM_MIN_SIDE}
    if args.lpips:
        least["LPIPS"] = metrics.LPIPS_MIN_SIDE
    for score, side in least.items():
        small = [source.name for source in sources if min(source.size()) < side]
        if small:
            print(f"{score} will be nan: it needs sides of at least {side} pixels; too small: "
                  f"{len(small)} of {len(sources)} images, {small[0]} for one", file=sys.stderr)
    curves, left_out = {}, []
    models = [(name, model) for name, models in found.items() for model in models]
    for name, model in models:
        left_out.append(run_name(model))
        with _leaving_out(args.keep_going or len(models) > 1):
            results = evaluate_model(
                model, args.dataset, folder / name, args.save_images or args.figure > 0,
                args.skip_existing, judges, args.precision, args.points, sources)
            curves.setdefault(name, []).extend(results)
            left_out.pop()
            missing |= {image: "" for result in results for image in result.get("missing", ())}
    if not curves:
        raise UserError("no run is left to evaluate")
    if collect:
        _collect(curves, published, folder, args, judges)
    if args.keep_going:
        left_out = []
    if missing or left_out:
        raise UserError("missing from the results: " + ", ".join([*left_out, *missing]))


def _collect(curves, published, folder, args, judges):
    """Writes and prints what all results are in together."""
    for name, results in curves.items():
        write_json(folder / f"{name}.json", to_schema(name, results))
    rows = [{"curve": name, "run": result["run"],
             **{key: result.get(key) for key in ("level", "quality", "rd_lambda", "rate_target")},
             **{key: value for key, value in result["mean"].items() if key != "image"}}
            for name, results in curves.items() for result in results]
    result_tables.write_csv(folder / "curves.csv", rows)
    plot(folder / "curves.png", curves, published, args.dataset)
    if args.figure:
        coded = set.intersection(*({row["image"] for row in result["images"]}
                                   for results in curves.values() for result in results))
        sources = [source for source in data.find(args.dataset) if source.name in coded]
        if sources:
            draw_crops(folder / "crops.png", sources[:args.figure], columns(curves, folder))
    print(result_tables.render(rows, columns=(
        "curve", "run", "bpp", "estimated_bpp", *metrics.METRICS, *judges.scores,
        "encoding_time", "decoding_time")))
    print(f"written: {folder}")


main = report(run)


if __name__ == "__main__":
    main(sys.argv[1:])
