"""Seconds an image of iterative inference: `python -m benchmarks.inference_speed`.

SGA of mbt2018, N = M = 192, with random weights, on one image of noise at a time:

    ours       the loop of `refinement.Refiner`, in float32. Its step is traced once for all
               images, and so is the check that measures rounded latents every 10 steps.
    bfloat16   the same with transforms in bfloat16
    baseline   a loop of our own, with the settings documented of the public TensorFlow 2 code of
               SGA. It differs in three things, each of which is also measured alone:
      rdft       kernels are stored as Fourier transforms, as is the default of tfc.SignalConv2D
                 (kernel_parameter="rdft"), so that each step transforms them back
      variables  the latents of each image are new variables that Keras's Adam updates, so that the
                 step is traced anew for each image
      eager      rounded latents are measured outside of any graph, by PSNR and MS-SSIM, every 200
                 steps. That is rarer than ours, so that this one may well save time

Networks, priors, quantizer and rate are ours on both sides, and the grid is what the last check
found. All loops live in one process and take turns, each turn with a new image. A turn times the
first step, with what is traced for this image; the mean of the steps after it, with the loss
fetched at the end; and a check. Of the medians over turns, n steps of an image take

    first + (n - 1) * step + (n // interval + 1) * check

Encoding and what Python does between steps is not part of that, nor is `once`, what the first image
of all takes longer for graphs that are built for all images.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence

import tensorflow as tf
import tensorflow_compression as tfc

from benchmarks import side_by_side
from common import (
    images,
    methods,
    metrics,
    objectives,
    padding,
    precision,
    quantizers,
    refinement,
    result_tables,
)
from common.cli import report
from mshyper.configs import mbt2018
from mshyper.models import MeanScaleHyperprior

DIFFERENCES = ("rdft", "variables", "eager")
LOOPS = {"ours": (), "bfloat16": ("bfloat16",), **{name: (name,) for name in DIFFERENCES},
         "baseline": DIFFERENCES}
_STEPS = (500, 3000)  # of our default, and of Yang & Mandt 2023
_RESULTS = "benchmarks/results/inference_speed"


def build(channels: int, differences: Sequence[str] = ()) -> MeanScaleHyperprior:
    """mbt2018 with N = M = `channels` and the same random weights in every form."""
    tf.keras.utils.set_random_seed(0)
    config = mbt2018.get_config().model
    config.analysis.channels = (channels,) * 4
    config.synthesis.channels = (channels,) * 3 + (3,)
    config.hyper_analysis.channels = (channels,) * 3
    config.hyper_synthesis.channels = (channels, channels * 3 // 2, channels * 2)
    with precision.policy("bfloat16" if "bfloat16" in differences else "float32"):
        model = MeanScaleHyperprior(**config)
    if "rdft" in differences:
        for layer in model.submodules:
            if isinstance(layer, tfc.SignalConv2D):
                layer.kernel_parameter = "rdft"
    model.initialize()
    return model


class Loop(refinement.Refiner):
    """The loop of `Refiner` in parts, to be timed apart, with some of the differences.

    Args:
      model: which.
      differences: of `DIFFERENCES`; that of the model is made by `build`.

    Attributes:
      interval: steps from one check to the next.
      loss: what the last step minimised, before it.
      measured: what the last check found, by name.
    """

    def __init__(self, model: MeanScaleHyperprior, differences: Sequence[str]):
        super().__init__(model, methods.method("sga_yang2023"), objectives.Objective(0.01))
        self._differences = differences
        self.interval = 200 if "eager" in differences else self._config.check_interval

    def begin(self, x: tf.Tensor) -> None:
        """Takes an image x [1, H, W, 3], whose latents are the encoder's."""
        latents = self._model.infer(x)
        self._step, self._check = self._compiled(latents, len(x))
        self._x, self._latents, self._count = x, latents, 0
        self._moments = [tf.nest.map_structure(tf.zeros_like, latents) for _ in range(2)]
        if "variables" in self._differences:
            self._latents = tf.nest.map_structure(tf.Variable, latents)
            optimizer = tf.keras.optimizers.Adam(self._rate)
            optimizer.build([*self._latents.values()])
            self._keras_step = tf.function(lambda grid: self._keras_graph(optimizer, grid))
        self.check()

    def run(self, steps: int) -> None:
        """Goes on by `steps` steps, and fetches the loss of the last."""
        for _ in range(steps):
            if "variables" in self._differences:
                loss = self._keras_step(self._grid)
            else:
                loss, self._latents, self._moments = self._step(
                    self._x, self._latents, self._moments, self._grid, tf.constant(self._count))
            self._count += 1
        self.loss = float(loss[0])

    def check(self) -> None:
        """Measures the latents rounded, and lays the grid."""
        latents = tf.nest.map_structure(tf.convert_to_tensor, self._latents)
        check = self._eager_check if "eager" in self._differences else self._check
        measured, _, self._grid = check(self._x, latents, 1)  # one pass: there is no context
        self.measured = {name: float(value[0]) for name, value in measured.items()}

    def _keras_graph(self, optimizer, grid):
        latents, step = self._latents, tf.cast(optimizer.iterations, tf.int32)
        sga = quantizers.StochasticGumbel(
            self._temperature(step), quantizers.fold_in([self._config.seed, 0], step))
        quantizer = quantizers.OnGrid(sga, grid, sga.noise)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(latents)
            generated = self._model.generate(latents, quantizer)
            loss = self._per_image(self._x, generated)["rd_loss"]
        gradients = tape.gradient(loss, latents)
        optimizer.apply_gradients([(gradients[name], latents[name]) for name in latents])
        return loss

    def _eager_check(self, x, latents, passes):
        generated = self._model.generate(latents, quantizers.Round(passes))
        measured = self._per_image(x, generated, eight_bit=True)
        a, b = (images.to_uint8(image[0]) for image in (x, padding.crop_to(generated.x_hat, x)))
        return ({**measured, "ms_ssim": [metrics.ms_ssim(a, b)]}, generated.latents,
                refinement.grid_of(generated))


def turn(loop: Loop, x: tf.Tensor, steps: int) -> dict[str, float]:
    """Seconds that one image takes to begin, for its first step, a later one and a check."""
    return {
        "begin": side_by_side.seconds(loop.begin, x),
        "first": side_by_side.seconds(loop.run, 1),
        "step": side_by_side.seconds(loop.run, steps) / steps,
        "check": side_by_side.seconds(loop.check),
    }


def measure(height: int, width: int, channels: int, rounds: int, steps: int
            ) -> tuple[list[dict], dict[str, list]]:
    """Rows of the table, and what each turn of each loop took; the first of them is a warm-up."""
    loops = {name: Loop(build(channels, differences), differences)
             for name, differences in LOOPS.items()}
    turns = {name: [] for name in loops}
    for i in range(1 + rounds):
        x = tf.random.stateless_uniform([1, height, width, 3], [i, 0])
        for name, loop in loops.items():
            turns[name].append(turn(loop, x, steps))
    rows = [row(name, turns[name], loop.interval) for name, loop in loops.items()]
    for each in rows:
        each["ratio"] = each[_column(_STEPS[-1])] / rows[0][_column(_STEPS[-1])]
    return rows, turns


def row(name: str, turns: list[dict], interval: int) -> dict:
    """The medians of all turns but the first, and what follows from them."""
    warmup, *turns = turns
    medians = {key: statistics.median(turn[key] for turn in turns) for key in warmup}
    first, step, check = (medians[key] for key in ("first", "step", "check"))
    of = {n: first + (n - 1) * step + (n // interval + 1) * check for n in _STEPS}
    return {"loop": name, "first": first, "step": step, "check": check, "interval": interval,
            "once": sum(warmup[key] - medians[key] for key in ("begin", "first")),
            **{_column(n): seconds for n, seconds in of.items()},
            "steps/s": _STEPS[-1] / of[_STEPS[-1]]}


def _column(steps):
    return f"{steps} steps"


@report
def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.inference_speed", description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--channels", type=int, default=192, help="N and M; even")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each loop")
    parser.add_argument("--steps", type=int, default=5, help="steps a turn, besides the first")
    parser.add_argument("--output", nargs="?", const=_RESULTS,
                        help="write OUTPUT.json and OUTPUT.csv (without a name: %(const)s)")
    args = parser.parse_args(argv)
    side_by_side.warn_if_busy()
    options = {key: value for key, value in vars(args).items() if key != "output"}
    rows, turns = measure(**options)
    print(result_tables.render(rows, rows[0].keys()))
    print(f"\nbaseline / ours: {rows[-1]['ratio']:.3f} at {_STEPS[-1]} steps, "
          f"{rows[-1][_column(_STEPS[0])] / rows[0][_column(_STEPS[0])]:.3f} at {_STEPS[0]}")
    if args.output:
        result_tables.save(args.output, rows, turns=turns,
                           **side_by_side.facts([], argparse.Namespace(**options)))


if __name__ == "__main__":
    main(sys.argv[1:])
