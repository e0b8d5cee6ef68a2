"""Training: `python -m <package>.train --config <package>/configs/<paper>.py`.

A run lives in <experiments_dir>/<xid>/wid=<n>-<runname>/ and is a function of its config.json
alone: the data and the noise of step n depend on (seed, n) and on nothing before. The same command
on the same folder goes on at the last checkpoint and ends with the same weights and the same
metrics.jsonl as a run that was never stopped.

    run               checks the config, builds the model, resumes (common/resuming.py), and loops:
      a step            infer, generate, loss, gradients, EMA (common/trainer.py)
      what follows it   log, validation, export, checkpoint (common/training_loop.py)
"""

import contextlib
import itertools
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import tensorflow as tf
from absl import logging
from ml_collections import config_dict

from common import (
    arguments,
    checkpoints,
    data,
    distribution,
    export,
    locks,
    optimizers,
    precision,
    quantizers,
    rate_control,
    resuming,
    runs,
    schedules,
    stopping,
    training_config,
)
from common.errors import UserError
from common.model import Codec
from common.trainer import Trainer
from common.training_loop import TrainingLoop

if TYPE_CHECKING:
    from common import programs


def run(model_class: type[Codec], config: config_dict.ConfigDict, workdir: str | os.PathLike,
        make_trainer: Callable[..., Trainer] = Trainer) -> pathlib.Path:
    """Trains `model_class` in the folder `workdir`, or goes on with the training there.

    Args:
      model_class: what to train.
      config: as in common/recipes.py.
      workdir: the folder.
      make_trainer: takes the arguments of `Trainer`.

    Returns:
      The folder of the exported model: that with the lowest validation loss, or, if it was trained
      for a rate or with a discriminator, the last one.

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
        _run(model_class, config, workdir, folder, make_trainer, strategy, lock)
    return workdir / "model"


def _run(model_class, config, workdir, folder, make_trainer, strategy, lock):
    """Trains, in `folder`, the run of `workdir`."""
    # What there is, and what is asked for.
    saved = checkpoints.steps(workdir / "checkpoints")
    begun = bool(saved) or resuming.has_results(workdir)
    # A run goes on as it began, on any machine.
    chosen = precision.choose(
        begun and runs.fact(workdir, "precision") or config.train.precision)
    print(f"run: {workdir}, in {chosen}", flush=True)
    training_config.check(config, strategy.num_replicas_in_sync)
    crops, validation_sources, content = _data(config)
    warm_start = content["train.warm_start"] = None
    if config.train.warm_start:
        try:
            warm_start = runs.find_model("train.warm_start", config.train.warm_start, workdir)
            content["train.warm_start"] = export.fingerprint(warm_start)
        except UserError:
            if not saved:
                raise
            del content["train.warm_start"]  # it is not needed any more
    record = runs.record(model_class, config)
    changes: dict = {}
    chief = folder == workdir  # folders of other workers are thrown away
    if begun and chief:
        changes = resuming.claim(workdir, record, begun, content)
        if saved and saved[0] > config.train.num_steps:
            raise UserError(f"train.num_steps is {config.train.num_steps}, but {saved[0]} steps "
                            f"are done in {workdir}; need at least so many")

    # The model. Only what can be built gets a folder.
    with strategy.scope():
        trainer, rate = build(model_class, config, make_trainer, chosen)
    if rate.follows_validation:
        if not validation_sources:
            raise UserError(f"train.schedule {config.train.schedule.cls} needs data.validation")
        if not trainer.comparable:
            raise UserError(
                f"train.schedule {config.train.schedule.cls} compares losses of validation, which "
                "do not say what is better: with train.rate_target their weights change, and a "
                "discriminator is no part of them; use another schedule")
    if isinstance(trainer.rate_control, rate_control.ProportionalIntegral) and (
            not validation_sources):
        logging.warning("without data.validation, train.rate_target is the rate of crops with "
                        "noise, not that of files")
    if not begun and chief:
        resuming.claim(workdir, record, begun, content, precision=chosen)

    # Back to where it was.
    loop = TrainingLoop(folder, config, trainer, rate, validation_sources, lock)
    loop.restore(workdir)
    if begun and not saved:
        logging.warning("%s was stopped before its first checkpoint: it begins anew", workdir)
    if changes:
        runs.record_changes(workdir, record, changes, step=loop.step)
        for key, (before, after) in changes.items():
            print(f"from step {loop.step} on: {key} is {after}, was {before}", flush=True)
    loop.finish_interrupted()
    if loop.step == 0:
        _begin(trainer, config, warm_start, loop)

    # And on to the end.
    step = _graph(trainer, strategy, training_config.jit_compile(config.train.jit_compile))
    if config.train.profile_steps:
        step = _profiled(step, config.train.profile_steps, folder / "tensorboard",
                         config.train.num_steps - loop.step)
    # Several workers would have to save together.
    saves = contextlib.nullcontext() if strategy.cluster_resolver else stopping.saved_by(
        loop.interrupt)
    with saves, strategy.scope():
        loop.run(step, _batches(crops, config, trainer, strategy, loop.step))


def _data(config) -> tuple[data.Crops, list[data.Source], dict[str, str | None]]:
    """The crops to train with, the images to validate with, and what tells both from others."""
    sources = data.find(config.data.train)
    validation_sources = (
        data.readable(data.find(config.data.validation)) if config.data.validation else [])
    training_config.check_distortion(config, validation_sources)
    crops = data.Crops(
        sources, config.data.patch_size, config.seed, min_scale=config.data.min_scale,
        crops_per_image=config.data.crops_per_image, flip=config.data.flip,
        cache_gib=config.data.cache_gib, by_size=config.data.by_size)
    return crops, validation_sources, {"data.train": data.content(sources),
                                       "data.validation": data.content(validation_sources)}


def build(model_class: type[Codec], config: config_dict.ConfigDict,
          make_trainer: Callable[..., Trainer] = Trainer, chosen: str = "float32"
          ) -> tuple[Trainer, schedules.Schedule]:
    """The trainer of a new model, and its schedule of the learning rate.

    Args:
      model_class, config, make_trainer: as in `run`.
      chosen: the precision, as from `precision.choose`.

    Raises:
      UserError: a mistake in the config.
    """
    tf.keras.utils.set_random_seed(config.seed)
    arguments.check(
        f"config.model does not fit {model_class.__module__}.{model_class.__name__} (a config of "
        "another package?)", model_class, **config.model)
    with precision.policy(chosen):
        codec = export.build(model_class, config.to_dict())
    # An exported model is one of float32; integer networks and validation are made of that.
    average = None
    if config.train.ema_decay or chosen != "float32":
        average = export.build(model_class, config.to_dict())
    rate = schedules.for_optimizer(
        config.train.schedule, config.train.optimizer, config.train.num_steps)
    optimizer = optimizers.build(config.train.optimizer, rate, chosen)
    quantizers.for_training(  # is there one?
        config.train.quantizer, tf.zeros(2, tf.int32), 0, config.train.num_steps)
    (average or codec).prepare_coding()  # can it be coded?
    training_config.jit_compile(config.train.jit_compile)  # is it a setting?
    trainer = make_trainer(codec, config, optimizer, average)
    optimizer.build(codec.trainable_variables)
    return trainer, rate


def _begin(trainer, config, warm_start: pathlib.Path | None, loop: TrainingLoop) -> None:
    """Takes the weights of a warm start, if there is one, and has them validated."""
    if warm_start:
        fresh = export.warm_start(trainer.codec, warm_start)
        print(f"warm start from {warm_start}; fresh: {', '.join(fresh) or 'nothing'}")
        for line in export.other_settings(trainer.codec, config.model.to_dict(), warm_start):
            logging.warning("the warm start has weights of other settings: %s", line)
        weight = export.read_config(warm_start).get("train", {}).get("rate_weight")
        if trainer.rate_control and weight:
            trainer.rate_control.begin(weight)
    trainer.result.set_weights(trainer.codec.get_weights())
    if warm_start:
        loop.validate_warm_start()


def _batches(crops, config, trainer, strategy, step: int) -> Iterator:
    """The batches from a step on, shared among all replicas."""
    def dataset(context=None):
        return data.training_batches(
            crops, config.data.batch_size, step, config.train.num_steps,
            trainer.batches_per_step, distribution.share(context))

    return iter(strategy.distribute_datasets_from_function(dataset)
                if strategy.num_replicas_in_sync > 1 else dataset())


def _graph(trainer, strategy, jit_compile: bool) -> Callable[[Iterator], dict[str, tf.Tensor]]:
    """A step of all replicas, as a graph: batches -> what was measured, which all return alike."""
    # No Python of models is to be rewritten as graphs: converting it all takes longer than tracing.
    train_step = tf.autograph.experimental.do_not_convert(trainer.train_step)
    if jit_compile:
        train_step = tf.function(train_step, autograph=False, jit_compile=True,
                                 reduce_retracing=True)

    def step(batches):
        measured = strategy.run(train_step, (next(batches),))
        return {name: strategy.experimental_local_results(value)[0]
                for name, value in measured.items()}

    return tf.function(step, autograph=False, reduce_retracing=True)


def _profiled(train_step, steps: tuple[int, int], folder: pathlib.Path, left: int):
    """`train_step`, whose calls from number steps[0] to steps[1] are profiled for TensorBoard."""
    first, last = steps[0], min(steps[1], left)
    if last < first:
        return train_step
    calls = itertools.count(1)

    def step(batches):
        call = next(calls)
        if call == first:
            tf.profiler.experimental.start(str(folder))
        measured = train_step(batches)
        if call == last:
            float(measured["rd_loss"])  # it is done, not only begun
            tf.profiler.experimental.stop()
        return measured

    return step


def program(*model_classes: type[Codec],
            make_trainer: Callable[..., Trainer] = Trainer) -> "programs.Program":
    """The program of `<package>/train.py`. Of several classes, config.module picks one."""
    by_module = {each.__module__.rpartition(".")[2]: each for each in model_classes}
    package = model_classes[0].__module__.partition(".")[0]

    def require_train(config):
        if "train" not in config:
            raise UserError("the config has no section train, so it is not one to train "
                            f"with; one to refine by belongs to python -m {package}.itinf")

    def train(config, workdir):
        require_train(config)
        module = config.get("module", "models")
        if module not in by_module:
            raise arguments.unknown("module", module, by_module)
        print(f"exported model: {run(by_module[module], config, workdir, make_trainer)}")

    def check(config, workdir):
        require_train(config)
        training_config.check(config, replicas=1)
        for name in filter(None, (config.data.train, config.data.validation)):
            data.find(name)
        if config.train.warm_start:
            runs.find_model("train.warm_start", config.train.warm_start, workdir)

    from common import programs  # which is for commands, and defines flags

    return programs.Program(package, train, training_config.override, check)
