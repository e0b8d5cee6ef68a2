"""Iterative inference: latents optimised for one image, as its encoder networks could not.

    python -m mshyper.itinf --config mshyper/configs/itinf.py:sga

The networks stay as they are; the latents are variables that minimise the loss of training through
`Codec.generate`. The decoder notices nothing. A method is a quantizer, its temperature, an
optimiser and a rule to stop (common/methods.py).

Every `check_interval` steps the latents are rounded as a file holds them, and measured. This gives

  the grid      on which the quantizer rounds until the next check: around the means that follow
                from rounded latents, in a model with a context serially, for these are the means
                that the decoder knows
  the best      latents so far, of each image. They start with the encoder's own: refined latents
                are never worse, as far as `generate` tells
  the end       if the rule to stop says so, for all images of a batch
"""

import json
import math
import os
import pathlib
import sys
import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tqdm
from ml_collections import config_dict

from common import (
    coding,
    data,
    export,
    images,
    locks,
    lpips,
    metrics,
    objectives,
    precision,
    programs,
    quantizers,
    recipes,
    runs,
    schedules,
    stopping,
    tables,
    targets,
)
from common.errors import UserError
from common.files import replacing, write_json
from common.methods import METHODS, method  # noqa: F401  (also for who refines)
from common.model import Codec, Generated, Latents
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

# --- The loop ---------------------------------------------------------------------------------


class Refined(NamedTuple):
    """The result of refinement for a batch of images.

    Attributes:
      latents: float32 [B, h, w, C] each, rounded; the best ones.
      traces: for each image a list of rows, one a check: step, tau, loss (what the step before
        minimised, on the quantizer's values, in bits per pixel), and on rounded latents and 8-bit
        images rd_loss, bpp, mse, psnr.
    """

    latents: Latents
    traces: list[list[dict[str, float]]]


class Refiner:
    """Refines latents of images of any size with one model and one method.

    Its step is traced once for all images. Optimisers of Keras keep their moments in variables of
    one shape, and so would need a trace for every size of image.

    Args:
      model: an exported model.
      config: a method.
      rd_lambda: weight of the distortion; None for that of the level, in a model with levels.
      **objective: distortion, rate_weight and lpips_weight, as of `objectives.per_image`.

    Raises:
      UserError: the method's settings make none.
    """

    def __init__(self, model: Codec, config, rd_lambda: float | None, **objective):
        if config.quantizer not in _QUANTIZERS:
            raise UserError(f"unknown quantizer '{config.quantizer}' for inference; known: "
                            f"{', '.join(_QUANTIZERS)}")
        for key in ("num_steps", "check_interval"):
            if config[key] < 1:
                raise UserError(f"{key} is {config[key]}; need at least 1")
        if config.quantizer in _ANNEALED and not config.temperature:
            raise UserError(f"{config.quantizer} needs a temperature: rate, start and largest")
        self._model = model
        self._config = config
        self._rd_lambda = rd_lambda
        self._objective = objective
        self._rate = schedules.learning_rate(
            config.schedule, min(config.travel / config.num_steps, config.largest_rate),
            config.num_steps)
        self._step = self._check = None

    def __call__(self, x: tf.Tensor, progress: str | None = None, level: int | None = None
                 ) -> Refined:
        """Refines the latents that the encoder infers from images.

        Args:
          x: float32 [B, H, W, 3] in [0, 1].
          progress: what to call a progress bar; none by default.
          level: of a model with levels, as of `Codec.infer`.

        Raises:
          UserError: these are no images.
        """
        x = np.asarray(x)
        if x.dtype != np.float32 or x.ndim != 4 or x.shape[3] != 3 or not x.size or not (
                0 <= np.min(x) <= np.max(x) <= 1):
            raise UserError(f"images of {x.dtype}, {' x '.join(map(str, x.shape))}; need float32 "
                            "from 0 to 1, [images, height, width, 3]")
        latents = self._model.infer(x, level=level)
        self._compile(latents)
        moments = [tf.nest.map_structure(tf.zeros_like, _movable(latents)) for _ in range(2)]
        best, best_loss, since_best = None, np.full(len(x), np.inf), 0
        traces = [[] for _ in x]
        loss = [np.nan] * len(x)
        with tqdm.tqdm(total=self._config.num_steps, desc=progress, unit="step", leave=None,
                       disable=None if progress else True) as bar:
            for step in range(self._config.num_steps + 1):
                last = step == self._config.num_steps
                if last or step % self._config.check_interval == 0:
                    measured, rounded, grid = self._check(x, latents)
                    measured = {name: value.numpy() for name, value in measured.items()}
                    for i, trace in enumerate(traces):
                        trace.append({
                            "step": step, "tau": float(self._temperature(step)),
                            "loss": float(loss[i]),
                            **{name: float(value[i]) for name, value in measured.items()}})
                    better = measured["rd_loss"] < best_loss
                    best_loss = np.where(better, measured["rd_loss"], best_loss)
                    best = rounded if best is None else {
                        name: tf.where(tf.reshape(better, [-1, *[1] * (value.shape.rank - 1)]),
                                       rounded[name], value)
                        for name, value in best.items()}
                    since_best = 0 if np.any(better) else since_best + 1
                    bar.set_postfix(rd_loss=float(np.mean(best_loss)))
                if last or since_best == self._config.patience > 0:
                    break
                loss, latents, moments = self._step(
                    x, latents, moments, grid, tf.constant(step))
                bar.update()
        return Refined(best, traces)

    def infer(self, model: Codec, image: np.ndarray, level: int | None = None) -> Latents:
        """As `coding.infer`: the refined latents of an image, in a batch of one."""
        image = coding.as_rgb(image)
        _check_sides(image, self._objective, "the image")
        with stage("refinement"):
            return self(data.to_float(image)[None], "refinement", level).latents

    def _temperature(self, step):
        if not self._config.temperature:
            return tf.constant(np.nan)
        return schedules.temperature(step, self._config.num_steps, **self._config.temperature)

    def _compile(self, latents):
        if self._step is not None:
            return
        image = tf.TensorSpec([None, None, None, 3], tf.float32)
        moving = {name: tf.TensorSpec([None, None, None, value.shape[-1]], tf.float32)
                  for name, value in _movable(latents).items()}
        spec = {name: moving.get(name, tf.TensorSpec([None], tf.int32)) for name in latents}
        self._check = tf.function(self._check_graph, [image, spec], autograph=False)
        self._step = tf.function(
            self._step_graph,
            [image, spec, [moving, moving], moving, tf.TensorSpec([], tf.int32)], autograph=False)

    def _per_image(self, x, generated, **options):
        rd_lambda = self._rd_lambda
        if rd_lambda is None:
            rd_lambda = self._model.levels.rd_lambda(generated.latents["level"])
        return objectives.per_image(x, generated, rd_lambda, **self._objective, **options)

    def _check_graph(self, x, latents):
        generated = self._model.generate(latents, quantizers.Round())
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


def grid_of(generated: Generated) -> Latents:
    """For each latent the offset of its grid, of its shape; 0 if no quantizer met it."""
    return {name: tf.broadcast_to(generated.offsets.get(name, 0.0), tf.shape(value))
            for name, value in _movable(generated.latents).items()}


def objective(path: str | os.PathLike, **given) -> dict:
    """The objective of refinement: rd_lambda, distortion, rate_weight and lpips_weight.

    For a model with levels rd_lambda is None unless it is given: it is that of the level.

    Args:
      path: folder of an exported model.
      **given: any of these; those that are not there or None are as they were in training.

    Raises:
      UserError: rd_lambda is neither given nor in the model's config, or not positive, or there is
        no such distortion.
    """
    levels, train = export.read_levels(path), export.read_config(path).get("train", {})
    if levels:
        train = {**train, "rd_lambda": None}
    # Models of earlier versions were all trained for MSE at a fixed lambda.
    defaults = dict(rd_lambda=None, distortion="mse", rate_weight=1.0, lpips_weight=0.0)
    chosen = {name: train.get(name, default) if given.get(name) is None else given[name]
              for name, default in defaults.items()}
    if chosen["rd_lambda"] is None and not levels:
        raise UserError(f"the config of {path} has no train.rd_lambda; give one")
    if chosen["rd_lambda"] is not None and not 0 < chosen["rd_lambda"] < math.inf:
        raise UserError(f"rd_lambda is {chosen['rd_lambda']:g}; need a positive number")
    for name in ("rate_weight", "lpips_weight"):
        if not 0 <= chosen[name] < math.inf:
            raise UserError(f"{name} is {chosen[name]:g}; need 0 or more")
    if chosen["distortion"] not in objectives.DISTORTIONS:
        raise UserError(f"unknown distortion '{chosen['distortion']}'; known: "
                        f"{', '.join(objectives.DISTORTIONS)}")
    return chosen


def _check_sides(image, objective, name):
    pixels = math.prod(image.shape[:2])
    if pixels > images.MAX_WHOLE_PIXELS:
        raise UserError(f"inference takes images of up to {images.MAX_WHOLE_PIXELS / 1e6:g} "
                        f"megapixels, which it does not cut into tiles; {name} has "
                        f"{pixels / 1e6:.1f}")
    objectives.check_side(min(image.shape[:2]), name, objective.get("distortion", "mse"),
                          objective.get("lpips_weight", 0.0))


# --- The command --------------------------------------------------------------------------------

# Of the files with the encoder's latents ("base") and with the refined ones.
_MEASURED = ("bytes", "bpp", "estimated_bpp", "mse", "psnr", "rd_loss")


def get_config(name: str, model: str | None) -> config_dict.ConfigDict:
    """The config of all packages' configs/itinf.py: method `name`, and a model of the zoo."""
    config = config_dict.ConfigDict(dict(
        seed=0,
        # An exported model, a run, an experiment (its run of the same wid) or a zoo name.
        model=config_dict.FieldReference(model, str),
        data="kodak",  # a name of configs.DATASETS, or any folder, glob or file
        batch_size=1,  # images of one size are refined together
        # Of refinement; files are measured in float32. "auto" is bfloat16 where the device has it.
        precision="auto",
        # The loss, rate_weight * bpp + rd_lambda * distortion + lpips_weight * LPIPS: that of the
        # model's training, for what is not given.
        rd_lambda=config_dict.placeholder(float),  # of a model with levels: that of the level
        quality=config_dict.placeholder(float),  # 0 to 100, for a model with levels; by default 50
        distortion=config_dict.placeholder(str),
        rate_weight=config_dict.placeholder(float),
        lpips_weight=config_dict.placeholder(float),
        itinf=dict(name=name, **method(name)),
    ))
    config.itinf.seed = config.get_ref("seed")
    return config


def get_hyper() -> list[dict]:
    """Nothing to override: of an experiment with a run for each lambda, the wid picks the run."""
    return [{} for _ in recipes.LAMBDAS]


def program(*model_classes: type[Codec]) -> programs.Program:
    """The program of `<package>/itinf.py`. Of several classes, it takes the model's."""
    by_module = {each.__module__: each for each in model_classes}
    package = model_classes[0].__module__.partition(".")[0]

    def require_itinf(config):
        if "itinf" not in config:
            raise UserError("the config has no section itinf, so it is none for inference; one to "
                            f"train with belongs to python -m {package}.train")

    def refine(config, workdir):
        require_itinf(config)
        module = export.read_module(_find(config, workdir))
        rows = run(by_module.get(module, model_classes[0]), config, workdir)
        print(tables.render(rows, columns=(
            "image", "base.bpp", "refined.bpp", "base.psnr", "refined.psnr", "base.rd_loss",
            "refined.rd_loss", "steps", "seconds")))
        print(f"written: {workdir}")

    def check(config, workdir):
        require_itinf(config)
        objective(_find(config, workdir), **_objective(config))
        data.find(config.data)

    return programs.Program(package, refine, check=check)


def run(model_class: type[Codec], config, workdir: str | os.PathLike) -> list[tables.Row]:
    """Refines and codes all images of config.data, or what is missing of that in a folder.

    In the folder `workdir` appear

        <image>/trace.csv           the course of refinement, as in `Refined`
        <image>/latents.npz         refined latents, as a decoder reads them
        <image>/image.ntc           the file
        <image>/reconstruction.png  what it decodes to
        <image>/result.json         its row
        results.json, results.csv   all rows

    Returns:
      For each image a row: bytes, bpp, estimated_bpp, mse, psnr and rd_loss (by the bytes) of the
      file with the encoder's latents (base.) and of that with the refined ones (refined.), steps,
      and seconds of refinement, which of the first image include the set-up; and the row of means.

    Raises:
      UserError: a mistake in the config or the data.
    """
    workdir = pathlib.Path(workdir)
    with locks.held(workdir):
        return _run(model_class, config, workdir)


def _run(model_class, config, workdir):
    path = _find(config, workdir)
    module = export.read_module(path)
    if module != model_class.__module__:
        raise UserError(f"{path} is a model of {module}; this command is for those of "
                        f"{model_class.__module__}")
    begun = any(workdir.glob("*/result.json"))
    chosen = precision.choose(begun and runs.fact(workdir, "precision") or config.precision)
    print(f"run: {workdir}, in {chosen}")
    config = config.copy_and_resolve_references()
    config.update(objective(path, **_objective(config)))
    batches = _batches(config)
    # What tables say of files holds on other machines.
    model = export.load(model_class, path)
    level = targets.level(model, config.quality)
    if config.rd_lambda is None:
        config.rd_lambda = float(model.levels.rd_lambda(level))
    refiner = Refiner(model if chosen == "float32" else export.load(model_class, path, chosen),
                      config.itinf, **_objective(config))
    sources = data.find(config.data)
    record = {**runs.record(model_class, config), "fingerprint": model.fingerprint}
    content = data.content(sources)
    # Models and data may be moved.
    same = ["model", *["data"] * (runs.fact(workdir, "content") == content)]
    changes = runs.claim(
        workdir, record, begun, may_change=same, precision=chosen, content=content)
    if changes:
        runs.record_changes(workdir, record, changes)
    rows = {}

    def place():
        return f"image {len(rows)} of {len(sources)}"

    # What is done of images is saved as it is done.
    with (stopping.saved_by(place),
          tqdm.tqdm(total=len(sources), unit="image", disable=None) as progress):
        for batch in batches:
            # Noise depends on the place in the batch: what is missing of one needs all of it.
            if not all(_result(workdir, source).exists() for source in batch):
                _refine(model, refiner, batch, level, config, workdir)
            rows |= {source: tables.read_row(
                json.loads(_result(workdir, source).read_text())) for source in batch}
            progress.update(len(batch))
    rows = [rows[source] for source in sources]
    rows.append(tables.mean_row(rows))
    tables.save(workdir / "results", rows, model=str(path), fingerprint=model.fingerprint,
                method=config.itinf.to_dict(), precision=chosen, dataset=config.data, level=level,
                **_objective(config))
    return rows


def _find(config, workdir) -> pathlib.Path:
    if not config.model:
        raise UserError("--config.model should name an exported model, a run or an experiment: "
                        "the zoo has none for this command")
    return runs.find_model("model", config.model, workdir)


def _batches(config) -> list[list[data.Source]]:
    """The images in batches of one size. Raises UserError if one of them cannot be refined."""
    if config.batch_size < 1:
        raise UserError(f"batch_size is {config.batch_size}; need at least 1")
    folders, sizes = {}, {}
    for source in data.find(config.data):
        other = folders.setdefault(_folder(source), source)
        if other != source:
            raise UserError(f"{other.path} and {source.path} would share the folder "
                            f"{_folder(source)}; give one of them another name")
        image = source.read()
        _check_sides(image, config, source.name)
        sizes.setdefault(image.shape, []).append(source)
    return [same[i:i + config.batch_size] for same in sizes.values()
            for i in range(0, len(same), config.batch_size)]


def _refine(model, refiner, batch, level, config, workdir):
    """Refines a batch of images, and writes the folders of those that have none."""
    pictures = [source.read() for source in batch]
    start = time.perf_counter()
    refined = refiner(data.to_float(np.stack(pictures)), batch[0].name, level)
    seconds = (time.perf_counter() - start) / len(batch)
    for i, (source, picture) in enumerate(zip(batch, pictures)):
        if _result(workdir, source).exists():
            continue
        latents = {name: value[i:i + 1] for name, value in refined.latents.items()}
        base, *_ = _code(model, picture, coding.infer(model, picture, level), config)
        best, ntc, decoded, reconstruction = _code(model, picture, latents, config)
        with replacing(workdir / _folder(source)) as folder:
            folder.mkdir()
            tables.write_csv(folder / "trace.csv", refined.traces[i])
            np.savez_compressed(folder / "latents.npz", **{**latents, **decoded.latents})
            (folder / "image.ntc").write_bytes(ntc)
            images.write(folder / "reconstruction.png", reconstruction)
            write_json(folder / "result.json", {
                "image": source.name,
                **{f"base.{name}": value for name, value in base.items()},
                **{f"refined.{name}": value for name, value in best.items()},
                "steps": refined.traces[i][-1]["step"],
                "seconds": seconds,
            })


def _objective(config):
    return {name: config[name]
            for name in ("rd_lambda", "distortion", "rate_weight", "lpips_weight")}


def _code(model, picture, latents, config):
    """Measurements, bytes, content and image of a file with these latents."""
    ntc = coding.encode(model, latents, *picture.shape[:2])
    decoded = coding.decode(model, ntc, sys.maxsize)
    reconstruction = coding.reconstruct(model, decoded)
    row = coding.measure_file(model, picture, ntc, decoded, reconstruction)
    distortion = row["mse"] if config.distortion == "mse" else 1 - row["ms_ssim"]
    row["rd_loss"] = config.rate_weight * row["bpp"] + config.rd_lambda * distortion
    if config.lpips_weight:
        row["rd_loss"] += config.lpips_weight * metrics.lpips(
            picture, reconstruction, lpips.network())
    return {name: row[name] for name in _MEASURED}, ntc, decoded, reconstruction


def _folder(source) -> str:
    return source.path.stem if source.index is None else f"{source.path.stem}-{source.index}"


def _result(workdir, source):
    return workdir / _folder(source) / "result.json"
