"""Resuming: whether and how a training goes on in a folder that holds a part of it.

A checkpoint (common/checkpoints.py) holds all that a step depends on, so that a run that was
stopped ends with the same weights and the same metrics.jsonl as one that was not. This module
checks that the folder belongs to the same run: its config.json has the same entries, except for
those that do not affect the steps that are done.
"""

import pathlib
from typing import Any

from absl import logging

from common import runs, training_log
from common.errors import UserError

# Entries of a config that may differ in a resumed run: they do not affect the steps already done.
MAY_CHANGE = {
    "data.cache_gib",
    *(f"train.{key}" for key in (
        "checkpoint_interval", "export_dtype", "jit_compile", "log_interval", "num_steps",
        "profile_steps", "strategy")),
    *(f"train.{optimizer}.{key}" for optimizer in ("optimizer", "adversarial.optimizer")
      for key in ("learning_rate", "global_clipnorm", "clipnorm", "clipvalue")),
}


def claim(workdir: pathlib.Path, record: dict, begun: bool, content: dict[str, str | None],
          **facts: Any) -> dict[str, tuple]:
    """Claims the folder for a run, or checks that it belongs to that run; as `runs.claim`.

    Args:
      workdir: the folder.
      record: the run's config, as from `runs.record`.
      begun: whether the run has begun there.
      content: a hash of what each path in the config leads to, by entry; files may be moved.
      **facts: what else run_info.json is to say of a run that begins.

    Returns:
      What differs in the config there and here: (value there, value here) by entry.

    Raises:
      UserError: it holds another run.
    """
    before = runs.fact(workdir, "content") or {}
    same = [key for key in content if before.get(key, content[key]) == content[key]]
    changes = runs.claim(
        workdir, record, begun, may_change={*MAY_CHANGE, *same},
        advice=" to begin anew, from its weights with train.warm_start="
               f"{workdir}", **facts, content=content)
    for key in content:
        if begun and key not in changes and key not in same:
            logging.warning("%s holds other files than when the run began", key)
        if key in changes and key not in before:
            logging.warning("%s is another, and it is not known whether it holds the same: the "
                            "run began with a version that did not record that", key)
    return changes


def has_results(workdir: pathlib.Path) -> bool:
    """Whether a folder without checkpoints has some results of training.

    Raises:
      UserError: it has results that are written only after a checkpoint.
    """
    lines = training_log.read(workdir / training_log.NAME)
    steps = [line["step"] for line in lines if line["step"] > 0]
    exported = (workdir / "model").exists() and not any(  # that is done before training, too
        line["step"] == 0 and line["split"] == "validation" for line in lines)
    if exported or any(line["step"] > 0 and line["split"] != "train" for line in lines):
        raise UserError(
            f"{workdir} has results, of {max(steps, default=0)} steps, but no checkpoint to go on "
            "from; put its checkpoints/ back, or choose another folder to begin anew" + (
                f", from its model with train.warm_start={workdir}"
                if (workdir / "model").exists() else ""))
    return bool(steps)
