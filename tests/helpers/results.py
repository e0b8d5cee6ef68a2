"""What evaluate.py wrote, read."""

import csv


def points(folder):
    """The points of curves.csv."""
    with open(folder / "curves.csv") as file:
        return list(csv.DictReader(file))
