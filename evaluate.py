"""Rate-distortion evaluation of trained runs, with real files.

    python -m evaluate --runs experiments/mbt2018 mshyper-small-1 --dataset kodak --output results

A run is the folder of a run, of an experiment (all its runs), of an exported model, or a name of
the zoo. Models of one folder are the points of one curve. Below OUTPUT/<dataset>/ appear

    <curve>/<run>.json     every image of one model
    <curve>.json           the curve, in CompressAI's results schema
    curves.csv             all points
    curves.png             the plot, with any published curves asked for
"""

import argparse
import contextlib
import json
import pathlib
import re
import sys

from matplotlib.figure import Figure

import codec
from common import coding, data, export, images, tables
from common.cli import UserError, report
from common.files import replacing, write_json

# Names in our tables -> names in CompressAI's results files.
_SCHEMA = {"bpp": "bpp", "psnr": "psnr-rgb", "ms_ssim": "ms-ssim-rgb",
           "encoding_time": "encoding_time", "decoding_time": "decoding_time"}


def find_runs(names: list[str]) -> dict[str, list[pathlib.Path]]:
    """The exported models behind the names of runs, grouped into curves.

    Raises:
      UserError: a name leads to no exported model, a run of an experiment has none yet, or two
        folders have one name.
    """
    curves, folders = {}, {}
    for name in names:
        runs = sorted(pathlib.Path(name).glob("wid=*")) or [name]
        for run in runs:
            model = export.find(run).resolve()
            folder = model.parent.parent if model.name == "model" else model.parent
            if folders.setdefault(folder.name, folder) != folder:
                raise UserError(f"{folders[folder.name]} and {folder} would be curves of one name; "
                                "evaluate them into two folders --output")
            curves.setdefault(folder.name, []).append(model)
    return curves


def evaluate_model(model_path: pathlib.Path, dataset: str, output: pathlib.Path,
                   save_images: bool, skip_existing: bool) -> dict:
    """Codes every image of a data set with one model.

    Args:
      model_path: folder of an exported model.
      dataset: name, folder or glob.
      output: folder that gets <run>.json, and the decoded images below <run>/.
      save_images: write the decoded images.
      skip_existing: read <run>.json if it is of this model and data set already.

    Returns:
      The content of <run>.json: the model, its fingerprint and lambda, the environment, a row for
      each image and the row of means.
    """
    name = model_path.parent.name if model_path.name == "model" else model_path.name
    path = output / f"{name}.json"
    if skip_existing and path.exists() and (not save_images or (output / name).is_dir()):
        with contextlib.suppress(ValueError, KeyError):  # a damaged file is written anew
            found = json.loads(path.read_text())
            if (found["fingerprint"], found["dataset"]) == (
                    export.fingerprint(model_path), dataset):
                return found
    model = codec.load_model(model_path)
    rows = []
    for row, decoded in coding.measure_all(model, data.find(dataset), name):
        rows.append(row)
        if save_images:
            (output / name).mkdir(parents=True, exist_ok=True)
            images.write(output / name / f"{row['image'].removesuffix('.png')}.png", decoded)
    result = {
        "run": name,
        "fingerprint": model.fingerprint,
        "rd_lambda": export.read_config(model_path)["train"]["rd_lambda"],
        "dataset": dataset,
        **tables.environment(),
        "mean": tables.mean_row(rows),
        "images": rows,
    }
    output.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    return result


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


@report
def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluate", description="Rate-distortion evaluation.")
    parser.add_argument("--runs", nargs="+", required=True, metavar="RUN",
                        help="folders of runs, experiments or exported models, or zoo names")
    parser.add_argument("--dataset", default="kodak",
                        help="name of a data set, folder or glob (default: %(default)s)")
    parser.add_argument("--output", default="results", help="folder (default: %(default)s)")
    parser.add_argument("--save_images", action="store_true", help="write the decoded images")
    parser.add_argument("--skip_existing", action="store_true",
                        help="do not repeat evaluations that are there already")
    parser.add_argument("--published", metavar="JSON", help="file of published curves")
    parser.add_argument("--curves", nargs="+", default=[], metavar="NAME",
                        help="which of the published curves to plot")
    args = parser.parse_args(argv)
    if bool(args.curves) != bool(args.published):
        raise UserError("--published (the file) and --curves (the names) need each other")
    published = read_published(args.published, args.curves) if args.published else {}
    folder = pathlib.Path(args.output, re.sub(r"[^\w.]+", "-", args.dataset).strip("-"))
    curves = {
        name: [evaluate_model(model, args.dataset, folder / name, args.save_images,
                              args.skip_existing) for model in models]
        for name, models in find_runs(args.runs).items()}
    for name, results in curves.items():
        write_json(folder / f"{name}.json", to_schema(name, results))
    rows = [{"curve": name, "run": result["run"], "rd_lambda": result["rd_lambda"],
             **{key: value for key, value in result["mean"].items() if key != "image"}}
            for name, results in curves.items() for result in results]
    tables.write_csv(folder / "curves.csv", rows)
    plot(folder / "curves.png", curves, published, args.dataset)
    print(tables.render(rows, columns=("curve", "run", "bpp", "estimated_bpp", "psnr", "psnr_y",
                                       "ms_ssim", "encoding_time", "decoding_time")))
    print(f"written: {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
