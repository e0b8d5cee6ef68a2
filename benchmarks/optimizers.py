"""Steps and minutes that Adam and SOAP need to the same loss: `python -m benchmarks.optimizers`.

Two small models are trained on the same crops (8 x 128 x 128, lambda 0.02, seed 0):

    mbt2018        N = M = 64
    two_layer_syn  ELIC's analysis of width 64, N = M = 64

by three recipes, each with the schedule of Yang & Mandt 2023 (warm-up 2 %, a drop to a tenth at
80 % of its own length) and gradients clipped to a norm of 1:

    Adam, published   learning rate 1e-4
    Adam, best        the rate of `--rates` with the lowest validation loss in the first `--trial`
                      steps of that schedule
    SOAP              learning rate 2e-3, and a fifth of the steps

The loss to reach is the lowest that Adam has at either rate in all of its training, or SOAP's
lowest if that is higher. Validation is on whole images, every 50 steps. Steps are counted in the
runs; the time of a step is measured apart, the optimisers taking turns in one process, and excludes
validation and checkpoints. Minutes are steps times that. Runs stay in `--experiments_dir`, and the
same command goes on with them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import pathlib
import statistics

import numpy as np
from ml_collections import config_dict

from benchmarks import side_by_side
from common import export, files, result_tables, zoo
from common.cli import report
from common.errors import UserError
from common.lazy import Figure, data, optimizers, schedules, tf, training
from mshyper.configs import mbt2018, two_layer_syn

_HYPER = {
    "model.hyper_analysis.channels": (64, 64, 64),
    "model.hyper_synthesis.channels": (64, 96, 128),
}
# Config, overrides, and steps of Adam and of SOAP.
MODELS = {
    "mbt2018, N = 64": (mbt2018, {
        **_HYPER, "model.analysis.channels": (64, 64, 64, 64),
        "model.synthesis.channels": (64, 64, 64, 3)}, 3000, 600),
    "two_layer_syn, ELIC 64": (two_layer_syn, {
        **_HYPER, "model.analysis.channels": (64, 64, 64, 64)}, 2000, 400),
}
PUBLISHED_RATE, SOAP_RATE = 1e-4, 2e-3


def config_of(model: str, optimizer: str, rate: float, steps: int, args: argparse.Namespace
              ) -> config_dict.ConfigDict:
    """The config of one run: yang2023's recipe on small crops."""
    module, overrides, *_ = MODELS[model]
    config = module.get_config("yang2023")
    config.update_from_flattened_dict({
        **overrides,
        "data.train": args.train, "data.validation": args.validation,
        "data.patch_size": 128, "data.batch_size": 8, "data.min_scale": 0.5, "data.flip": True,
        "train.precision": "float32",  # as in `step_seconds`
        "train.rd_lambda": 0.02, "train.num_steps": steps, "train.log_interval": 50,
        "train.checkpoint_interval": 50, "train.optimizer.cls": optimizer,
        "train.optimizer.learning_rate": rate})
    return config


def train(model: str, optimizer: str, rate: float, steps: int, args: argparse.Namespace,
          trial: int | None = None) -> list[tuple[int, float]]:
    """Validation losses by step; only the first `trial` steps of training, if given."""
    config = config_of(model, optimizer, rate, trial or steps, args)
    name = f"{optimizer}-{rate:g}-{steps}"
    if trial:  # the beginning of that schedule, before its drop
        config.train.schedule.update(
            warmup=config.train.schedule.warmup * steps / trial, drop_at=1.0)
        name += f"-first-{trial}"
    folder = pathlib.Path(args.experiments_dir, model.partition(",")[0], name)
    try:
        training.run(zoo.CODECS["mshyper.models"], config, folder)
    except UserError as error:
        if not trial:
            raise
        print(f"{folder}: {error}")  # a rate that is too high: the loss is no longer finite
        return [(steps, math.inf)]
    return curve(folder)


def curve(folder: pathlib.Path) -> list[tuple[int, float]]:
    """(step, validation loss) from the metrics of a run."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["rd_loss"]) for line in lines if line["split"] == "validation"]


def step_seconds(model: str, args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of single training steps of both optimisers, which take turns."""
    steps = {}
    for name, rate in (("Adam", PUBLISHED_RATE), ("SOAP", SOAP_RATE)):
        config = config_of(model, name, rate, 1000, args)
        built = export.build(zoo.CODECS["mshyper.models"], config.to_dict())
        trainer = training.Trainer(built, config, optimizers.build(
            config.train.optimizer,
            schedules.learning_rate(config.train.schedule, rate, config.train.num_steps)))
        trainer.optimizer.build(built.trainable_variables)
        steps[name] = tf.function(trainer.train_step)
    crops = data.Crops(data.find(args.train), 128, seed=0, min_scale=0.5)
    batches = [data.to_float(np.concatenate([crops.draw(8 * i + k) for k in range(8)]))
               for i in range(args.rounds + 2)]
    seconds = {name: [] for name in steps}
    for i, batch in enumerate(batches):
        for name, step in steps.items():
            # SOAP's bases are updated in every tenth step: ten steps, whose mean counts.
            elapsed = side_by_side.seconds(
                lambda step=step, x=batch: [float(step(x)["rd_loss"]) for _ in range(10)]) / 10
            if i >= 2:  # the first builds the graph
                seconds[name].append(elapsed)
    return seconds


def reached(losses: list[tuple[int, float]], target: float) -> int | None:
    """The first validated step whose loss is at most `target`."""
    return next((step for step, loss in losses if loss <= target), None)


def compare(curves: dict[str, list], seconds: dict[str, list[float]]) -> list[dict]:
    """A row for each recipe: steps and minutes to the target, and how often SOAP's they are."""
    lowest = {name: min(loss for _, loss in losses) for name, losses in curves.items()}
    *_, soap = lowest
    target = max(lowest[soap], min(lowest[name] for name in lowest if name != soap))
    rows = []
    for name, losses in curves.items():
        step = statistics.median(seconds[name.split()[0].strip(",")])
        steps = reached(losses, target)
        rows.append({
            "recipe": name, "target": target, "steps": steps, "trained": losses[-1][0],
            "lowest loss": lowest[name], "s a step": step,
            "minutes": steps * step / 60 if steps else None})
    for row in rows:
        # Where the target was not reached, all steps trained are a lower bound.
        row["steps / SOAP"] = (row["steps"] or row["trained"]) / rows[-1]["steps"]
        row["minutes / SOAP"] = row["steps / SOAP"] * row["s a step"] / rows[-1]["s a step"]
    return rows


def plot(curves: dict[str, dict[str, list]], path: pathlib.Path) -> None:
    """Validation loss over steps, one panel a model."""
    figure = Figure(figsize=(10, 4))
    axes = figure.subplots(1, len(curves), sharey=True)
    for axis, (model, by_recipe) in zip(axes, curves.items()):
        for name, losses in by_recipe.items():
            axis.plot(*np.transpose(losses), label=name, linewidth=1.2)
        axis.set(title=model, xlabel="steps", xscale="log", yscale="log")
        axis.grid(True, which="both", alpha=0.3)
        axis.legend()
    axes[0].set_ylabel("validation loss, bpp + 0.02 MSE")
    figure.tight_layout()
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format="svg")


@report
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--train", default="photos/train", help="data set; default: %(default)s")
    parser.add_argument("--validation", default="photos/validation")
    parser.add_argument("--experiments_dir", default="experiments/optimizers")
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3],
                        help="learning rates of Adam to try; default: %(default)s")
    parser.add_argument("--trial", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=5, help="of ten steps each, to time them")
    args = parser.parse_args()
    curves, trials, seconds = {}, {}, {}
    for model, (*_, steps, soap_steps) in MODELS.items():
        trials[model] = {rate: train(model, "Adam", rate, steps, args, args.trial)
                         for rate in args.rates}
        best = min(args.rates, key=lambda rate: min(loss for _, loss in trials[model][rate]))
        curves[model] = {
            "Adam, published (1e-04)": train(model, "Adam", PUBLISHED_RATE, steps, args),
            f"Adam, best ({best:.0e})": train(model, "Adam", best, steps, args),
            "SOAP (2e-03)": train(model, "SOAP", SOAP_RATE, soap_steps, args)}
    for model in MODELS:
        side_by_side.warn_if_busy()
        seconds[model] = step_seconds(model, args)
    write(curves, trials, seconds, vars(args))


def write(curves: dict[str, dict[str, list]], trials: dict[str, dict[float, list]],
          seconds: dict[str, dict[str, list[float]]], options: dict) -> None:
    """Prints the tables, and writes optimizers.json and optimizers.svg."""
    rows = {model: compare(curves[model], seconds[model]) for model in curves}
    for model in rows:
        print(f"\n{model}\n{result_tables.render(rows[model], rows[model][0].keys())}")
    side_by_side.RESULTS.mkdir(parents=True, exist_ok=True)
    files.write_json(side_by_side.RESULTS / "optimizers.json", {
        "date": datetime.date.today().isoformat(), **result_tables.environment(),
        "options": options, "rows": rows, "curves": curves, "trials": trials, "seconds": seconds})
    plot(curves, side_by_side.RESULTS / "optimizers.svg")


if __name__ == "__main__":
    main()
