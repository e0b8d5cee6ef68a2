"""The figures of `python -m evaluate`: the curves, and crops of images as each model codes them."""

from __future__ import annotations

import pathlib

from common import images
from common.cli import printable
from common.files import replacing
from common.lazy import Figure, data, pictures

_CROP = 256  # sides of crops, in pixels


def decoded_path(folder: pathlib.Path, image: str) -> pathlib.Path:
    """The path of the decoded image that is called `image` in the rows."""
    return folder / f"{image.removesuffix('.png')}.png"


def plot(path: pathlib.Path, curves: dict[str, list[dict]], published: dict[str, dict],
         title: str) -> None:
    """PSNR over bits per pixel: our curves in full lines, published ones dashed."""
    figure = Figure(figsize=(8, 6))
    axes, lines = figure.subplots(), {}
    for name, curve in published.items():
        lines[printable(name)], = axes.plot(curve["bpp"], curve["psnr"], "--", linewidth=1)
    for name, results in curves.items():
        means = sorted((result["mean"] for result in results), key=lambda mean: mean["bpp"])
        lines[printable(name)], = axes.plot(
            [m["bpp"] for m in means], [m["psnr"] for m in means], "o-")
    if published and curves:
        # Published curves reach far beyond the rates of interest.
        rates = [result["mean"]["bpp"] for results in curves.values() for result in results]
        axes.set_xlim(0, 2 * max(rates))
    axes.set(xlabel="bits per pixel", ylabel="PSNR (RGB), dB")
    axes.set_title(printable(title), parse_math=False)
    axes.grid(alpha=0.3)
    # Named here, for labels of lines that begin with _ would be left out.
    for name in axes.legend(lines.values(), lines).get_texts():
        name.set_parse_math(False)
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
    rows = []
    for source in sources:
        row = {source.name: _crop(source.read())}
        for name, result, folder in columns:
            scores = next(row for row in result["images"] if row["image"] == source.name)
            lpips = f", LPIPS {scores['lpips']:.3f}" if "lpips" in scores else ""
            title = f"{name}\n{scores['bpp']:.3f} bpp, {scores['psnr']:.2f} dB{lpips}"
            row[title] = _crop(images.read(decoded_path(folder, source.name)))
        rows.append(row)
    pictures.draw(path, rows)


def columns(curves: dict[str, list[dict]], folder: pathlib.Path
             ) -> list[tuple[str, dict, pathlib.Path]]:
    """The columns of `draw_crops`: every model, each at one level if it has some."""
    found = []
    for name, results in curves.items():
        if "level" in results[0]:
            middle = min(results, key=lambda result: abs(result["quality"] - 50))
            titled = {f"{name}, quality {middle['quality']:g}": middle}
        elif len(results) == 1:
            titled = {name: results[0]}
        else:
            titled = {f"{name} {result['run']}": result for result in results}
        found += [(title, result, folder / name / result["run"])
                  for title, result in titled.items()]
    return found


def _crop(image):
    top, left = (max(0, side - _CROP) // 2 for side in image.shape[:2])
    return image[top:top + _CROP, left:left + _CROP]
