"""Refinement: latents optimised for one image, as its encoder networks could not.

In papers it is iterative inference. The networks stay as they are; the latents are variables that
minimise the loss of training through `Codec.generate`. The decoder notices nothing. A method is a
quantizer, its temperature, an optimiser and a rule to stop (common/methods.py).

Every `check_interval` steps the latents are rounded as a file holds them, and measured. This gives

  the grid      on which the quantizer rounds until the next check: around the means that follow
                from rounded latents, for these are the means that the decoder knows
  the best      latents so far, of each image. They start with the encoder's own: refined latents
                are never worse, as far as `generate` tells
  the end       if the rule to stop says so, for all images of a batch

With a context, rounding is serial. The first check, and one of the best latents after the last,
find what a serial decoder has; checks in between come near it in a few passes, see `_FEW_PASSES`.
"""

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tqdm
from ml_collections import config_dict

from common import (
    arguments,
    coding,
    data,
    export,
    images,
    metrics,
    quantizers,
    schedules,
)
from common.errors import UserError
from common.model import Codec, Generated, Latents
from common.objectives import Objective
from common.optimizers import adam
from common.timing import stage

_QUANTIZERS = {
    "StochasticGumbel": lambda seed, tau: quantizers.StochasticGumbel(tau, seed),
    "DeterministicAnnealing": lambda seed, tau: quantizers.DeterministicAnnealing(tau),
    "UniformNoise": lambda seed, tau: quantizers.UniformNoise(seed),
    "StraightThrough": lambda seed, tau: quantizers.StraightThrough(),
    "Continuous": lambda seed, tau: quantizers.Continuous(),
}
_ANNEALED = ("StochasticGumbel", "DeterministicAnnealing")

# Of a context in most checks. A photograph takes a hundred passes, longer than ten steps. After
# three, the grid of the model joint_ar is another at 1 % of the elements, and the loss of rounded
# latents is the same within 0.2 %.
_FEW_PASSES = 3
_ALL_PASSES = tf.int32.max


class Refined(NamedTuple):
    """The result of refinement for a batch of images.

    Attributes:
      latents: float32 [B, h, w, C] each, rounded; the best ones.
      traces: for each image a list of rows, one a check: step, tau, loss (what the step before
        minimised, on the quantizer's values, in bits per pixel), and on rounded latents and 8-bit
        images rd_loss, bpp, mse, psnr. With a context, all but the first row are near those of a
        file, see `_FEW_PASSES`.
    """

    latents: Latents
    traces: list[list[dict[str, float]]]


class Refiner:
    """Refines latents of images of any size with one model and one method.

    Its step is traced once for all images, and once for all batches of them. Optimisers of Keras
    keep their moments in variables of one shape, and so would need a trace for every size of image.

    Args:
      model: an exported model.
      config: a method, as from `methods.method`.
      objective: what is minimised.

    Raises:
      UserError: the method's settings make none.
    """

    def __init__(self, model: Codec, config: config_dict.ConfigDict, objective: Objective):
        if config.quantizer not in _QUANTIZERS:
            raise arguments.unknown(
                "quantizer of refinement", config.quantizer, _QUANTIZERS)
        for key in ("num_steps", "check_interval"):
            if config[key] < 1:
                raise UserError(f"{key} is {config[key]}; need at least 1")
        if config.quantizer in _ANNEALED and not config.temperature:
            raise UserError(f"{config.quantizer} needs a temperature: rate, start and largest")
        self._model = model
        self._config = config
        self._objective = objective
        self._rate = schedules.learning_rate(
            config.schedule, min(config.travel / config.num_steps, config.largest_rate),
            config.num_steps)
        if self._rate.follows_validation:
            raise UserError(f"schedule {config.schedule.cls} follows the losses of validation, of "
                            "which refinement has none; use another schedule")
        self._graphs: dict[int | None, tuple[Any, Any]] = {}

    def __call__(self, x: tf.Tensor, progress: str | None = None, level: int | None = None
                 ) -> Refined:
        """Refines the latents that the encoder infers from images.

        Args:
          x: float32 [B, H, W, 3] in [0, 1].
          progress: what to call a progress bar; none by default.
          level: of a model with levels, as of `Codec.infer`.

        Raises:
          UserError: these are not images.
        """
        x = np.asarray(x)
        if x.dtype != np.float32 or x.ndim != 4 or x.shape[3] != 3 or not x.size or not (
                0 <= np.min(x) <= np.max(x) <= 1):
            raise UserError(f"images of {x.dtype}, {' x '.join(map(str, x.shape))}; need float32 "
                            "from 0 to 1, [images, height, width, 3]")
        latents = self._model.infer(x, level=level)
        one_step, check = self._compiled(latents, len(x))
        moments = [tf.nest.map_structure(tf.zeros_like, _movable(latents)) for _ in range(2)]
        best, best_loss, since_best = latents, np.full(len(x), np.inf), 0
        traces: list[list[dict]] = [[] for _ in x]
        loss = [np.nan] * len(x)
        with tqdm.tqdm(total=self._config.num_steps, desc=progress, unit="step", leave=None,
                       disable=None if progress else True) as bar:
            for step in range(self._config.num_steps + 1):
                last = step == self._config.num_steps
                if last or step % self._config.check_interval == 0:
                    measured, rounded, grid = check(
                        x, latents, _FEW_PASSES if step else _ALL_PASSES)
                    measured = {name: value.numpy() for name, value in measured.items()}
                    if not step:
                        encoders, encoders_loss = rounded, measured["rd_loss"]
                    for i, trace in enumerate(traces):
                        trace.append({
                            "step": step, "tau": float(self._temperature(step)),
                            "loss": float(loss[i]),
                            **{name: float(value[i]) for name, value in measured.items()}})
                    better = measured["rd_loss"] < best_loss
                    best_loss = np.where(better, measured["rd_loss"], best_loss)
                    best = _where(better, latents, best)
                    since_best = 0 if np.any(better) else since_best + 1
                    bar.set_postfix(rd_loss=float(np.mean(best_loss)))
                if last or since_best == self._config.patience > 0:
                    break
                loss, latents, moments = one_step(
                    x, latents, moments, grid, tf.constant(step))
                bar.update()
        measured, best, _ = check(x, best, _ALL_PASSES)
        better = measured["rd_loss"].numpy() < encoders_loss
        return Refined(_where(better, best, encoders), traces)

    def infer(self, model: Codec, image: np.ndarray, level: int | None = None) -> Latents:
        """The refined latents of an image, in a batch of one; in place of `coding.infer`."""
        image = coding.as_rgb(image)
        check_sides(image.shape[:2], "the image", self._objective)
        with stage("refinement"):
            return self(data.to_float(image)[None], "refinement", level).latents

    def _temperature(self, step):
        if not self._config.temperature:
            return tf.constant(np.nan)
        return schedules.temperature(step, self._config.num_steps, **self._config.temperature)

    def _compiled(self, latents, images):
        """Graphs of a step and of a check for so many images.

        Known to be one, it has its level's scales in the kernels (common/transforms/convolution.py)
        rather than in passes over activations, an eighth of the time of a step or more.
        """
        batch = 1 if images == 1 else None
        if batch not in self._graphs:
            image = tf.TensorSpec([batch, None, None, 3], tf.float32)
            moving = {name: tf.TensorSpec([batch, None, None, value.shape[-1]], tf.float32)
                      for name, value in _movable(latents).items()}
            spec = {name: moving.get(name, tf.TensorSpec([batch], tf.int32)) for name in latents}
            number = tf.TensorSpec([], tf.int32)
            self._graphs[batch] = (
                tf.function(self._step_graph, [image, spec, [moving, moving], moving, number],
                            autograph=False),
                tf.function(self._check_graph, [image, spec, number], autograph=False))
        return self._graphs[batch]

    def _per_image(self, x, generated, **options):
        rd_lambda = self._objective.rd_lambda
        if rd_lambda is None:
            assert self._model.levels is not None
            rd_lambda = self._model.levels.rd_lambda(generated.latents["level"])
        return self._objective.per_image(x, generated, rd_lambda, **options)

    def _check_graph(self, x, latents, passes):
        generated = self._model.generate(latents, quantizers.Round(passes))
        measured = self._per_image(x, generated, eight_bit=True)
        return measured, generated.latents, grid_of(generated)

    def _step_graph(self, x, latents, moments, grid, step):
        seed = quantizers.fold_in([self._config.seed, 0], step)
        quantizer = quantizers.OnGrid(
            _QUANTIZERS[self._config.quantizer](seed, self._temperature(step)), grid,
            quantizers.UniformNoise(seed).noise)
        moving = _movable(latents)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(moving)
            generated = self._model.generate(latents, quantizer)
            loss = self._per_image(x, generated)["rd_loss"]
            # In bits, so that Adam's epsilon means the same for images of all sizes.
            bits = tf.reduce_sum(loss) * tf.cast(tf.size(x[0, :, :, 0]), tf.float32)
        gradients = tape.gradient(bits, moving)
        moving, moments = adam(moving, gradients, moments, step, self._rate(step))
        return loss, {**latents, **moving}, moments


def _movable(latents: Latents) -> Latents:
    """All latents but the level, which is what it is."""
    return {name: value for name, value in latents.items() if name != "level"}


def _where(chosen: np.ndarray, latents: Latents, others: Latents) -> Latents:
    """Of each image of a batch its `latents` if it is chosen, else its `others`."""
    return {name: tf.where(tf.reshape(chosen, [-1, *[1] * (value.shape.rank - 1)]),
                           value, others[name])
            for name, value in latents.items()}


def grid_of(generated: Generated) -> Latents:
    """The offset of each latent's grid, of the latent's shape; 0 if no quantizer met it."""
    return {name: tf.broadcast_to(generated.offsets.get(name, 0.0), tf.shape(value))
            for name, value in _movable(generated.latents).items()}


def objective(path: str | os.PathLike, **given: Any) -> Objective:
    """The objective of refinement.

    Args:
      path: folder of an exported model.
      **given: any of its attributes; those that are not there or None are as they were in training,
        but rd_lambda of a model with levels, which is that of the level.

    Raises:
      UserError: rd_lambda is neither given nor in the model's config, or not positive, or there is
        no such distortion.
    """
    levels, train = export.read_levels(path), export.read_config(path).get("train", {})
    if levels:
        train = {**train, "rd_lambda": None}
    # Models of earlier versions were all trained for MSE at a fixed lambda.
    defaults = dataclasses.asdict(Objective(rd_lambda=None))
    chosen: dict[str, Any] = {
        name: next((value for value in (given.get(name), train.get(name)) if value is not None),
                   default)
        for name, default in defaults.items()}
    if chosen["rd_lambda"] is None and not levels:
        raise UserError(f"the config of {path} has no train.rd_lambda; give one")
    if chosen["rd_lambda"] is not None and not 0 < chosen["rd_lambda"] < math.inf:
        raise UserError(f"rd_lambda is {chosen['rd_lambda']:g}; need a positive number")
    for name in ("rate_weight", "lpips_weight"):
        if not 0 <= chosen[name] < math.inf:
            raise UserError(f"{name} is {chosen[name]:g}; need 0 or more")
    metrics.distortion(chosen["distortion"])  # is there one?
    return Objective(**chosen)


def check_sides(sides: Sequence[int], name: str, objective: Objective) -> None:
    """Raises UserError if an image is too large to refine, or too small for the objective.

    Args:
      sides: height and width, in pixels.
      name: of the image, for the error.
      objective: of the refinement.
    """
    pixels = math.prod(sides)
    if pixels > images.MAX_WHOLE_PIXELS:
        raise UserError(f"refinement takes images of up to {images.MAX_WHOLE_PIXELS / 1e6:g} "
                        f"megapixels, which it does not cut into tiles; {name} has "
                        f"{pixels / 1e6:.1f}")
    objective.check_side(min(sides), name)
