"""Training: `python -m <package>.train --config <package>/configs/<paper>.py`.

A run lives in <experiments_dir>/<xid>/wid=<n>-<runname>/ and is a function of its config.json
alone: the data and the noise of step n depend on (seed, n) and on nothing before. The same command
on the same folder goes on at the last checkpoint and ends with the same weights and the same
metrics.jsonl as a run that was never stopped.
"""

import ast
import contextlib
import json
import math
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf
from absl import logging
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from common import (
    arguments,
    checkpoints,
    data,
    distribution,
    export,
    images,
    locks,
    metrics,
    objectives,
    optimizers,
    precision,
    programs,
    quantizers,
    rate_control,
    recipes,
    runs,
    schedules,
    stopping,
    weights,
)
from common.errors import UserError
from common.exact import ConversionError
from common.files import replacing
from common.model import Codec
from common.progress import Progress

# What the command line says of a component: its class, or arguments that the config need not have.
_COMPONENT = re.compile(r"--config\.train\.(optimizer|schedule|quantizer|rate_control)\.(\w+)=(.*)")
# How many levels are validated, if the codec has some.
_LEVELS = 5
_OF_ALL_OPTIMIZERS = ("learning_rate", "global_clipnorm", "weight_decay")
# What may be another when a run goes on: it changes nothing of what is done, or only what follows.
_MAY_CHANGE = (
    "data.cache_gib",
    *(f"train.{key}" for key in (
        "checkpoint_interval", "export_dtype", "jit_compile", "log_interval", "num_steps",
        "profile_steps", "strategy")),
    *(f"train.{optimizer}.{key}" for optimizer in ("optimizer", "adversarial.optimizer")
      for key in ("learning_rate", "global_clipnorm", "clipnorm", "clipvalue")),
)


class Trainer(tf.keras.Model):
    """Keras's view of training: a codec, its objective and schedules.

    Args:
      codec: the model to train.
      config: as in common/recipes.py.
      average: if given, a model that follows the weights of `codec` as train.ema_decay says, and
        is validated and exported in its place.

    Attributes:
      codec: see above.
      result: the model to validate and to export: `average`, or else `codec`.
      rate_control: with train.rate_target, what weighs the rate; else None.
      batches_per_step: how many batches of data.batch_size `train_step` takes.
      additional_metrics: names of what `train_step` measures besides the codec's objective.
      window: means of what was measured since `window.reset`.
    """

    batches_per_step = 1
    additional_metrics = ()

    def __init__(self, codec: Codec, config, average: Codec | None = None):
        super().__init__()
        self.codec = codec
        self.result = average or codec
        self.rate_control = None
        if config.train.rate_target is not None:
            self.rate_control = rate_control.build(
                config.train.rate_control, config.train.rate_target, config.train.num_steps)
        self.window = _Means([*_measured(self.result, config), *self.additional_metrics,
                              "rd_lambda", "rate_weight", "learning_rate"])
        self._config = config

    def update_offsets(self):
        """Recentres the integer grids, on which some quantizers round in training too."""
        for codec in {self.codec, self.result}:
            codec.update_offsets()

    def state(self) -> dict:
        """Further objects that a checkpoint holds besides models and optimiser, by name."""
        state = {"window": self.window}
        return state | {"rate_control": self.rate_control} if self.rate_control else state

    def additional_loss(self, x, x_hat, y_hat) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Further terms of the loss, which a subclass adds, and measurements by name.

        Args:
          x: originals, float32 [B, H, W, 3].
          x_hat: reconstructions of the same shape.
          y_hat: the latents that they were made of.
        """
        del x, x_hat, y_hat
        return tf.zeros([]), {}

    # No Python of models is to be rewritten as graphs: converting it all takes longer than tracing.
    @tf.autograph.experimental.do_not_convert
    def train_step(self, x):
        return self.note(self.update_codec(x))

    def update_codec(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """A step of the codec's optimiser for a batch; returns what was measured."""
        step = self.optimizer.iterations
        key = quantizers.fold_in([self._config.seed, 0], step)
        quantizer = quantizers.for_training(
            self._config.train.quantizer, key, step, self._config.train.num_steps)
        level = self.draw_levels(x)
        rd_lambda, weight = _weights(self.codec, self._config, level)
        rd_lambda = schedules.rd_lambda(step, rd_lambda, self._config.train.num_steps,
                                        **self._config.train.rd_lambda_warmup)
        with tf.GradientTape() as tape:
            latents = self.codec.infer(x, training=True, level=level)
            generated = self.codec.generate(latents, quantizer, training=True)
            rate_weight = self._rate_weight(step, x, latents, generated)
            measured = objectives.rate_distortion(
                x, generated, rd_lambda, weight=weight, rate_weight=rate_weight,
                **_objective(self._config))
            additional, judged = self.additional_loss(
                x, images.crop_to(generated.x_hat, x), generated.latents["y"])
            # The optimiser adds up the gradients of all replicas.
            loss = (measured["rd_loss"] + additional) / distribution.replica()[0]
        weights = self.codec.trainable_variables
        gradients = tape.gradient(loss, weights)
        self.optimizer.apply_gradients(zip(gradients, weights))
        if self.result is not self.codec:
            # Not Keras's use_ema, which overwrites the weights that are trained when `fit` ends.
            # At first it follows faster: the weights that training began with are of no use.
            done = tf.cast(step, tf.float32)
            decay = tf.minimum(self._config.train.ema_decay, (1 + done) / (10 + done))
            for average, weight in zip(self.result.variables, self.codec.variables):
                # What is not trained, as batch normalisation's statistics, is an average already.
                average.assign(decay * average + (1 - decay) * weight if weight.trainable
                               else weight)
        # Keras brings its learning rate up to date in `apply_gradients`.
        return {**measured, **judged, "rd_lambda": tf.reduce_mean(rd_lambda),
                "rate_weight": rate_weight,
                "learning_rate": tf.identity(self.optimizer.learning_rate)}

    def draw_levels(self, x: tf.Tensor, stream: int = 1) -> tf.Tensor | None:
        """The levels at which a step takes images: int32 [B], or None if the codec has none.

        They are a function of seed, step, `stream` and the images' places in the batch of all
        replicas together.
        """
        if not self.codec.levels:
            return None
        replicas, index = distribution.replica()
        batch = tf.shape(x)[0]
        key = quantizers.fold_in([self._config.seed, stream], self.optimizer.iterations)
        levels = self.codec.levels.draw(key, replicas * batch)
        return levels[index * batch:(index + 1) * batch]

    def note(self, measured: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The means over all replicas of what was measured in a step; `window` has them too."""
        measured = distribution.mean(measured)
        self.window.add(measured)
        return measured

    def _rate_weight(self, step, x, latents, generated):
        if self.rate_control is None:
            return tf.ones([])

        def mean(bits):
            return distribution.mean(
                tf.reduce_mean(tf.add_n(list(objectives.bits_per_pixel(x, bits).values()))))

        def coded_bpp():
            # The graph drops the synthesis, whose output nothing needs.
            fixed = tf.nest.map_structure(tf.stop_gradient, latents)
            return mean(self.codec.generate(fixed, quantizers.Round()).bits)

        return self.rate_control(step, mean(generated.bits), coded_bpp)


class Validator:
    """Validation: the objective of 8-bit images, on one device; if there are levels, at some.

    Keras's `evaluate`, within `fit`, would share each image among all devices.

    Args:
      codec: the model to validate.
      config: as in common/recipes.py.
      control: with train.rate_target, that of the training.
    """

    def __init__(self, codec: Codec, config, control: rate_control.RateControl | None):
        self._codec = codec
        self._config = config
        self._control = control
        self._measure = tf.function(
            self._measure, autograph=False, jit_compile=_jit_compile(config.train.jit_compile),
            input_signature=[tf.TensorSpec([1, None, None, 3]), tf.TensorSpec([1], tf.int32)])

    def __call__(self, photos: tf.data.Dataset) -> dict[int, dict[str, float]]:
        """The means over a data set as of `data.whole_images` of what the objective measures.

        By level; in a model of one rate under 0.
        """
        levels = self._codec.levels.spread(_LEVELS) if self._codec.levels else [0]
        rows = {level: [] for level in levels}
        for photo in photos:
            for level in levels:
                rows[level].append(self._measure(photo, tf.constant([level])))
        return {level: {name: float(np.mean([row[name] for row in of_level]))
                        for name in of_level[0]} for level, of_level in rows.items()}

    def _measure(self, x, level):
        level = level if self._codec.levels else None
        rd_lambda, weight = _weights(self._codec, self._config, level)
        rate_weight = self._control.mean_weight if self._control else 1.0
        return objectives.rate_distortion(
            x, self._codec(x, level), rd_lambda, weight=weight, rate_weight=rate_weight,
            eight_bit=True, **_objective(self._config))


def _weights(codec, config, level):
    """Lambda, and the weight of an image among others; of the images of a batch at levels [B]."""
    if level is None:
        return config.train.rd_lambda, 1.0
    return codec.levels.rd_lambda(level), codec.levels.weight(level)


class _Means(tf.Module):
    """Means by name, in a variable, which goes into checkpoints."""

    def __init__(self, names: list[str]):
        super().__init__()
        self._names = names
        self._sums = tf.Variable(tf.zeros(len(names) + 1), trainable=False)  # the last counts

    def add(self, values: dict[str, tf.Tensor]) -> None:
        self._sums.assign_add(tf.stack([*(values[name] for name in self._names), 1.0]))

    def result(self) -> dict[str, float]:
        """The means; nothing if there is nothing to take them of."""
        *sums, count = self._sums.numpy().tolist()
        return {name: total / count for name, total in zip(self._names, sums)} if count else {}

    def reset(self) -> None:
        self._sums.assign(tf.zeros_like(self._sums))


def _objective(config) -> dict:
    return dict(distortion=config.train.distortion, lpips_weight=config.train.lpips_weight)


def _measured(codec, config) -> list[str]:
    """The names of what the objective measures."""
    blank = tf.zeros([1, metrics.MS_SSIM_MIN_SIDE, metrics.MS_SSIM_MIN_SIDE, 3])
    generated = codec(blank[:, :64, :64])._replace(x_hat=blank)
    return list(objectives.rate_distortion(blank, generated, 1.0, **_objective(config)))


class Journal(tf.keras.callbacks.Callback):
    """Writes metrics.jsonl and TensorBoard events, validates, saves checkpoints, exports the model.

    Training metrics are means over the steps since the line before. The run stops when the last
    step is done, or with an error when the loss is not finite.

    Args:
      workdir: folder that gets all this.
      config: as in common/recipes.py.
      trainer: the model that Keras trains.
      rate: the learning rate, which may depend on validation.
      sources: validation images; may be empty.
      lock: that of the folder, if others may want it.
    """

    _supports_tf_logs = True
    _NUM_PICTURES = 4

    def __init__(self, workdir: pathlib.Path, config, trainer: Trainer, rate: schedules.Schedule,
                 sources: list[data.Source], lock: locks.Lock | None = None):
        super().__init__()
        self._workdir = workdir
        self._lock = lock
        self._config = config
        self._trainer = trainer
        self._rate = rate
        self._best_loss = tf.Variable(math.inf, trainable=False)
        # The step of the last interval's end that is over, validation and all.
        self._validated_step = tf.Variable(0, trainable=False, dtype=tf.int64)
        self._finishing = False
        self._checkpoints = checkpoints.Checkpoints(
            workdir / "checkpoints", codec=trainer.codec, result=trainer.result,
            optimizer=trainer.optimizer, best_loss=self._best_loss, settled=self._validated_step,
            **trainer.state())
        self._progress = None
        self._trained = {}  # the last means of what was measured in training
        self._validation = data.whole_images(sources) if sources else None
        self._validator = Validator(trainer.result, config, trainer.rate_control)
        self._pictures = [source.read() for source in sources[:self._NUM_PICTURES]]
        with checkpoints.writing(workdir / "tensorboard"):
            self._writer = tf.summary.create_file_writer(str(workdir / "tensorboard"))
        with self._writing_events():
            for i, picture in enumerate(self._pictures):
                tf.summary.image(f"validation/{i}/original", picture[None], 0)
            self._writer.flush()

    @property
    def step(self) -> int:
        """How many steps are done."""
        return int(self._trainer.optimizer.iterations.numpy())

    def restore(self, folder: pathlib.Path) -> None:
        """Goes back to the last checkpoint of the run in `folder`, if there is one.

        Raises:
          UserError: no checkpoint can be read.
        """
        self._checkpoints.restore(folder / "checkpoints")
        path = self._workdir / "metrics.jsonl"
        kept = [line for line in _lines(path) if self.step > 0 and self._is_done(line)]
        with replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))

    def catch_up(self) -> None:
        """Does what an interrupted process left to be done at this step."""
        self._progress = Progress(self.step, self._config.train.num_steps)
        if self.step % self._config.train.log_interval == 0:
            self._write_training()
        if self.step and self._ends_interval() and not self._is_validated():
            self._finish_interval()

    def _is_done(self, line):
        """Whether a line of metrics.jsonl is of the training up to the checkpoint."""
        if line["step"] == self.step:
            return self._is_validated() or (
                line["split"] == "train" and not self._trainer.window.result())
        return line["step"] < self.step

    def _is_validated(self):
        return self.step == int(self._validated_step)

    def _ends_interval(self):
        return self.step >= self._config.train.num_steps or not (
            self.step % self._config.train.checkpoint_interval)

    def interrupt(self) -> str:
        """Saves a checkpoint in the middle of an interval, for a process that is to end.

        Returns:
          The step that it can go on at, and that of the end.
        """
        with tf.init_scope():  # Python may be tracing a graph, of which this is to be no part
            # Of the end of an interval, half is no state to go on from.
            if not self._finishing and self.step and self._is_finite():
                self._checkpoints.save(self.step)
        return f"step {self._checkpoints.last or 0} of {self._config.train.num_steps}"

    def on_train_batch_end(self, batch, logs=None):
        if self._lock:
            self._lock.require()
        self._require_finite(float(logs["rd_loss"]))
        if self.step % self._config.train.log_interval == 0:
            self._write_training()
        self._progress.step(self.step, lambda: self._trainer.window.result() or self._trained)
        if self.step >= self._config.train.num_steps:
            self.model.stop_training = True
        stopping.stop_if_asked()

    def on_epoch_end(self, epoch, logs=None):
        self._finish_interval()

    def _finish_interval(self) -> None:
        """Finishes an interval: validation, export, checkpoint and log."""
        by_level = self._validate()
        measured = self._means(by_level)
        if not self._is_finite():
            raise self._diverged()
        with stopping.unstoppable():
            if self._checkpoints.last is None:  # from here on there are results, which need one
                self._checkpoints.save(self.step)
            self._finishing = True
            if by_level:
                self._record_validation(by_level, measured)
            else:  # then the last is the best
                self._write_training()
                self._export()
            self._validated_step.assign(self.step)
            self._checkpoints.save(self.step)
            self._finishing = False
            with self._writing_events():
                self._writer.flush()
            self._progress.interval(self.step, self._trained, measured)

    def validate(self) -> None:
        """Measures and exports the model as it is before training."""
        by_level = self._validate()
        if by_level:
            self._record_validation(by_level, self._means(by_level))

    def _validate(self) -> dict[int, dict[str, float]]:
        self._trainer.update_offsets()
        if self._validation is None:
            return {}
        return self._validator(self._validation)

    def _means(self, by_level: dict[int, dict[str, float]]) -> dict[str, float]:
        """The means over all levels of what validation measured; nothing of nothing."""
        rows = [*by_level.values()]
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]
                 } if rows else {}
        self._require_finite(means.get("rd_loss", 0.0))
        return means

    def _record_validation(self, by_level: dict[int, dict[str, float]],
                           measured: dict[str, float]) -> None:
        """Acts on what validation measured, by level and on average."""
        self._write_training()
        self._write("validation", measured)
        if self._trainer.codec.levels:
            for level, row in by_level.items():
                self._write(f"validation/level={level}", row)
            self._write_curve([*by_level.values()])
        self._write_pictures()
        self._rate.observe(measured["rd_loss"])
        control = self._trainer.rate_control
        if control:  # losses with other weights cannot be compared
            if self.step:
                control.observe(measured["bpp"])
            target = self._config.train.rate_target
            if (self.step >= self._config.train.num_steps
                    and abs(measured["bpp"] / target - 1) > 0.05):
                logging.warning("the rate is %.3f bits per pixel, not %g as train.rate_target says",
                                measured["bpp"], target)
            self._export()
        elif measured["rd_loss"] < float(self._best_loss):
            self._best_loss.assign(measured["rd_loss"])
            self._export()

    def _require_finite(self, loss):
        if not math.isfinite(loss):
            raise self._diverged()

    def _is_finite(self):
        try:
            export.require_finite(self._trainer.codec, self._workdir)
        except UserError:
            return False
        return True

    def _diverged(self):
        last, optimizer = self._checkpoints.last, self._config.train.optimizer
        clip = optimizer.get("global_clipnorm")
        return UserError(
            f"the loss is not finite at step {self.step}: the same command with a lower "
            f"--config.train.optimizer.learning_rate (it is {optimizer.learning_rate:g}) or "
            f"--config.train.optimizer.global_clipnorm (it is {clip or 'off'}) " + (
                f"goes on at step {last}, the last checkpoint" if last else "begins again"))

    def _export(self):
        record = runs.record(type(self._trainer.result), self._config)
        if self._trainer.rate_control:
            record["train"]["rate_weight"] = float(
                self._trainer.rate_control.mean_weight.numpy())
        try:
            export.save(self._trainer.result, record, self._workdir / "model",
                        self._config.train.export_dtype)
        except ConversionError as error:  # later weights may fit
            if self.step >= self._config.train.num_steps:
                raise
            logging.warning("step %d is not exported: %s", self.step, error)

    def _write_training(self):
        means = self._trainer.window.result()
        if means:
            self._trained = means
            self._write("train", means)
            self._trainer.window.reset()

    def _write(self, split, values):
        with open(self._workdir / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": self.step, "split": split, **values}) + "\n")
        with self._writing_events():
            for name, value in values.items():
                tf.summary.scalar(f"{split}/{name}", value, self.step)

    @contextlib.contextmanager
    def _writing_events(self):
        with checkpoints.writing(self._workdir / "tensorboard"), self._writer.as_default():
            yield

    def _write_curve(self, rows):
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot([row["bpp"] for row in rows], [row["psnr"] for row in rows], "o-")
        axes.set(xlabel="bits per pixel", ylabel="PSNR (RGB), dB", title=f"step {self.step}")
        axes.grid(alpha=0.3)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        with self._writing_events():
            picture = np.asarray(canvas.buffer_rgba())[None, ..., :3]
            tf.summary.image("validation/curve", picture, self.step)

    def _write_pictures(self):
        with self._writing_events():
            for i, picture in enumerate(self._pictures):
                x_hat = self._trainer.result(data.to_float(picture)[None]).x_hat
                tf.summary.image(
                    f"validation/{i}/reconstruction", images.to_uint8(x_hat), self.step)


def run(model_class: type[Codec], config, workdir: str | os.PathLike,
        make_trainer: Callable[..., Trainer] = Trainer) -> pathlib.Path:
    """Trains `model_class` in the folder `workdir`, or goes on with the training there.

    Args:
      model_class: what to train.
      config: as in common/recipes.py.
      workdir: the folder.
      make_trainer: takes the arguments of `Trainer`.

    Returns:
      The folder of the exported model: that with the lowest validation loss, or, if it was trained
      for a rate, the last one.

    Raises:
      UserError: a mistake in the config or the data, or a loss that is not finite.
    """
    workdir = pathlib.Path(workdir)
    if config.model.get("levels"):  # one lambda says nothing of them
        config = config.copy_and_resolve_references()
        with config.train.ignore_type():
            config.train.rd_lambda = None
    strategy = distribution.build(config.train.strategy)
    with contextlib.ExitStack() as stack:
        lock = None
        if distribution.is_chief(strategy):
            folder, lock = workdir, stack.enter_context(locks.held(workdir))
        else:  # all workers do the same, the folder of one is kept
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _run(model_class, config, workdir, folder, make_trainer, strategy, lock, stack)
    return workdir / "model"


def _run(model_class, config, workdir, folder, make_trainer, strategy, lock, stack):
    """Trains, in `folder`; what `stack` has lasts as long as that."""
    saved = checkpoints.steps(workdir / "checkpoints")
    begun = bool(saved) or _has_results(workdir)
    # A run goes on as it began, on any machine.
    chosen = precision.choose(
        begun and runs.fact(workdir, "precision") or config.train.precision)
    print(f"run: {workdir}, in {chosen}", flush=True)
    _check(config, strategy.num_replicas_in_sync)
    sources = data.find(config.data.train)
    validation_sources = (
        data.readable(data.find(config.data.validation)) if config.data.validation else [])
    _check_distortion(config, validation_sources)
    content = {"data.train": data.content(sources),
               "data.validation": data.content(validation_sources)}
    warm_start = None
    if config.train.warm_start:
        try:
            warm_start = runs.find_model("train.warm_start", config.train.warm_start, workdir)
            content["train.warm_start"] = export.fingerprint(warm_start)
        except UserError:
            if not saved:  # else it is not needed any more
                raise
    record, changes = runs.record(model_class, config), {}
    if begun and folder == workdir:
        changes = _claim(workdir, record, begun, content)
        if saved and saved[0] > config.train.num_steps:
            raise UserError(f"train.num_steps is {config.train.num_steps}, but {saved[0]} steps "
                            f"are done in {workdir}; need at least so many")
    with strategy.scope():
        trainer, rate = _build(model_class, config, make_trainer, chosen)
    if isinstance(rate, schedules.ReduceOnPlateau):
        if not validation_sources:
            raise UserError("train.schedule ReduceOnPlateau needs data.validation")
        if config.train.rate_target is not None:
            raise UserError("train.schedule ReduceOnPlateau compares losses, but with "
                            "train.rate_target their weights change; use another schedule")
    crops = data.Crops(
        sources, config.data.patch_size, config.seed, min_scale=config.data.min_scale,
        crops_per_image=config.data.crops_per_image, flip=config.data.flip,
        cache_gib=config.data.cache_gib)

    if not begun and folder == workdir:
        _claim(workdir, record, begun, content, precision=chosen)
    journal = Journal(folder, config, trainer, rate, validation_sources, lock)
    journal.restore(workdir)
    if begun and not saved:
        logging.warning("%s was stopped before its first checkpoint: it begins anew", workdir)
    if changes:
        runs.record_changes(workdir, record, changes, step=journal.step)
        for key, (before, after) in changes.items():
            print(f"from step {journal.step} on: {key} is {after}, was {before}", flush=True)
        before, after = changes.get("train.optimizer.learning_rate", (1, 1))
        rate.rescale(after / before)
    journal.catch_up()
    if journal.step == 0:
        _begin(trainer, warm_start, journal)
    if strategy.cluster_resolver is None:  # several workers would have to save together
        stack.enter_context(stopping.saved_by(journal.interrupt))
    _fit(trainer, strategy, config, crops, [journal, *_profiler(config, folder)], journal.step)


def _claim(workdir, record, begun, content, **facts) -> dict[str, tuple]:
    """As `runs.claim`; `content` tells of what paths lead to, which may be moved."""
    before = runs.fact(workdir, "content") or {}
    same = [key for key in content if before.get(key, content[key]) == content[key]]
    changes = runs.claim(
        workdir, record, begun, may_change={*_MAY_CHANGE, *same},
        advice=" to begin anew, from its weights with --config.train.warm_start="
               f"{workdir}", **facts, content=content)
    for key in content:
        if begun and key not in changes and key not in same:
            logging.warning("%s holds other files than when the run began", key)
        if key in changes and key not in before:
            logging.warning("%s is another, and it is not known whether it holds the same: the "
                            "run began with a version that took no note", key)
    return changes


def _has_results(workdir: pathlib.Path) -> bool:
    """Whether a folder without checkpoints has some results of training.

    Raises:
      UserError: it has such as there are only after a checkpoint.
    """
    lines = _lines(workdir / "metrics.jsonl")
    steps = [line["step"] for line in lines if line["step"] > 0]
    exported = (workdir / "model").exists() and not any(  # that is done before training, too
        line["step"] == 0 and line["split"] == "validation" for line in lines)
    if exported or any(line["step"] > 0 and line["split"] != "train" for line in lines):
        raise UserError(
            f"{workdir} has results, of {max(steps, default=0)} steps, but no checkpoint to go on "
            "from; put its checkpoints/ back, or choose another --xid to begin anew" + (
                f", from its model with --config.train.warm_start={workdir}"
                if (workdir / "model").exists() else ""))
    return bool(steps)


def _build(model_class, config, make_trainer, chosen) -> tuple[Trainer, schedules.Schedule]:
    """The compiled trainer of a new model, and its schedule of the learning rate."""
    tf.keras.utils.set_random_seed(config.seed)
    arguments.check(
        f"config.model does not fit {model_class.__module__}.{model_class.__name__} (a config of "
        "another package is one for python -m <package>.train)", model_class, **config.model)
    with precision.policy(chosen):
        codec = export.build(model_class, config.to_dict())
    # An exported model is one of float32; integer networks and validation are made of that.
    average = None
    if config.train.ema_decay or chosen != "float32":
        average = export.build(model_class, config.to_dict())
    rate = schedules.learning_rate(
        config.train.schedule, config.train.optimizer.learning_rate, config.train.num_steps)
    optimizer = optimizers.build(config.train.optimizer, rate)
    quantizers.for_training(  # is there one?
        config.train.quantizer, tf.zeros(2, tf.int32), 0, config.train.num_steps)
    (average or codec).prepare_coding()  # can it be coded?
    trainer = make_trainer(codec, config, average)
    trainer.compile(optimizer=optimizer, jit_compile=_jit_compile(config.train.jit_compile))
    trainer.distribute_reduction_method = "first"  # all replicas return the same
    optimizer.build(codec.trainable_variables)
    return trainer, rate


def _begin(trainer, warm_start: pathlib.Path | None, journal) -> None:
    if warm_start:
        fresh = export.warm_start(trainer.codec, warm_start)
        print(f"warm start from {warm_start}; fresh: {', '.join(fresh) or 'nothing'}")
        weight = export.read_config(warm_start).get("train", {}).get("rate_weight")
        if trainer.rate_control and weight:
            trainer.rate_control.begin(weight)
    trainer.result.set_weights(trainer.codec.get_weights())
    if warm_start:
        journal.validate()


def _fit(trainer, strategy, config, crops, callbacks, step: int) -> None:
    """Trains from `step` to the end, an epoch from one checkpoint to the next."""
    num_steps = config.train.num_steps
    interval = min(config.train.checkpoint_interval, num_steps)

    def fit(first, steps_per_epoch, epochs):
        def batches(context=None):
            return data.training_batches(
                crops, config.data.batch_size, first, num_steps, trainer.batches_per_step,
                distribution.share(context))

        done = first // interval
        trainer.fit(
            strategy.distribute_datasets_from_function(batches)
            if strategy.num_replicas_in_sync > 1 else batches(),
            initial_epoch=done, epochs=done + epochs, steps_per_epoch=steps_per_epoch,
            callbacks=callbacks, verbose=0)

    if step % interval and step < num_steps:  # what was interrupted
        rest = min(interval - step % interval, num_steps - step)
        fit(step, rest, epochs=1)
        step += rest
    if step < num_steps:
        fit(step, interval, math.ceil((num_steps - step) / interval))


def program(*model_classes: type[Codec],
            make_trainer: Callable[..., Trainer] = Trainer) -> programs.Program:
    """The program of `<package>/train.py`. Of several classes, config.module picks one."""
    by_module = {each.__module__.rpartition(".")[2]: each for each in model_classes}
    package = model_classes[0].__module__.partition(".")[0]

    def train(config, workdir):
        if "train" not in config:
            raise UserError("the config has no section train, so it is none to train with; one "
                            f"for inference belongs to python -m {package}.itinf")
        module = config.get("module", "models")
        if module not in by_module:
            raise UserError(f"unknown module '{module}'; known: {', '.join(by_module)}")
        print(f"exported model: {run(by_module[module], config, workdir, make_trainer)}")

    def check(config, workdir):
        _check(config, replicas=1)
        for name in filter(None, (config.data.train, config.data.validation)):
            data.find(name)
        if config.train.warm_start:
            runs.find_model("train.warm_start", config.train.warm_start, workdir)

    return programs.Program(package, train, _split_components, check)


def _split_components(argv):
    components = [match.groups() for match in map(_COMPONENT.fullmatch, argv) if match]
    return ([arg for arg in argv if not _COMPONENT.fullmatch(arg)],
            lambda config: override_components(config, components))


def override_components(config, overrides: Iterable[tuple[str, str, str]]) -> None:
    """Sets entries of the sections of config.train that each name a class: train.optimizer, ...

    What its class does not take is found when it is built. With another class, the arguments of
    the one before go, but for those that all optimisers take.

    Args:
      config: the config to change.
      overrides: (section, key, value as on the command line).
    """
    if "train" not in config:  # `program` says what to do
        return
    for section, key, value in sorted(overrides, key=lambda override: override[1] != "cls"):
        component = config.train[section]
        with config.unlocked(), component.ignore_type():
            if key == "cls" and value != component.cls:
                for other in set(component) - {"cls", *_OF_ALL_OPTIMIZERS}:
                    del component[other]
            try:
                component[key] = ast.literal_eval(value)
            except (ValueError, SyntaxError):  # a name without quotes
                component[key] = value


def _check(config, replicas: int) -> None:
    for section, keys in (("data", ("patch_size", "batch_size", "crops_per_image")),
                          ("train", ("num_steps", "log_interval", "checkpoint_interval"))):
        for key in keys:
            if config[section][key] < 1:
                raise UserError(f"{section}.{key} is {config[section][key]}; need at least 1")
    if not 0 <= config.train.ema_decay < 1:
        raise UserError(f"train.ema_decay is {config.train.ema_decay}; need 0 (off) to below 1")
    if config.train.export_dtype not in weights.DTYPES:
        raise UserError(f"train.export_dtype is '{config.train.export_dtype}'; known: "
                        f"{', '.join(weights.DTYPES)}")
    if not config.model.get("levels") and config.train.rd_lambda is None:
        raise UserError("train.rd_lambda is None, as for models with model.levels, which this one "
                        "has not; give the lambda to train for")
    if config.model.get("levels") and config.train.rate_target is not None:
        raise UserError("train.rate_target is for models of one rate; those with model.levels have "
                        "a range of them")
    if config.seed < 0:
        raise UserError(f"seed is {config.seed}; need at least 0")
    if config.data.batch_size % (config.data.crops_per_image * replicas):
        raise UserError(
            f"data.batch_size {config.data.batch_size} is not a multiple of data.crops_per_image "
            f"{config.data.crops_per_image}" + f" times {replicas} devices" * (replicas > 1))


def _check_distortion(config, validation_sources: list[data.Source]) -> None:
    if not 0 <= config.train.lpips_weight < math.inf:
        raise UserError(f"train.lpips_weight is {config.train.lpips_weight}; need 0 or more")
    sides = {"data.patch_size": config.data.patch_size}
    sides |= {f"validation image {source.name}": min(source.size())
              for source in validation_sources}
    for name, side in sides.items():
        objectives.check_side(side, name, config.train.distortion, config.train.lpips_weight)
    if config.train.distortion != "ms_ssim":
        return
    levels = config.model.get("levels")
    rd_lambda = min(levels.rd_lambda) if levels else config.train.rd_lambda
    if rd_lambda < min(recipes.MS_SSIM_LAMBDAS) / 10:
        raise UserError(f"rd_lambda {rd_lambda:g} is one for MSE: nothing would "
                        "be left of the image; for MS-SSIM, CompressAI has "
                        f"{min(recipes.MS_SSIM_LAMBDAS):g} to {max(recipes.MS_SSIM_LAMBDAS):g}")


def _jit_compile(setting: str) -> bool:
    if setting not in ("auto", "on", "off"):
        raise UserError(f"train.jit_compile is '{setting}'; use auto, on or off")
    # On CPUs, XLA's convolutions are several times slower than oneDNN's.
    return setting == "on" or setting == "auto" and bool(tf.config.list_physical_devices("GPU"))


def _profiler(config, workdir):
    if not config.train.profile_steps:
        return []
    return [tf.keras.callbacks.TensorBoard(
        str(workdir / "tensorboard"), write_graph=False, update_freq=10**9,
        profile_batch=tuple(config.train.profile_steps))]


def _lines(path: pathlib.Path) -> list[dict]:
    """The lines of metrics.jsonl; without those that are no such lines, as if half-written."""
    if not path.exists():
        return []
    lines = [_parse(line) for line in path.read_text(errors="replace").splitlines()]
    kept = [line for line in lines if line]
    if len(kept) < len(lines):
        logging.warning("dropped %d damaged or half-written lines of %s", len(lines) - len(kept),
                        path)
    return kept


def _parse(line: str) -> dict | None:
    try:
        parsed = json.loads(line)
        return parsed if int(parsed["step"]) >= 0 and str(parsed["split"]) else None
    except (ValueError, TypeError, KeyError):
        return None
