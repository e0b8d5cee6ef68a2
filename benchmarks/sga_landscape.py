"""Stochastic Gumbel annealing on a toy latent, in a picture: `python -m benchmarks.sga_landscape`.

The latent y has two entries, coded by a Gaussian prior of scale sigma, and a decoder that is
curved, and steeper along y_0 + y_1 than along y_0 - y_1:

    g(y) = (3 (u - 0.1 v^2), v),  u = y_0 + y_1,  v = y_0 - y_1
    loss = -log2 P(y) + lambda |x - g(y)|^2, in bits

Here x is the image of a source, g(source). Inference starts where an encoder puts y that takes the
decoder for linear. Quantizers and Adam are those of the library; steps, rates and temperatures
those of the methods "map" and, in 500 steps, "sga_yang2020". What counts is the last step, rounded.

    first panel   the loss of continuous latents, their way down, and where rounding takes them
    the others    SGA at falling temperatures: colours are the expected loss of what its sampling
                  makes of a latent, white points such samples of the latent where the way ends

Rings are at integers, which are all that a file can hold; their colours are their losses.
The source shown, `SOURCE`, is one where rounding costs much. What it costs on average, over more
sources from the prior, is in the headline, beside the least loss of all integers around.
"""

from __future__ import annotations

import argparse
import math
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import config_dict

from common import methods
from common.cli import report
from common.errors import UserError
from common.files import replacing
from common.lazy import Figure, LogLocator, LogNorm, optimizers, quantizers, schedules, tf

SOURCE = (1.95, -1.45)
SIGMA, LAMBDA = 1.5, 1.0

# When to draw a panel, in parts of inference: at temperatures 0.5, 0.30, 0.20 and 0.14.
_TIMES = (0.2, 0.6, 0.8, 1.0)
_COLOURS = "viridis_r"


# --- The toy ----------------------------------------------------------------------------------


def decode(y: tf.Tensor) -> tf.Tensor:
    """g(y) of latents [..., 2]."""
    u, v = y[..., 0] + y[..., 1], y[..., 0] - y[..., 1]
    return tf.stack([3 * (u - 0.1 * v**2), v], -1)


def objective(y: tf.Tensor, source: tf.Tensor) -> tf.Tensor:
    """The loss [...] of latents [..., 2] for the images of sources [..., 2]."""
    # By the upper tails, which do not cancel.
    tails = tf.math.erfc((tf.abs(y)[..., None] + [-0.5, 0.5]) / (SIGMA * math.sqrt(2)))
    bits = -tf.math.log((tails[..., 0] - tails[..., 1]) / 2) / math.log(2)
    error = decode(source) - decode(y)
    return tf.reduce_sum(bits, -1) + LAMBDA * tf.reduce_sum(error**2, -1)


def encode(source: tf.Tensor) -> tf.Tensor:
    """Latents [..., 2] for the images of sources, by the inverse of g without its curvature."""
    x = decode(source)
    return tf.stack([x[..., 0] / 3 + x[..., 1], x[..., 0] / 3 - x[..., 1]], -1) / 2


def draw_sources(count: int) -> tf.Tensor:
    """`SOURCE`, and after it `count` others from the prior: float32 [1 + count, 2]."""
    others = np.random.default_rng(0).normal(scale=SIGMA, size=(count, 2))
    return tf.constant(np.concatenate([[SOURCE], others]), tf.float32)


def integers(low: Sequence[int] | np.ndarray, high: Sequence[int] | np.ndarray) -> tf.Tensor:
    """Integer latents from one corner to another, both included: float32 [n, 2]."""
    axes = [np.arange(first, last + 1) for first, last in zip(low, high)]
    return tf.constant(np.stack(np.meshgrid(*axes), -1).reshape(-1, 2), tf.float32)


def least(source: tf.Tensor) -> np.ndarray:
    """The least loss of each of the sources [N, 2] at integers from -15 to 15: float32 [N]."""
    return tf.reduce_min(objective(integers((-15, -15), (15, 15)), source[:, None]), 1).numpy()


# --- Inference --------------------------------------------------------------------------------


def relax(y: tf.Tensor, temperature: float | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A sample of SGA for each latent [..., 2]; seed is int32 [2]."""
    relaxed, _ = quantizers.StochasticGumbel(temperature, seed)(y, 0.0, "y")
    return relaxed


def settings(method: str) -> config_dict.ConfigDict:
    """Those of "map", or those of "sga" as published, in a quarter of the steps."""
    if method == "map":
        return methods.method("map")
    config = methods.method("sga_yang2020")
    config.num_steps = 500
    return config


def temperature(step: int | tf.Tensor) -> tf.Tensor:
    """The temperature of SGA at `step`."""
    config = settings("sga")
    return schedules.temperature(step, config.num_steps, **config.temperature)


class Inferred(NamedTuple):
    """The result of inference.

    Attributes:
      path: latents of the first source, float32 [steps + 1, 2].
      rounded: the last latents of all sources, rounded, float32 [N, 2].
      losses: of these, float32 [N].
    """

    path: np.ndarray
    rounded: np.ndarray
    losses: np.ndarray


def infer(method: str, source: tf.Tensor, seed: int = 0) -> Inferred:
    """Minimises the loss by "sga" or "map", for sources [N, 2], each with noise of its own."""
    config = settings(method)
    relaxation = {
        "sga": lambda y, step: relax(
            y, temperature(step), quantizers.fold_in([seed, 0], step)),
        "map": lambda y, step: quantizers.Continuous()(y, 0.0, "y")[0]}[method]

    @tf.function
    def minimise(y, moments, step):
        with tf.GradientTape() as tape:
            tape.watch(y)
            loss = tf.reduce_sum(objective(relaxation(y, step), source))
        return optimizers.adam(
            y, tape.gradient(loss, y), moments, step, config.travel / config.num_steps)

    y = encode(source)
    moments, path = [tf.zeros_like(y), tf.zeros_like(y)], [y[0]]
    for step in tf.range(config.num_steps):
        y, moments = minimise(y, moments, step)
        path.append(y[0])
    rounded, _ = quantizers.Round()(y, 0.0, "y")
    return Inferred(np.array(path), rounded.numpy(), objective(rounded, source).numpy())


# --- The picture ------------------------------------------------------------------------------


def expected(y: tf.Tensor, source: tf.Tensor, temperature: float | tf.Tensor, samples: int = 64
             ) -> np.ndarray:
    """Mean loss [...] of `samples` that SGA draws for each latent [..., 2]."""
    drawn = relax(tf.tile(y[None], [samples, 1, 1, 1]), temperature, tf.constant([1, 0]))
    return tf.reduce_mean(objective(drawn, source), 0).numpy()


def plot(path: str | os.PathLike, by_map: Inferred, sga: Inferred, source: tf.Tensor) -> None:
    """Writes the picture for the first of `source` [N, 2], as PNG or SVG by the suffix."""
    shown = source[0]
    ways = np.concatenate([by_map.path, sga.path])
    low, high = np.floor(ways.min(0) - 0.5), np.ceil(ways.max(0) + 0.5)
    axes = [np.linspace(a - 0.5, b + 0.5, 121, dtype=np.float32) for a, b in zip(low, high)]
    grid = tf.constant(np.stack(np.meshgrid(*axes), -1))
    continuous = objective(grid, shown).numpy()
    points = integers(low, high)
    values = objective(points, shown).numpy()
    lowest = continuous.min()
    norm = LogNorm(lowest, 8 * values.min(), clip=True)

    figure = Figure(figsize=(4 * (1 + len(_TIMES)), 4.7), layout="constrained")
    first, *others = panels = figure.subplots(1, 1 + len(_TIMES), sharex=True, sharey=True)
    for panel in panels:
        panel.contour(*axes, continuous, lowest * 1.5**np.arange(1, 7), colors="black",
                      linewidths=0.3)
        panel.scatter(*points.numpy().T, c=values, norm=norm, cmap=_COLOURS, s=90,
                      edgecolors="black", zorder=3)
        panel.set(xlabel="y_0", aspect="equal")
    for point, value in zip(points.numpy(), values):
        first.annotate(f"{value:.1f}", point, (0, 8), textcoords="offset points", ha="center",
                       fontsize=8, bbox=dict(facecolor="white", alpha=0.7, pad=0.5, linewidth=0))
    first.set(ylabel="y_1", title=f"MAP\nrounded in the end: {by_map.losses[0]:.2f} bits")
    image = _panel(first, axes, continuous, norm, by_map.path)
    _end(first, by_map)
    steps = len(sga.path) - 1
    for time, panel in zip(_TIMES, others):
        step = round(time * steps)
        tau = temperature(step)
        _panel(panel, axes, expected(grid, shown, tau), norm, sga.path[:step + 1])
        drawn = relax(tf.tile(sga.path[step][None], [64, 1]), tau, tf.constant([2, 0]))
        panel.plot(*drawn.numpy().T, "o", color="white", markersize=3, markeredgecolor="black",
                   markeredgewidth=0.3, zorder=4)
        panel.set_title(f"SGA, step {step}\ntemperature {tau:.2f}")
    _end(others[-1], sga)
    others[-1].set_title(f"SGA, step {steps}, temperature {tau:.2f}\n"
                         f"rounded in the end: {sga.losses[0]:.2f} bits")
    figure.colorbar(image, ax=panels, label="loss, bits", format="{x:g}",
                    ticks=LogLocator(subs=(1, 2, 5))).minorticks_off()
    best = least(source)
    figure.suptitle(", ".join(
        f"{name} {np.mean(losses):.2f} bits ({np.mean(losses < best + 1e-3):.0%})"
        for name, losses in ((f"Mean loss of {len(source)} sources (share at the least): MAP",
                              by_map.losses), ("SGA", sga.losses), ("least", best))))
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100)


def _panel(panel, axes, values, norm, way):
    image = panel.pcolormesh(*axes, values, norm=norm, cmap=_COLOURS, rasterized=True, zorder=0)
    panel.plot(*way.T, color="red", linewidth=1.2, zorder=5)
    panel.plot(*way[0], "s", color="red", markersize=5, zorder=5)
    return image


def _end(panel, inferred):
    """Marks the step from the last latent to its integer."""
    panel.annotate("", inferred.rounded[0], inferred.path[-1], zorder=6,
                   arrowprops=dict(arrowstyle="->", color="red", linestyle="--"))
    panel.plot(*inferred.rounded[0], "x", color="red", markersize=9, markeredgewidth=2, zorder=6)


@report
def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sga_landscape", description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="sga_landscape.svg",
                        help="the picture, .png or .svg (default: %(default)s)")
    parser.add_argument("--sources", type=int, default=1000,
                        help="others than the one shown (default: %(default)s)")
    args = parser.parse_args(argv)
    if pathlib.Path(args.output).suffix not in (".png", ".svg"):
        raise UserError(f"{args.output} should end in .png or .svg")
    source = draw_sources(args.sources)
    plot(args.output, infer("map", source), infer("sga", source), source)


if __name__ == "__main__":
    main(sys.argv[1:])
