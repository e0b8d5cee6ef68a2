"""Entries of get_hyper(): overrides of a config, one dictionary for each run.

    hyper.product(hyper.sweep("seed", (0, 1)), hyper.sweep("train.rd_lambda", recipes.LAMBDAS))
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from common.errors import UserError

Sweep = list[dict[str, Any]]


def sweep(key: str, values: Iterable[Any]) -> Sweep:
    """An entry for each value of one key."""
    return [{key: value} for value in values]


def product(*sweeps: Sequence[dict[str, Any]]) -> Sweep:
    """Each entry of the first sweep with each of the second, and so on; the last varies fastest.

    Raises:
      UserError: two sweeps override the same key.
    """
    return [_join(entries) for entries in itertools.product(*sweeps)]


def zipped(*sweeps: Sequence[dict[str, Any]]) -> Sweep:
    """The first entries of all sweeps together, then the second ones, and so on.

    Raises:
      UserError: the sweeps have different lengths, or override the same key.
    """
    if len({len(each) for each in sweeps}) > 1:
        lengths = ", ".join(str(len(each)) for each in sweeps)
        raise UserError(f"sweeps of {lengths} entries cannot be zipped; they need equal lengths")
    return [_join(entries) for entries in zip(*sweeps)]


def _join(entries):
    joint = {}
    for entry in entries:
        common = joint.keys() & entry.keys()
        if common:
            raise UserError(f"two sweeps override {', '.join(sorted(common))}")
        joint |= entry
    return joint
