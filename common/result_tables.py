"""Tables of measurements: printed, and saved as JSON and CSV."""

import contextlib
import csv
import importlib.metadata
import math
import os
import pathlib
import platform
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from common.files import replacing, write_json

# Strings and numbers by column.
Row = dict[str, Any]


def mean_row(rows: Sequence[Row]) -> Row:
    """Means of all numeric columns over the rows; the column `image` says "mean"."""
    return {key: "mean" if key == "image" else statistics.fmean(row[key] for row in rows)
            for key in rows[0]}


def read_row(row: dict) -> Row:
    """A row that was saved as JSON, which has null for numbers that are not finite."""
    return {key: (math.inf if "psnr" in key else math.nan) if value is None else value
            for key, value in row.items()}


def render(rows: Sequence[Row], columns: Iterable[str]) -> str:
    """A table with aligned columns, numbers to four significant decimals."""
    cells = [names := [*columns], *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return "\n".join("  ".join(cell.ljust(width) if i == 0 else cell.rjust(width)
                               for i, (cell, width) in enumerate(zip(line, widths)))
                     for line in cells)


def save(path: str | os.PathLike, rows: Sequence[Row], **facts: Any) -> None:
    """Writes `path`.json, with `facts` and the versions of software, and `path`.csv."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(f"{path}.json", {**facts, **environment(), "rows": rows})
    write_csv(f"{path}.csv", rows)


def write_csv(path: str | os.PathLike, rows: Sequence[Row]) -> None:
    """Writes rows with the columns of any of them; cells that a row does not have are empty."""
    columns = dict.fromkeys(column for row in rows for column in row)
    # Names of files may hold bytes that are not characters.
    with replacing(path) as temporary, open(
            temporary, "w", newline="", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def environment() -> dict:
    """Host, processor and versions that a measurement depends on."""
    packages = ("tensorflow", "tensorflow-compression", "tensorflow-probability", "numpy")
    return {
        "host": platform.node(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def processor() -> str:
    """Its name, as the system has it."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _cell(value) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 10_000 else f"{value:.4f}"
    return str(value)
