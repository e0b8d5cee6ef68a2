"""Checkpoints of a run: <run>/checkpoints/step-<n>.*, the last two of them.

A run goes on at the newest one that is whole, whatever TensorFlow's own file `checkpoint` says.
"""

import contextlib
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from absl import logging

from common.errors import UserError
from common.files import replacing

_NAME = "step"
_STATE = "checkpoint"
_KEPT = 2


def steps(folder: pathlib.Path) -> list[int]:
    """The steps of all checkpoints that are in a folder, or should be; the newest first."""
    state = folder / _STATE
    names = " ".join(path.name for path in folder.glob(f"{_NAME}-*") if "temp" not in path.name)
    if state.is_file():
        names += state.read_text(errors="replace")
    return sorted({int(n) for n in re.findall(rf"\b{_NAME}-(\d{{1,15}})\b", names)}, reverse=True)


class Checkpoints:
    """The checkpoints of a run. `restore` comes first.

    Args:
      folder: where to save them.
      **state: what a checkpoint holds by name, as of tf.train.Checkpoint.

    Attributes:
      last: the step of the last one that can be gone back to; None if there is none.
    """

    def __init__(self, folder: pathlib.Path, **state: Any):
        self._folder = folder
        self._checkpoint = tf.train.Checkpoint(**state)
        self._manager: tf.train.CheckpointManager  # of `restore`
        self.last: int | None = None

    def restore(self, folder: pathlib.Path) -> None:
        """Goes back to the newest checkpoint in `folder` that is whole, if there are any.

        Those that are not stay, and are named in a warning.

        Raises:
          UserError: there are some, but none is whole.
        """
        damaged = {}
        for step in steps(folder):
            try:
                self._checkpoint.restore(str(folder / f"{_NAME}-{step}")).assert_consumed()
            except Exception as error:  # TensorFlow makes anything of damaged files
                damaged[step] = reason(error)
            else:
                self.last = step
                break
        lost = "; ".join(f"{folder / _NAME}-{step} is damaged or incomplete ({why})"
                         for step, why in damaged.items())
        if damaged and self.last is None:
            raise UserError(f"no checkpoint of the run can be restored: {lost}")
        if damaged:
            logging.warning("%s: the run goes back to step %d and does the others again", lost,
                            self.last)
        elif self.last and f"{_NAME}-{self.last}" not in _read(folder / _STATE):
            logging.warning("%s is missing or does not name it: the run goes on at %s-%d, the "
                            "newest checkpoint there", folder / _STATE, _NAME, self.last)
        with writing(self._folder):  # now, rather than after the first interval
            self._folder.mkdir(parents=True, exist_ok=True)
        if folder == self._folder:
            self._write_state()
        self._manager = tf.train.CheckpointManager(
            self._checkpoint, str(self._folder), max_to_keep=_KEPT, checkpoint_name=_NAME)

    def save(self, step: int) -> None:
        """Saves a checkpoint, whole or not at all. Raises UserError if it cannot be written."""
        try:
            with writing(f"{self._folder / _NAME}-{step}"):
                self._manager.save(checkpoint_number=step)
        except UserError:
            for path in self._folder.glob(f"{_NAME}-{step}*temp*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            raise
        self.last = step

    def _write_state(self):
        """Has TensorFlow's file say what is there."""
        state = self._folder / _STATE
        if self.last is None:
            state.unlink(missing_ok=True)
            return
        whole = [step for step in reversed(steps(self._folder)) if step <= self.last]
        with replacing(state) as temporary:
            temporary.write_text("".join(
                [f'model_checkpoint_path: "{_NAME}-{self.last}"\n',
                 *(f'all_model_checkpoint_paths: "{_NAME}-{step}"\n' for step in whole)]))


@contextlib.contextmanager
def writing(path: str | pathlib.Path) -> Iterator[None]:
    """Makes one line of the errors of TensorFlow's own files: UserError, naming `path`."""
    try:
        yield
    except (tf.errors.OpError, OSError) as error:
        raise UserError(f"cannot write {path}: {reason(error)}") from None


def reason(error: Exception) -> str:
    """The first line of an error of TensorFlow, without names of its own nodes and operations."""
    text = error.message if isinstance(error, tf.errors.OpError) else (
        error.strerror if isinstance(error, OSError) else None)
    text = str(text or error).strip() or type(error).__name__
    return re.sub(r"\{\{.*?\}\} *| \[Op:\w*\].*", "", text.splitlines()[0])


def _read(path):
    return path.read_text(errors="replace") if path.is_file() else ""
