"""Curves of rate and distortion in files: what this software writes, and CompressAI's results.

    {"name": ..., "results": {"bpp": [...], "psnr-rgb": [...], ...}}  evaluate.py, CompressAI
    {"<name>": {"bpp": [...], "psnr": [...], ...}, ...}               benchmarks/published.json
    {"curves": {"<name>": {"points": [{"bpp": ..., "psnr": ...}]}}}   benchmarks.rate_distortion
    {"run": ..., "mean": {"bpp": ..., "psnr": ...}}                   a point, of evaluate.py
    {"rows": [{"image": "mean", "bpp": ..., "psnr": ...}]}            a point, of codec benchmark
    curve,bpp,psnr                                                    CSV of all of these
"""

import csv
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from common.errors import UserError

# Our names -> those in CompressAI's results files, the one that is written first.
_NAMES = {"bpp": ("bpp",), "psnr": ("psnr-rgb", "psnr"), "ms_ssim": ("ms-ssim-rgb", "ms-ssim"),
          "encoding_time": ("encoding_time",), "decoding_time": ("decoding_time",)}
_SCORES = ("bpp", "psnr", "ms_ssim")  # what is read of tables


def to_schema(name: str, results: Sequence[dict]) -> dict:
    """A curve in CompressAI's results schema, points in the order of their rates.

    Args:
      name: of the curve.
      results: its points, as from `evaluate.evaluate_model`.
    """
    means = sorted((result["mean"] for result in results), key=lambda mean: mean["bpp"])
    return {
        "name": name,
        "description": f"ntc-zoo, {results[0]['dataset']}, bpp of whole files, means over images",
        "results": {theirs[0]: [mean[ours] for mean in means] for ours, theirs in _NAMES.items()},
    }


def read_published(path: str | os.PathLike, names: Sequence[str] | None = None) -> dict[str, dict]:
    """Curves of a file: {name: {"bpp": [...], "psnr": [...], ...}}, with what else it says of them.

    Args:
      path: of a file of any of the forms above.
      names: of the curves wanted; by default all.

    Raises:
      UserError: the file cannot be read, or has no such curve.
    """
    path = pathlib.Path(path)
    try:
        if path.suffix.lower() == ".csv":
            curves = _of_table(path)
        else:
            curves = _of_json(json.loads(path.read_text()), path.stem)
    except (OSError, ValueError) as error:
        kind = "a table" if path.suffix.lower() == ".csv" else "JSON"
        raise UserError(f"{path}: cannot be read as {kind} ({error})") from None
    except (AttributeError, KeyError, TypeError):  # something else, of similar names
        curves = {}
    found = [name for name, curve in curves.items() if {"bpp", "psnr"} <= curve.keys()]
    if not curves or names is None and not found:
        raise UserError(f'{path}: no curves are there; need CompressAI\'s {{"name": ..., '
                        '"results": {"bpp": [...], "psnr-rgb": [...]}} or '
                        '{"<name>": {"bpp": [...], "psnr": [...]}}')
    names = found if names is None else names
    for name in names:
        if name not in curves:
            raise UserError(f"{path} has no curve '{name}'; it has: {', '.join(curves)}")
    return {name: _checked(path, name, curves[name]) for name in names}


def _of_table(path):
    curves = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            if row.get("image", "mean") == "mean":
                curves.setdefault(row.get("curve") or path.stem, []).append(
                    {key: float(row[key]) for key in _SCORES if row.get(key)})
    return {name: _of_points(points) for name, points in curves.items()}


def _of_json(content: Any, stem: str) -> dict[str, dict]:
    match content:
        case {"results": dict(columns)}:
            return {content.get("name", stem): {
                ours: columns[theirs] for ours, names in _NAMES.items()
                for theirs in names[::-1] if theirs in columns}}
        case {"curves": dict(curves)}:
            return {name: _of_points(curve["points"]) for name, curve in curves.items()}
        case {"run": name, "mean": dict(mean)}:
            return {name: _of_points([mean])}
        case {"rows": [*rows]}:
            return {stem: _of_points([row for row in rows if row.get("image") == "mean"])}
        case dict(curves):
            return {name: curve for name, curve in curves.items() if isinstance(curve, dict)}
    return {}


def _of_points(points):
    return {key: [point.get(key) for point in points] for key in _SCORES
            if any(key in point for point in points)}


def _checked(path, name, curve):
    """A curve without the points that have no finite rate or PSNR, which plots could not show."""
    if not {"bpp", "psnr"} <= curve.keys():
        raise UserError(f"{path}: the curve '{name}' lacks bpp or psnr")
    columns = {key: curve[key] for key in _NAMES if key in curve}
    try:
        points = [[math.nan if value is None else float(value) for value in point]
                  for point in zip(*columns.values(), strict=True)]
    except (TypeError, ValueError):
        raise UserError(f"{path}: the curve '{name}' needs lists of numbers of one length, "
                        f"{' and '.join(columns)}") from None
    places = [list(columns).index(key) for key in ("bpp", "psnr")]
    points = [point for point in points if all(math.isfinite(point[place]) for place in places)]
    if not points:
        raise UserError(f"{path}: the curve '{name}' has no point with a rate and a PSNR")
    return curve | dict(zip(columns, map(list, zip(*points))))
