"""The loop of training: what follows each step, and what the end of an interval does.

    end_step       log, progress, and the end that a signal asked for
    end_interval   validation (common/validation.py), export, checkpoint (common/checkpoints.py)

It is a plain loop, not Keras's `fit`, which has no place to go on from within an epoch, to give a
step of HiFiC two batches, or to stop between two steps and leave nothing half done. What users like
of `fit` is here: a line of progress, TensorBoard, metrics, checkpoints.
"""

import math
import pathlib
from collections.abc import Callable, Iterator

import tensorflow as tf
from absl import logging
from ml_collections import config_dict

from common import (
    best_model,
    checkpoints,
    data,
    export,
    locks,
    schedules,
    stopping,
    training_config,
    training_log,
    validation,
)
from common.errors import UserError
from common.progress import Progress
from common.trainer import Trainer


class TrainingLoop:
    """A training in its folder, from the step that it is at to the end.

    Call in this order: `restore`, `finish_interrupted`, after a warm start `validate_warm_start`,
    and `run`.

    Args:
      folder: gets metrics, events, checkpoints and the exported model.
      config: as in common/recipes.py.
      trainer: makes the steps.
      rate: the learning rate, which may depend on validation.
      sources: validation images; may be empty.
      lock: that of the folder, if others may want it.

    Raises:
      UserError: nothing can be written there.
    """

    def __init__(self, folder: pathlib.Path, config: config_dict.ConfigDict, trainer: Trainer,
                 rate: schedules.Schedule, sources: list[data.Source],
                 lock: locks.Lock | None = None):
        self._folder = folder
        self._config = config
        self._trainer = trainer
        self._rate = rate
        self._lock = lock
        self._best = best_model.BestModel(folder, config, trainer)
        # The last step whose `end_interval` is done.
        self._validated_step = tf.Variable(0, trainable=False, dtype=tf.int64)
        self._within_end = False  # Slurm's jobs are interrupted in spite of `unstoppable`
        self._checkpoints = checkpoints.Checkpoints(
            folder / "checkpoints", codec=trainer.codec, result=trainer.result,
            optimizer=trainer.optimizer, best_loss=self._best.loss,
            settled=self._validated_step,  # the name that it has in checkpoints
            **trainer.state())
        self._validation = validation.Validation(
            trainer.result, trainer.objective, sources, trainer.rate_control,
            training_config.jit_compile(config.train.jit_compile))
        self._progress = Progress(config.train.num_steps)
        self._trained = {}  # the last means of what was measured in training
        self._log = training_log.Log(folder)
        self._log.images(0, "original", self._validation.pictures)
        self._log.flush()

    @property
    def step(self) -> int:
        """How many steps are done."""
        return int(self._trainer.optimizer.iterations.numpy())

    # --- From one step to the next --------------------------------------------------------------

    def run(self, train_step: Callable[[Iterator], dict[str, tf.Tensor]], batches: Iterator
             ) -> None:
        """Trains to the last step.

        Args:
          train_step: makes a step with the next of `batches`; returns what was measured.
          batches: those of the steps that are left.

        Raises:
          UserError: the loss is not finite, the folder is another's, or writing fails.
        """
        while self.step < self._config.train.num_steps:
            self.end_step(train_step(batches))
            if self._ends_interval():
                self.end_interval()

    def _ends_interval(self):
        return self.step >= self._config.train.num_steps or not (
            self.step % self._config.train.checkpoint_interval)

    def end_step(self, measured: dict[str, tf.Tensor]) -> None:
        """Does what follows each step."""
        if self._lock:
            self._lock.require()
        self._require_finite(float(measured["rd_loss"]))
        if self.step % self._config.train.log_interval == 0:
            self._log_training()
        self._progress.step(self.step, self._recent)
        stopping.stop_if_asked()  # for Python may drop what a signal's handler raises

    def end_interval(self) -> None:
        """Validates, exports the model if it is the best, and saves a checkpoint."""
        try:
            measured = self._validate()
        except (tf.errors.OpError, MemoryError):  # of large images: the steps are not lost
            self.interrupt()
            raise
        if not self._is_finite():
            raise self._diverged()
        with stopping.unstoppable():
            if self._checkpoints.last is None:  # without one, results are refused (resuming.py)
                self._checkpoints.save(self.step)
            self._within_end = True
            self._log_training()
            mean = self._log_validation(measured)
            self._adapt_schedules(mean)
            self._best.update(self.step, mean.get("rd_loss"))
            self._validated_step.assign(self.step)
            self._checkpoints.save(self.step)
            self._within_end = False
            self._log.flush()
            self._progress.interval(self.step, self._trained, mean)

    # --- Stopping and resuming ------------------------------------------------------------------

    def interrupt(self) -> str:
        """Saves a checkpoint in the middle of an interval, for a process that is to end.

        Returns:
          The step that it can go on at, and that of the end.
        """
        with tf.init_scope():  # Python may be tracing a graph, of which this is to be no part
            # Half of an interval's end is nothing to go on from.
            if not self._within_end and self.step and self._is_finite():
                self._checkpoints.save(self.step)
        return f"step {self._checkpoints.last or 0} of {self._config.train.num_steps}"

    def restore(self, folder: pathlib.Path) -> None:
        """Goes back to the last checkpoint of the run in `folder`, if there is one.

        Raises:
          UserError: no checkpoint can be read.
        """
        self._checkpoints.restore(folder / "checkpoints")
        self._log.keep(self._is_done)

    def finish_interrupted(self) -> None:
        """Completes the logging and the validation that a stopped process left undone."""
        if self.step % self._config.train.log_interval == 0:
            self._log_training()
        if self.step and self._ends_interval() and not self._is_validated():
            self.end_interval()

    def validate_warm_start(self) -> None:
        """Measures and exports the model as it is before training."""
        measured = self._validate()
        if measured:
            mean = self._log_validation(measured)
            self._adapt_schedules(mean)
            self._best.update(self.step, mean["rd_loss"])

    def _is_done(self, line):
        """Whether a line of metrics.jsonl is of the training up to the checkpoint."""
        if line["step"] != self.step or not self.step:
            return line["step"] < self.step
        if line["split"] == "train":
            return not self._trainer.means.result()  # which are begun anew once it is written
        return self._is_validated()

    def _is_validated(self):
        return self.step == int(self._validated_step)

    # --- Validation -----------------------------------------------------------------------------

    def _validate(self) -> dict[int, dict[str, float]]:
        """The results of validation, by level; nothing without images.

        Raises:
          UserError: the loss is not finite.
        """
        self._trainer.update_offsets()
        measured = self._validation()
        for row in measured.values():
            self._require_finite(row["rd_loss"])
        return measured

    def _adapt_schedules(self, mean: dict[str, float]) -> None:
        """Tells the schedules of learning rate and rate weight what validation found, if it did."""
        if not mean:
            return
        self._rate.observe(mean["rd_loss"])
        control = self._trainer.rate_control
        if control and self.step:
            control.observe(mean["bpp"])
        if control and self.step >= self._config.train.num_steps and (
                abs(mean["bpp"] / control.target - 1) > 0.05):
            logging.warning("the rate is %.3f bits per pixel, not %g as train.rate_target says",
                            mean["bpp"], control.target)

    # --- The log --------------------------------------------------------------------------------

    def _log_training(self) -> None:
        means = self._trainer.means.result()
        if means:
            self._trained = means
            self._log.scalars(self.step, "train", means)
            self._trainer.means.reset()

    def _recent(self) -> dict[str, float]:
        """Means of the steps that are not logged yet, or else those of the last line."""
        return self._trainer.means.result() or self._trained

    def _log_validation(self, measured: dict[int, dict[str, float]]) -> dict[str, float]:
        """Logs the results of validation, if there are some; returns their mean over levels."""
        mean = validation.means([*measured.values()])
        if not mean:
            return mean
        self._log.scalars(self.step, "validation", mean)
        if self._trainer.codec.levels:
            for level, row in measured.items():
                self._log.scalars(self.step, f"validation/level={level}", row)
            self._log.curve(self.step, [*measured.values()])
        self._log.images(self.step, "reconstruction", self._validation.reconstructions())
        return mean

    # --- Losses that are not finite -------------------------------------------------------------

    def _require_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise self._diverged()

    def _is_finite(self) -> bool:
        try:
            export.require_finite(self._trainer.codec, self._folder)
        except UserError:
            return False
        return True

    def _diverged(self) -> UserError:
        last, optimizer = self._checkpoints.last, self._config.train.optimizer
        clip = optimizer.get("global_clipnorm")
        return UserError(
            f"the loss is not finite at step {self.step}: the same command with a lower "
            f"train.optimizer.learning_rate (it is {optimizer.learning_rate:g}) or "
            f"train.optimizer.global_clipnorm (it is {clip or 'off'}) " + (
                f"goes on at step {last}, the last checkpoint" if last else "begins again"))
