"""One page of HTML to look at: `python -m benchmarks.report --images kodim05 --output report.html`.

The page has the plots and the comparison of a run of benchmarks.rate_distortion, and photographs:
the original, what a model makes of it and what classical codecs make of it at equal bytes, two at a
time with a divider to drag between them. A model with levels is shown at several qualities, with a
slider from one to the next. A classical codec has the best quality whose file is no larger than the
model's. The page needs no network and no other file.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import json
import math
import pathlib
import re
import string
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks import classical, rate_distortion
from common import result_tables, zoo
from common.cli import report
from common.errors import UserError
from common.files import replacing
from common.lazy import Codec, Figure, coding, data, matplotlib, metrics, targets

_TEMPLATE = pathlib.Path(__file__).with_suffix(".html")
# Pictures are shown with at most these sides, so that a page stays small.
LONG_SIDE, SHORT_SIDE = 768, 512
# At which a model with levels is shown.
QUALITIES = (10, 40, 70)
_LARGE = 10_000_000  # bytes of a page that are worth a warning
# Stands for the colour of text in a plot, whichever the page has.
_INK = "#010203"
# Titles and digits of what is said of a picture.
_SCORES = {"bpp": ("bpp", 3), "psnr": ("PSNR, dB", 2), "ms_ssim": ("MS-SSIM", 4),
           "lpips": ("LPIPS", 3)}


class Picture(NamedTuple):
    """A photograph as a codec decodes it.

    Attributes:
      name: of the codec, or "Original".
      image: uint8 [H, W, 3].
      quality: of a classical codec or a model with levels, or "".
      row: rate and distortions by name, as from `rate_distortion.measure`; none of the original.
    """

    name: str
    image: np.ndarray
    quality: str = ""
    row: result_tables.Row = {}


def find_images(names: list[str], dataset: str) -> list[data.Source]:
    """Photographs by name: images of `dataset` without their suffix, data sets, files or globs.

    Raises:
      UserError: a name is none of these.
    """
    found = []
    for name in names:
        try:
            found += data.find(name)
        except UserError as error:
            named = [source for source in data.find(dataset)
                     if pathlib.Path(source.name).stem == name]
            if not named:
                raise UserError(f"{error}; nor is it an image of {dataset}") from error
            found += named
    return found


def code(image: np.ndarray, name: str, model: Codec, codecs: Sequence[str], judges: metrics.Judges,
         level: int | None = None) -> list[Picture]:
    """A photograph, what a model makes of it, and classical codecs with as many bytes at most.

    Args:
      image: uint8 [H, W, 3].
      name: of the model.
      model: an exported model.
      codecs: keys of `classical.CODECS` that take a quality.
      judges: LPIPS, or none.
      level: at which the model codes; None if it has one rate.
    """
    def picture(name, file, decoded, quality=""):
        return Picture(name, decoded, quality,
                       rate_distortion.measure(image, len(file), decoded, judges))

    ntc = coding.compress(model, image, level=level)
    quality = ""
    if model.levels and level is not None:
        quality = f"{model.levels.quality(level):g}"
    pictures = [Picture("Original", image),
                picture(name, ntc, coding.decompress(model, ntc), quality)]
    for each in map(classical.find, codecs):
        quality, file = each.largest(image, len(ntc))
        text = f"{quality}" if len(file) <= len(ntc) else f"{quality}, its smallest file"
        pictures.append(picture(each.title, file, each.decode(file), text))
    return pictures


def crop(image: np.ndarray) -> np.ndarray:
    """The middle of a picture, with at most LONG_SIDE x SHORT_SIDE pixels either way up."""
    limits = (SHORT_SIDE, LONG_SIDE) if image.shape[1] >= image.shape[0] else (
        LONG_SIDE, SHORT_SIDE)
    top, left = (max(0, side - limit) // 2 for side, limit in zip(image.shape, limits))
    return image[top:top + limits[0], left:left + limits[1]]


def data_uri(image: np.ndarray) -> str:
    """A uint8 image [H, W, 3] as lossless WebP that a page can hold."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "WEBP", lossless=True)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def svg(curves: dict[str, rate_distortion.Curve], score: str) -> str:
    """One of `rate_distortion.PANELS` as an SVG element in the colours and fonts of the page."""
    ink = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color",
                         "ytick.color"), _INK)
    file = io.StringIO()
    with matplotlib.rc_context({**ink, "svg.fonttype": "none", "legend.frameon": False}):
        figure = Figure(figsize=(5.6, 4.6), layout="constrained")
        rate_distortion.draw(figure.subplots(), curves, score)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    # Nothing refers to the groups' names, which are the same in every plot.
    return re.sub('<g id="[^"]*"', "<g", text[text.index("<svg"):]).replace(_INK, "currentColor")


def page(results: dict, photographs: list[tuple[str, list[list[Picture]]]]) -> str:
    """The page.

    Args:
      results: as from `read_results`.
      photographs: their names, and what became of them at each quality, as from `code`.
    """
    curves, count = results["curves"], len(results["images"])
    rows = rate_distortion.compare(curves, results["anchor"], results["range"])
    return string.Template(_TEMPLATE.read_text()).substitute(
        title=html.escape(f"Rate and distortion on {results['dataset']}"),
        summary=html.escape(
            f"Means over {count} image{'s' * (count != 1)}, {results['date']}. Models and "
            "classical codecs: real files, decoded to 8-bit RGB. Dashed: published curves."),
        plots="\n".join(
            f'<div class="plot" role="img" aria-label="{label} over bits per pixel">'
            f"{svg(curves, score)}</div>"
            for score, (label, _) in rate_distortion.PANELS.items()),
        comparison=_table(map(rate_distortion.cells, rows), [row["kind"] for row in rows]),
        statement=html.escape(rate_distortion.statement(results["anchor"], results["range"])),
        photographs="\n".join(_photograph(*each) for each in photographs),
        sources="\n".join(_source(*each) for each in curves.items()),
        versions=html.escape(", ".join(
            f"{name} {version}" for name, version in results["versions"].items())))


def _table(rows, classes):
    """An HTML table of rows of text; the first column has their names."""
    head, body = [], []
    for row, kind in zip(rows, classes):
        head = [f'<th scope="col">{html.escape(column)}</th>' for column in row]
        name, *others = map(html.escape, row.values())
        body.append(f'<tr class="{kind}"><th scope="row">{name}</th>'
                    + "".join(f"<td>{cell}</td>" for cell in others) + "</tr>")
    return (f'<div class="wide"><table>\n<thead><tr>{"".join(head)}</tr></thead>\n<tbody>\n'
            + "\n".join(body) + "\n</tbody>\n</table></div>")


def _cells(picture, scores):
    """A picture's rate and distortions as people read them, by column."""
    row = picture.row
    return {"": picture.name, "bytes": f"{row['bytes']:,}" if row else "",
            **{title: f"{row[score]:.{digits}f}" if math.isfinite(row.get(score, math.nan)) else ""
               for score, (title, digits) in _SCORES.items() if score in scores},
            "quality": picture.quality}


def _photograph(name, rates):
    """The part of the page about one photograph; at first, the model is on the right.

    Of several rates, that in the middle is shown at first.
    """
    (original, *_), first = rates[0], len(rates) // 2
    names = [each.name for each in rates[first]]
    chosen = {"left": names[2] if len(names) > 2 else names[0], "right": names[1]}
    name, (height, width) = html.escape(name), crop(original.image).shape[:2]
    shown = f"{width} x {height} pixels of the middle; numbers are of the whole" if (
        height, width) != original.image.shape[:2] else f"{width} x {height} pixels"

    def layer(picture, rate=None):
        sides = [side for side in chosen if picture.name == chosen[side] and rate in (None, first)]
        at = "" if rate is None else f' data-rate="{rate}"'
        return (f'<img class="{" ".join(sides)}" data-name="{html.escape(picture.name)}"{at} '
                f'alt="{name}: {html.escape(picture.name)}" width="{width}" height="{height}" '
                f'src="{data_uri(crop(picture.image))}">')

    layers = "\n".join([layer(original), *(
        layer(picture, i) for i, (_, *coded) in enumerate(rates) for picture in coded)])
    choices = "".join(
        f'<label>{side.capitalize()} <select name="{side}" autocomplete="off">' + "".join(
            f'<option value="{html.escape(each)}"{" selected" * (each == chosen[side])}>'
            f"{html.escape(each)}</option>" for each in names) + "</select></label>"
        for side in chosen)
    if len(rates) > 1:
        choices += (f'<label>Rate <input type="range" name="rate" min="0" max="{len(rates) - 1}" '
                    f'value="{first}" autocomplete="off"> <output></output></label>')
    tables_of_rates = "\n".join(
        f'<div data-rate="{i}"{_title(pictures[1])}{" hidden" * (i != first)}>'
        + _table([_cells(each, pictures[1].row) for each in pictures],
                 ["", "model", *[""] * len(pictures)]) + "</div>"
        for i, pictures in enumerate(rates))
    return f'''<figure class="comparison" style="--width: {width}px">
<figcaption><h3>{name}</h3><p>{shown}</p></figcaption>
<div class="stage" style="aspect-ratio: {width} / {height}">
{layers}
<span class="label left"></span><span class="label right"></span>
<div class="divider"></div>
<input type="range" min="0" max="100" step="any" value="50" autocomplete="off"
 aria-label="Divider between the two pictures of {name}">
</div>
<div class="beside">
<div class="choices">{choices}</div>
{tables_of_rates}
</div>
</figure>'''


def _title(picture):
    """An attribute with what the slider says of a rate; none for a model of one rate."""
    return picture.quality and (
        f' data-title="quality {picture.quality}, {picture.row["bpp"]:.2f} bpp"')


def _source(name, curve):
    """A line that says where a curve comes from."""
    if curve["kind"] == "published":
        text = f"published: {curve['source']}; {curve['note']}"
    elif curve["kind"] == "codec":
        text = f"{curve['title']}, {curve['library']}, {json.dumps(curve['settings'])}"
    else:
        text = "models " + ", ".join(fingerprint[:8] for fingerprint in curve["fingerprints"])
    return f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>"


def read_results(folder: pathlib.Path) -> dict:
    """The content of curves.json, with NaN where it has null. Raises UserError."""
    path = folder / "curves.json"
    try:
        results = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; python -m benchmarks.rate_distortion writes it"
                        ) from None
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    for curve in results["curves"].values():
        curve["points"] = [result_tables.read_row(point) for point in curve["points"]]
    results["range"] = results["range"] and tuple(results["range"])
    return results


@report
def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=pathlib.Path, default=rate_distortion.OUTPUT / "kodak",
                        help="folder that benchmarks.rate_distortion wrote (default: "
                        "benchmarks/results/rate_distortion/kodak)")
    parser.add_argument("--images", nargs="+", default=["photos/validation"], metavar="IMAGE",
                        help="photographs: names of the benchmark's images without suffix, data "
                        "sets, or files (default: %(default)s)")
    parser.add_argument("--model", default=zoo.DEFAULT,
                        help="run, exported model or zoo name (default: %(default)s)")
    parser.add_argument("--quality", nargs="+", type=float, metavar="Q", help="of a model with "
                        "levels, each from 0 (smallest files) to 100 (default: "
                        f"{' '.join(map(str, QUALITIES))})")
    parser.add_argument("--codecs", nargs="*", default=["jpeg", "avif"], metavar="CODEC",
                        choices=[name for name, each in classical.CODECS.items()
                                 if each.unit == "quality"],
                        help="classical codecs beside it (default: %(default)s)")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("report.html"),
                        help="file (default: %(default)s)")
    args = parser.parse_args(argv)
    if not args.output.parent.is_dir():
        raise UserError(f"--output {args.output}: there is no folder {args.output.parent}")
    results = read_results(args.results)
    sources = find_images(args.images, results["dataset"])
    model, judges = zoo.load(args.model), rate_distortion.load_judges()
    qualities = args.quality or (QUALITIES if model.levels else [None])
    levels = [targets.level(model, quality) for quality in qualities]
    text = page(results, [
        (source.name, [code(image, args.model, model, args.codecs, judges, level)
                       for level in levels])
        for source in sources for image in [source.read()]])
    with replacing(args.output) as temporary:
        # A file name need not be valid Unicode.
        temporary.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
    size = args.output.stat().st_size
    print(f"written: {args.output}, {size / 1e6:.1f} MB")
    if size > _LARGE:
        print("that is large for a page; fewer --images make it smaller", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
