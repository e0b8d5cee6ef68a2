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
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf
from absl import flags, logging

from common import (
    data,
    export,
    images,
    metrics,
    objectives,
    optimizers,
    quantizers,
    rate_control,
    recipes,
    runs,
    schedules,
)
from common.cli import UserError
from common.exact import ConversionError
from common.files import replacing
from common.model import Model

# What the command line says of a component: its class, or arguments that the config need not have.
_COMPONENT = re.compile(r"--config\.train\.(optimizer|schedule|quantizer|rate_control)\.(\w+)=(.*)")
_OF_ALL_OPTIMIZERS = ("learning_rate", "global_clipnorm", "weight_decay")

flags.disclaim_key_flags()  # `--help` of the package's train.py lists the flags of `runs.main`


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
    """

    batches_per_step = 1

    def __init__(self, codec: Model, config, average: Model | None = None):
        super().__init__()
        self.codec = codec
        self.result = average or codec
        self.rate_control = None
        if config.train.rate_target is not None:
            self.rate_control = rate_control.build(
                config.train.rate_control, config.train.rate_target, config.train.num_steps)
        self._config = config
        self._objective = dict(
            distortion=config.train.distortion, lpips_weight=config.train.lpips_weight)
        blank = tf.zeros([1, metrics.MS_SSIM_MIN_SIDE, metrics.MS_SSIM_MIN_SIDE, 3])
        generated = self.result(blank[:, :64, :64])._replace(x_hat=blank)
        names = objectives.rate_distortion(blank, generated, 1.0, **self._objective)
        self._validation = {name: tf.keras.metrics.Mean(f"validation_{name}") for name in names}

    def update_offsets(self):
        """Recentres the integer grids, on which some quantizers round in training too."""
        for codec in {self.codec, self.result}:
            codec.update_offsets()

    def state(self) -> dict:
        """What a checkpoint holds by name besides models and optimiser."""
        return {"rate_control": self.rate_control} if self.rate_control else {}

    def additional_loss(self, x, x_hat, y_hat) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """What a subclass adds to the loss of the codec, and what it measured by name.

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
        step = self.optimizer.iterations
        key = quantizers.fold_in([self._config.seed, 0], step)
        quantizer = quantizers.Keeping(quantizers.for_training(
            self._config.train.quantizer, key, step, self._config.train.num_steps))
        rd_lambda = schedules.rd_lambda(
            step, self._config.train.rd_lambda, self._config.train.num_steps,
            **self._config.train.rd_lambda_warmup)
        with tf.GradientTape() as tape:
            latents = self.codec.infer(x, training=True)
            generated = self.codec.generate(latents, quantizer, training=True)
            rate_weight = self._rate_weight(step, x, latents, generated)
            measured = objectives.rate_distortion(
                x, generated, rd_lambda, rate_weight=rate_weight, **self._objective)
            additional, judged = self.additional_loss(
                x, images.crop_to(generated.x_hat, x), quantizer.decoded["y"])
            loss = measured["rd_loss"] + additional
        weights = self.codec.trainable_variables
        gradients = tape.gradient(loss, weights)
        self.optimizer.apply_gradients(zip(gradients, weights))
        if self.result is not self.codec:
            # Not Keras's use_ema, which overwrites the weights that are trained when `fit` ends.
            decay = self._config.train.ema_decay
            for average, weight in zip(self.result.variables, self.codec.variables):
                # What is not trained, as batch normalisation's statistics, is an average already.
                average.assign(decay * average + (1 - decay) * weight if weight.trainable
                               else weight)
        # Keras brings its learning rate up to date in `apply_gradients`.
        return {**measured, **judged, "rd_lambda": rd_lambda, "rate_weight": rate_weight,
                "learning_rate": tf.identity(self.optimizer.learning_rate)}

    def _rate_weight(self, step, x, latents, generated):
        if self.rate_control is None:
            return tf.ones([])

        def mean(bits):
            return tf.reduce_mean(tf.add_n(list(objectives.bits_per_pixel(x, bits).values())))

        def coded_bpp():
            # The graph drops the synthesis, whose output nothing needs.
            fixed = tf.nest.map_structure(tf.stop_gradient, latents)
            return mean(self.codec.generate(fixed, quantizers.Round()).bits)

        return self.rate_control(step, mean(generated.bits), coded_bpp)

    @tf.autograph.experimental.do_not_convert
    def test_step(self, x):
        rate_weight = self.rate_control.mean_weight if self.rate_control else 1.0
        measured = objectives.rate_distortion(
            x, self.result(x), self._config.train.rd_lambda, rate_weight=rate_weight,
            eight_bit=True, **self._objective)
        for name, value in measured.items():
            self._validation[name].update_state(value)
        return {name: mean.result() for name, mean in self._validation.items()}


class Journal(tf.keras.callbacks.Callback):
    """Writes metrics.jsonl and TensorBoard events, saves checkpoints, exports the best model.

    Training metrics are means over the steps since the line before. The run stops when the last
    step is done, or with an error when the loss is not finite.

    Args:
      workdir: folder of the run.
      config: as in common/recipes.py.
      checkpoint: codec, its average, optimizer and best loss.
      rate: the learning rate, which may depend on validation.
      sources: validation images, for TensorBoard; may be empty.
    """

    _supports_tf_logs = True
    _NUM_PICTURES = 4

    def __init__(self, workdir: pathlib.Path, config, checkpoint: tf.train.Checkpoint,
                 rate: schedules.Schedule, sources):
        super().__init__()
        self._workdir = workdir
        self._config = config
        self._checkpoint = checkpoint
        self._rate = rate
        self._manager = tf.train.CheckpointManager(
            checkpoint, str(workdir / "checkpoints"), max_to_keep=2, checkpoint_name="step")
        self._pictures = [source.read() for source in sources[:self._NUM_PICTURES]]
        self._writer = tf.summary.create_file_writer(str(workdir / "tensorboard"))
        with self._writer.as_default():
            for i, picture in enumerate(self._pictures):
                tf.summary.image(f"validation/{i}/original", picture[None], 0)
        self._window = []

    def restore(self) -> int:
        """Goes back to the last checkpoint, if there is one; returns the step it was made at.

        Raises:
          UserError: the checkpoint cannot be read.
        """
        latest = self._manager.latest_checkpoint
        if latest:
            try:
                self._checkpoint.restore(latest).assert_consumed()
            except (tf.errors.OpError, AssertionError, ValueError) as error:
                reason = str(error).strip().splitlines()[0]
                raise UserError(f"checkpoint {latest} cannot be restored ({reason})") from None
        step = int(self._checkpoint.optimizer.iterations)
        path = self._workdir / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines
                if step > 0 and _is_json(line) and json.loads(line)["step"] <= step]
        with replacing(path) as temporary:
            temporary.write_text("".join(line + "\n" for line in kept))
        return step

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.optimizer.iterations)
        logs = {name: float(value) for name, value in logs.items()}
        self._require_finite(logs["rd_loss"], step)
        self._window.append(logs)
        if step % self._config.train.log_interval == 0:
            self._write_window(step)
        if step >= self._config.train.num_steps:
            self.model.stop_training = True

    def on_test_begin(self, logs=None):
        self.model.update_offsets()

    def on_test_end(self, logs=None):
        step = int(self.model.optimizer.iterations)
        self._write_window(step)
        measured = {name: float(value) for name, value in logs.items()}
        self._require_finite(measured["rd_loss"], step)
        self._write(step, "validation", measured)
        self._write_pictures(step)
        self._rate.observe(measured["rd_loss"])
        if self.model.rate_control:  # losses with other weights cannot be compared
            if step:
                self.model.rate_control.observe(measured["bpp"])
            target = self._config.train.rate_target
            if step >= self._config.train.num_steps and abs(measured["bpp"] / target - 1) > 0.05:
                logging.warning("the rate is %.3f bits per pixel, not %g as train.rate_target says",
                                measured["bpp"], target)
            self._export()
        elif measured["rd_loss"] < float(self._checkpoint.best_loss):
            self._checkpoint.best_loss.assign(measured["rd_loss"])
            self._export()

    def on_epoch_end(self, epoch, logs=None):
        step = int(self.model.optimizer.iterations)
        self._write_window(step)
        export.require_finite(self.model.codec, f"step {step}")
        if not self._config.data.validation:  # then the last is the best
            self.model.update_offsets()
            self._export()
        self._manager.save(checkpoint_number=step)
        self._writer.flush()

    def _require_finite(self, loss, step):
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is not finite at step {step}: lower the learning rate or the gradient "
                f"clip; the last good checkpoint is {self._manager.latest_checkpoint}")

    def _export(self):
        step = int(self.model.optimizer.iterations)
        record = runs.record(type(self.model.result), self._config)
        if self.model.rate_control:
            record["train"]["rate_weight"] = float(self.model.rate_control.mean_weight)
        try:
            export.save(self.model.result, record, self._workdir / "model")
        except ConversionError as error:  # later weights may fit
            if step >= self._config.train.num_steps:
                raise
            logging.warning("step %d is not exported: %s", step, error)

    def _write_window(self, step):
        if self._window:
            means = {k: float(np.mean([logs[k] for logs in self._window])) for k in self._window[0]}
            self._write(step, "train", means)
            self._window = []

    def _write(self, step, split, values):
        with open(self._workdir / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.scalar(f"{split}/{name}", value, step)

    def _write_pictures(self, step):
        with self._writer.as_default():
            for i, picture in enumerate(self._pictures):
                x_hat = self.model.result(data.to_float(picture)[None]).x_hat
                tf.summary.image(f"validation/{i}/reconstruction", images.to_uint8(x_hat), step)


def run(model_class: type[Model], config, workdir: str | os.PathLike,
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
    _check(config)
    sources = data.find(config.data.train)
    validation_sources = (
        data.readable(data.find(config.data.validation)) if config.data.validation else [])
    _check_distortion(config, validation_sources)
    warm_start = (
        runs.find_model("train.warm_start", config.train.warm_start, workdir)
        if config.train.warm_start else None)
    tf.keras.utils.set_random_seed(config.seed)
    with _precision(config.train.precision):
        codec = export.build(model_class, config.to_dict())
    # An exported model is one of float32; integer networks and validation are made of that.
    average = None
    if config.train.ema_decay or config.train.precision != "float32":
        average = export.build(model_class, config.to_dict())
    rate = schedules.learning_rate(
        config.train.schedule, config.train.optimizer.learning_rate, config.train.num_steps)
    if isinstance(rate, schedules.ReduceOnPlateau):
        if not validation_sources:
            raise UserError("train.schedule ReduceOnPlateau needs data.validation")
        if config.train.rate_target is not None:
            raise UserError("train.schedule ReduceOnPlateau compares losses, but with "
                            "train.rate_target their weights change; use another schedule")
    optimizer = optimizers.build(config.train.optimizer, rate)
    quantizers.for_training(  # is there one?
        config.train.quantizer, tf.zeros(2, tf.int32), 0, config.train.num_steps)
    (average or codec).prepare_coding()  # can it be coded?
    trainer = make_trainer(codec, config, average)
    crops = data.Crops(
        sources, config.data.patch_size, config.seed, min_scale=config.data.min_scale,
        crops_per_image=config.data.crops_per_image, flip=config.data.flip,
        cache_gib=config.data.cache_gib)

    runs.claim(workdir, runs.record(model_class, config),
               begun=bool(tf.train.latest_checkpoint(str(workdir / "checkpoints"))))
    trainer.compile(optimizer=optimizer, jit_compile=_jit_compile(config.train.jit_compile))
    optimizer.build(codec.trainable_variables)
    best_loss = tf.Variable(math.inf, trainable=False)
    checkpoint = tf.train.Checkpoint(
        codec=codec, result=trainer.result, optimizer=optimizer, best_loss=best_loss,
        **trainer.state())
    journal = Journal(workdir, config, checkpoint, rate, validation_sources)
    step = journal.restore()
    validation = data.whole_images(validation_sources) if validation_sources else None
    if step == 0 and warm_start:
        fresh = export.warm_start(codec, warm_start)
        print(f"warm start from {warm_start}; fresh: {', '.join(fresh) or 'nothing'}")
        weight = export.read_config(warm_start).get("train", {}).get("rate_weight")
        if trainer.rate_control and weight:
            trainer.rate_control.begin(weight)
    if step == 0:
        trainer.result.set_weights(codec.get_weights())
        if warm_start and validation:
            trainer.evaluate(validation, callbacks=[journal], verbose=0)
    if step < config.train.num_steps:
        interval = min(config.train.checkpoint_interval, config.train.num_steps)
        batches = data.training_batches(
            crops, config.data.batch_size * trainer.batches_per_step, step,
            config.train.num_steps)
        trainer.fit(
            batches,
            initial_epoch=step // interval,
            epochs=step // interval + math.ceil((config.train.num_steps - step) / interval),
            steps_per_epoch=interval,
            validation_data=validation,
            callbacks=[journal, *_profiler(config, workdir)])
    return workdir / "model"


def main(*model_classes: type[Model], make_trainer: Callable[..., Trainer] = Trainer) -> None:
    """The command line of `<package>/train.py`. Of several classes, config.module picks one."""
    by_module = {each.__module__.rpartition(".")[2]: each for each in model_classes}
    components = []

    def prepare(argv):
        components.extend(filter(None, map(_COMPONENT.fullmatch, argv)))
        return [arg for arg in argv if not _COMPONENT.fullmatch(arg)]

    def amend(config):
        override_components(config, [match.groups() for match in components])

    def train(config, workdir):
        module = config.get("module", "models")
        if module not in by_module:
            raise UserError(f"unknown module '{module}'; known: {', '.join(by_module)}")
        print(f"exported model: {run(by_module[module], config, workdir, make_trainer)}")

    runs.main(train, prepare, amend)


def override_components(config, overrides: Iterable[tuple[str, str, str]]) -> None:
    """Sets entries of the sections of config.train that each name a class: train.optimizer, ...

    What its class does not take is found when it is built. With another class, the arguments of
    the one before go, but for those that all optimisers take.

    Args:
      config: the config to change.
      overrides: (section, key, value as on the command line).
    """
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


def _check(config) -> None:
    for section, keys in (("data", ("patch_size", "batch_size", "crops_per_image")),
                          ("train", ("num_steps", "log_interval", "checkpoint_interval"))):
        for key in keys:
            if config[section][key] < 1:
                raise UserError(f"{section}.{key} is {config[section][key]}; need at least 1")
    if not 0 <= config.train.ema_decay < 1:
        raise UserError(f"train.ema_decay is {config.train.ema_decay}; need 0 (off) to below 1")
    if config.seed < 0:
        raise UserError(f"seed is {config.seed}; need at least 0")
    if config.data.batch_size % config.data.crops_per_image:
        raise UserError(f"data.batch_size {config.data.batch_size} is no multiple of "
                        f"data.crops_per_image {config.data.crops_per_image}")


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
    if config.train.rd_lambda < min(recipes.MS_SSIM_LAMBDAS) / 10:
        raise UserError(f"train.rd_lambda {config.train.rd_lambda:g} is one for MSE: nothing would "
                        "be left of the image; for MS-SSIM, CompressAI has "
                        f"{min(recipes.MS_SSIM_LAMBDAS):g} to {max(recipes.MS_SSIM_LAMBDAS):g}")


@contextlib.contextmanager
def _precision(name: str):
    """Keras layers made within compute in this precision; their weights are float32.

    Raises:
      UserError: there is no such precision.
    """
    if name not in ("float32", "mixed_bfloat16"):
        raise UserError(f"train.precision is '{name}'; use float32 or mixed_bfloat16")
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


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


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        logging.warning("dropped a half-written line of metrics.jsonl")
        return False
    return True
