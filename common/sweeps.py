"""Sweeps: a run for each entry of a config's get_hyper(), which says what it overrides.

    def get_hyper():
        return sweeps.product(sweeps.over("seed", (0, 1)),
                              sweeps.over("train.rd_lambda", recipes.LAMBDAS))
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from ml_collections import config_dict

from common.errors import UserError

Sweep = list[dict[str, Any]]


def over(key: str, values: Iterable[Any]) -> Sweep:
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


def apply(config: config_dict.ConfigDict, sweep: Sweep, hid: int) -> None:
    """Applies entry `hid` of a sweep, {"train.rd_lambda": 0.02, ...}, to a config.

    Raises:
      UserError: the sweep has no such entry, or the entry does not fit the config.
    """
    if not 0 <= hid < len(sweep):
        raise UserError(f"there is no entry {hid} of this config's get_hyper(), which has entries "
                        f"0 to {len(sweep) - 1}")
    try:
        config.update_from_flattened_dict(sweep[hid])
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        reason = str(error.args[0] if error.args else error).splitlines()[0]
        raise UserError(f"entry {hid} of get_hyper(), {sweep[hid]}, does not fit the config: "
                        f"{reason}") from None


def telling_keys(sweep: Sweep, hid: int) -> list[str]:
    """The first keys of entry `hid` of a sweep, as many as tell it from the others."""
    entry, others, keys = sweep[hid], sweep[:hid] + sweep[hid + 1:], []
    for key in entry:
        keys.append(key)
        others = [other for other in others if other.get(key) == entry[key]]
        if not others:
            break
    return keys
