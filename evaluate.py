"""Rate-distortion evaluation of trained runs, with real files.

    python -m evaluate --runs experiments/mshyper-mbt2018 mshyper-small-1 --dataset kodak

A run is the folder of a run, of an experiment (all its runs), of an exported model, or a name of
the zoo. Models of one folder are the points of one curve. Below OUTPUT/<dataset>/ appear

    <curve>/<run>.json     every image of one model
    <curve>.json           the curve, in CompressAI's results schema
    curves.csv             all points
    curves.png             the plot, with any published curves asked for
    crops.png              with --figure, crops of originals and of what each model makes of them

LPIPS, FID and KID judge what PSNR does not see; their networks' weights come with `make lpips` and
`make inception`.
"""

import argparse
import contextlib
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

_CROP = 256  # sides of the figure's crops, in pixels

# Names in our tables -> names in CompressAI's results files.
_SCHEMA = {"bpp": "bpp", "psnr": "psnr-rgb", "ms_ssim": "ms-ssim-rgb",
           "encoding_time": "encoding_time", "decoding_time": "decoding_time"}


def find_runs(names: list[str], keep_going: bool = False) -> dict[str, list[pathlib.Path]]:
    """The exported models behind the names of runs, grouped into curves.

    Args:
      names: of runs.
      keep_going: leave out those of which the rest could not be evaluated, with a line each.

    Raises:
      UserError: a name leads to no exported model, a run of an experiment has none yet, or two
        folders have one name; or there is no model at all.
    """
    curves, folders = {}, {}
    for name in names:
        runs = sorted(pathlib.Path(name).glob("wid=*")) or [name]
        for run in runs:
            with _leaving_out(keep_going):
                model = export.find(run).resolve()
                folder = model.parent.parent if model.name == "model" else model.parent
                if folders.setdefault(folder.name, folder) != folder:
                    raise UserError(f"{folders[folder.name]} and {folder} would be curves of one "
                                    "name; evaluate them into two folders --output")
                curves.setdefault(folder.name, []).append(model)
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
                   precision: str = "float32") -> dict:
    """Codes every image of a data set with one model.

    Args:
      model_path: folder of an exported model.
      dataset: name, folder or glob.
      output: folder that gets <run>.json, and the decoded images below <run>/.
      save_images: write the decoded images.
      skip_existing: read <run>.json if it is of this model and data set already.
      judges: see there.
      precision: of the transforms, as of `codec.load_model`.

    Returns:
      The content of <run>.json: the model, its fingerprint and lambda, precision and environment,
      a row for each image and the row of means, which has FID and KID too.
    """
    name = run_name(model_path)
    path = output / f"{name}.json"
    sources, rows = data.find(dataset), []
    names = [source.name for source in sources]
    facts = {"fingerprint": export.fingerprint(model_path), "dataset": dataset,
             "precision": precisions.choose(precision)}
    if skip_existing and (not save_images or (output / name).is_dir()):
        found = read_result(path, facts, names, judges)
        if found:
            return found
    if save_images and len({decoded_path(output, image) for image in names}) < len(names):
        raise UserError(f"images of {dataset} have the same name; their decoded ones would too")
    model = codec.load_model(model_path, facts["precision"])
    comparison = fidelity.Comparison(judges.inception) if judges.inception else None
    with replacing(output / name) as folder:
        folder.mkdir(parents=True)
        for source, (row, decoded) in zip(sources, coding.measure_all(model, sources, name)):
            if judges.lpips:
                row["lpips"] = metrics.lpips(source.read(), decoded, judges.lpips)
            if comparison:
                comparison.add(source.read(), decoded)
            rows.append(row)
            if save_images:
                images.write(decoded_path(folder, row["image"]), decoded)
    if not save_images:  # those of another model may have been there
        shutil.rmtree(output / name)
    train = export.read_config(model_path)["train"]
    result = {
        "run": name,
        **facts,
        "rd_lambda": train["rd_lambda"],
        "rate_target": train.get("rate_target"),
        **tables.environment(),
        "mean": {**tables.mean_row(rows), **(comparison.scores() if comparison else {})},
        "images": rows,
    }
    output.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    return result


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
    """What the results of an exported model are called."""
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
                        "order of RUN")
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
                curves.setdefault(name, []).append(evaluate_model(
                    model, args.dataset, folder / name, args.save_images or args.figure > 0,
                    args.skip_existing, judges, args.precision))
    if not collect:
        return
    if not curves:
        raise UserError("no run is left to evaluate")
    for name, results in curves.items():
        write_json(folder / f"{name}.json", to_schema(name, results))
    rows = [{"curve": name, "run": result["run"], "rd_lambda": result["rd_lambda"],
             "rate_target": result.get("rate_target"),
             **{key: value for key, value in result["mean"].items() if key != "image"}}
            for name, results in curves.items() for result in results]
    tables.write_csv(folder / "curves.csv", rows)
    plot(folder / "curves.png", curves, published, args.dataset)
    if args.figure:
        draw_crops(folder / "crops.png", data.find(args.dataset)[:args.figure], [
            (name if len(results) == 1 else f"{name} {result['run']}", result,
             folder / name / result["run"])
            for name, results in curves.items() for result in results])
    print(tables.render(rows, columns=(
        "curve", "run", "bpp", "estimated_bpp", "psnr", "psnr_y", "ms_ssim", *judges.scores,
        "encoding_time", "decoding_time")))
    print(f"written: {folder}")


main = report(run)


if __name__ == "__main__":
    main(sys.argv[1:])
