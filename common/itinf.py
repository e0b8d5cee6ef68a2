"""Iterative inference: what `python -m <package>.itinf` does, refinement of a data set.

    python -m mshyper.itinf --config mshyper/configs/itinf.py:sga

The method, for one image or a batch, is in common/refinement.py.
"""

import dataclasses
import json
import os
import pathlib
import sys
import time
from typing import TYPE_CHECKING

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
    methods,
    metrics,
    objectives,
    precision,
    recipes,
    refinement,
    result_tables,
    runs,
    stopping,
    sweeps,
    targets,
)
from common.errors import UserError
from common.files import replacing, write_json
from common.model import Codec, Generated

if TYPE_CHECKING:
    from common import programs

# Of the files with the encoder's latents ("base") and with the refined ones.
_MEASURED = ("bytes", "bpp", "estimated_bpp", *metrics.METRICS, "rd_loss")


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
        itinf=dict(name=name, **methods.method(name)),
    ))
    config.itinf.seed = config.get_ref("seed")
    return config


def get_hyper() -> sweeps.Sweep:
    """A sweep that overrides nothing: the wid picks the run of an experiment with one a lambda."""
    return [{} for _ in recipes.LAMBDAS]


def program(*model_classes: type[Codec]) -> "programs.Program":
    """The program of `<package>/itinf.py`. Of several classes, it takes the model's."""
    by_module = {each.__module__: each for each in model_classes}
    package = model_classes[0].__module__.partition(".")[0]

    def require_itinf(config):
        if "itinf" not in config:
            raise UserError("the config has no section itinf, so it is not one to refine by; one "
                            f"to train with belongs to python -m {package}.train")

    def refine(config, workdir):
        require_itinf(config)
        module = export.read_module(_find(config, workdir))
        rows = run(by_module.get(module, model_classes[0]), config, workdir)
        print(result_tables.render(rows, columns=(
            "image", "base.bpp", "refined.bpp", "base.psnr", "refined.psnr", "base.rd_loss",
            "refined.rd_loss", "steps", "seconds")))
        print(f"written: {workdir}")

    def check(config, workdir):
        require_itinf(config)
        refinement.objective(_find(config, workdir), **_given(config))
        data.find(config.data)

    from common import programs  # which is for commands, and defines flags

    return programs.Program(package, refine, check=check)


def run(model_class: type[Codec], config: config_dict.ConfigDict, workdir: str | os.PathLike
        ) -> list[result_tables.Row]:
    """Refines and codes all images of config.data, or what is missing of that in a folder.

    In the folder `workdir` appear

        <image>/trace.csv           the course of refinement, as in `refinement.Refined`
        <image>/latents.npz         refined latents, as a decoder reads them
        <image>/image.ntc           the file
        <image>/reconstruction.png  what it decodes to
        <image>/result.json         its row
        results.json, results.csv   all rows

    Returns:
      For each image a row: bytes, bpp, estimated_bpp, all `metrics.METRICS` and rd_loss (by the
      bytes) of the file with the encoder's latents (base.) and of that with the refined ones
      (refined.), steps, and seconds of refinement, which of the first image include the set-up; and
      the row of means.

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
    objective = refinement.objective(path, **_given(config))
    batches = _batches(config, objective)
    # What tables say of files holds on other machines.
    model = export.load(model_class, path)
    level = targets.level(model, config.quality)
    if objective.rd_lambda is None:
        assert model.levels is not None  # else `refinement.objective` asked for one
        objective = dataclasses.replace(
            objective, rd_lambda=float(model.levels.rd_lambda(level)))
    config.update(dataclasses.asdict(objective))
    refiner = refinement.Refiner(
        model if chosen == "float32" else export.load(model_class, path, chosen), config.itinf,
        objective)
    sources = data.find(config.data)
    record = {**runs.record(model_class, config), "fingerprint": model.fingerprint}
    content = data.content(sources)
    # Models and data may be moved.
    same = ["model", *["data"] * (runs.fact(workdir, "content") == content)]
    changes = runs.claim(
        workdir, record, begun, may_change=same, precision=chosen, content=content)
    if changes:
        runs.record_changes(workdir, record, changes)
    done: dict = {}

    def place():
        return f"image {len(done)} of {len(sources)}"

    # What is done of images is saved as it is done.
    with (stopping.saved_by(place),
          tqdm.tqdm(total=len(sources), unit="image", disable=None) as progress):
        for batch in batches:
            # Noise depends on the place in the batch: what is missing of one needs all of it.
            if not all(_result(workdir, source).exists() for source in batch):
                _refine(model, refiner, batch, level, objective, workdir)
            done |= {source: result_tables.read_row(
                json.loads(_result(workdir, source).read_text())) for source in batch}
            progress.update(len(batch))
    rows = [done[source] for source in sources]
    rows.append(result_tables.mean_row(rows))
    result_tables.save(
        workdir / "results", rows, model=str(path), fingerprint=model.fingerprint,
        method=config.itinf.to_dict(), precision=chosen, dataset=config.data, level=level,
        **dataclasses.asdict(objective))
    return rows


def _find(config, workdir) -> pathlib.Path:
    if not config.model:
        raise UserError("model should name an exported model, a run or an experiment: "
                        "the zoo has none for this command")
    return runs.find_model("model", config.model, workdir)


def _batches(config, objective) -> list[list[data.Source]]:
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
        refinement.check_sides(image.shape[:2], source.name, objective)
        sizes.setdefault(image.shape, []).append(source)
    return [same[i:i + config.batch_size] for same in sizes.values()
            for i in range(0, len(same), config.batch_size)]


def _refine(model, refiner, batch, level, objective, workdir):
    """Refines a batch of images, and writes the folders of those that have none."""
    pictures = [source.read() for source in batch]
    start = time.perf_counter()
    refined = refiner(data.to_float(np.stack(pictures)), batch[0].name, level)
    seconds = (time.perf_counter() - start) / len(batch)
    for i, (source, picture) in enumerate(zip(batch, pictures)):
        if _result(workdir, source).exists():
            continue
        latents = {name: value[i:i + 1] for name, value in refined.latents.items()}
        base, *_ = _code(model, picture, coding.infer(model, picture, level), objective)
        best, ntc, decoded, reconstruction = _code(model, picture, latents, objective)
        with replacing(workdir / _folder(source)) as folder:
            folder.mkdir()
            result_tables.write_csv(folder / "trace.csv", refined.traces[i])
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


def _given(config):
    """The attributes of the objective that a config gives."""
    return {field.name: config[field.name] for field in dataclasses.fields(objectives.Objective)}


def _code(model, picture, latents, objective):
    """Measurements, bytes, content and image of a file with these latents."""
    ntc = coding.encode(model, latents, *picture.shape[:2])
    decoded = coding.decode(model, ntc, sys.maxsize)
    reconstruction = coding.reconstruct(model, decoded)
    row = coding.measure_file(model, picture, ntc, decoded, reconstruction)
    x, x_hat = (data.to_float(image)[None] for image in (picture, reconstruction))
    generated = Generated(  # whose rate is that of the file
        x_hat, decoded.latents, element_bits={"file": tf.constant([8.0 * len(ntc)])}, offsets={})
    row["rd_loss"] = float(objective.per_image(x, generated)["rd_loss"][0])
    return {name: row[name] for name in _MEASURED}, ntc, decoded, reconstruction


def _folder(source) -> str:
    return source.path.stem if source.index is None else f"{source.path.stem}-{source.index}"


def _result(workdir, source):
    return workdir / _folder(source) / "result.json"
