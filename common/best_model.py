"""The exported model of a run, <run>/model: the best that validation has seen, or the last."""

import math
import pathlib

import tensorflow as tf
from absl import logging
from ml_collections import config_dict

from common import export, runs
from common.errors import ConversionError
from common.trainer import Trainer


class BestModel:
    """Exports a trainer's result whenever it is better than all before.

    Args:
      folder: of the run.
      config: as in common/recipes.py.
      trainer: that of the run.

    Attributes:
      loss: the validation loss of what was exported, float32 [], for checkpoints.
    """

    def __init__(self, folder: pathlib.Path, config: config_dict.ConfigDict, trainer: Trainer):
        self.loss = tf.Variable(math.inf, trainable=False)
        self._folder = folder
        self._config = config
        self._trainer = trainer

    def update(self, step: int, loss: float | None) -> None:
        """Exports the result of a step, if its validation loss is the lowest so far.

        Args:
          step: how many are done.
          loss: its validation loss, or None without validation. Then each result is exported, as
            where losses of different steps are not comparable (common/trainer.py).

        Raises:
          ConversionError: it cannot be exported, at the last step. Before, that is a warning:
            later weights may fit.
        """
        if loss is None or not self._trainer.comparable:
            self._export(step)
        elif loss < float(self.loss) and self._export(step):
            self.loss.assign(loss)

    def _export(self, step) -> bool:
        """Returns whether it could be."""
        record = runs.record(type(self._trainer.result), self._config)
        if self._trainer.rate_control:
            record["train"]["rate_weight"] = float(
                self._trainer.rate_control.mean_weight.numpy())
        try:
            export.save(self._trainer.result, record, self._folder / "model",
                        self._config.train.export_dtype)
        except ConversionError as error:
            if step >= self._config.train.num_steps:
                raise
            logging.warning("step %d is not exported: %s", step, error)
            return False
        return True
