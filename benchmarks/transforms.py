"""Seconds of every transform in float32 and in bfloat16: `python -m benchmarks.transforms`.

Each class of `transforms.REGISTRY` that a config uses, with the arguments and at the place that it
has in the first such config (in the order of the table in docs/models.md):

    training     output and gradient of the weights, for `--batch` images of 256 x 256 pixels
    inference    output, for one image of 512 x 768

in one graph each, on noise. Both precisions take turns in one process, and medians are compared.
What is not fast in bfloat16 on this machine is listed at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable

import tqdm

from benchmarks import complexity, side_by_side
from common import files, precision, result_tables
from common.cli import report
from common.lazy import tf, transforms

_PRECISIONS = ("float32", "bfloat16")
OUTPUT = side_by_side.RESULTS / "transforms.json"


def cases() -> dict[str, tuple[dict, int, int]]:
    """By name of a transform its arguments, its stride in the image and its input channels."""
    found = {}
    for _, _, model in complexity.configurations().values():
        parts = {name: transforms.build(value) for name, value in model.items()
                 if isinstance(value, dict)}
        for name, (stride, channels) in complexity.inputs(parts).items():
            found.setdefault(model[name]["cls"], (model[name], stride, channels))
    return found


def graphs(arguments: dict, chosen: str) -> dict[str, Callable]:
    """Both things that are measured, as functions of an input."""
    tf.keras.utils.set_random_seed(0)
    with precision.policy(chosen):
        transform: tf.keras.Model = transforms.build(arguments)

    @tf.function(autograph=False)
    def training(x):
        with tf.GradientTape() as tape:
            y = transform(x, training=True)
            loss = tf.reduce_sum(y * y)
        gradients = tape.gradient(loss, transform.trainable_variables)
        return tf.add_n([tf.reduce_sum(g) for g in gradients])

    @tf.function(autograph=False)
    def inference(x):
        return tf.reduce_sum(transform(x))

    return {"training": training, "inference": inference}


def seconds(arguments: dict, stride: int, channels: int, args: argparse.Namespace
            ) -> dict[str, float]:
    """Medians of `args.rounds` runs of one transform."""
    functions = {chosen: graphs(arguments, chosen) for chosen in _PRECISIONS}
    row = {}
    for what, size in (("training", (args.batch, 256, 256)), ("inference", (1, 512, 768))):
        batch, *sides = size
        x = tf.random.stateless_normal(
            [batch, *(math.ceil(side / stride) for side in sides), channels], (0, 0))
        taken = {chosen: [] for chosen in _PRECISIONS}
        for turn in range(1 + args.rounds):
            for chosen, times in taken.items():
                run = functions[chosen][what]
                spent = side_by_side.seconds(lambda run=run, x=x: run(x).numpy())
                times += [spent] if turn else []
        row |= {f"{what} {chosen}": statistics.median(times) for chosen, times in taken.items()}
        row[f"{what} ratio"] = row[f"{what} bfloat16"] / row[f"{what} float32"]
    return row


@report
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="TRANSFORM",
                        help="measure and print these, and save nothing")
    parser.add_argument("--batch", type=int, default=1, help="images of a training step")
    parser.add_argument("--rounds", type=int, default=2, help="turns of both precisions")
    args = parser.parse_args()
    tf.get_logger().setLevel("ERROR")  # it warns of a graph for each transform
    side_by_side.warn_if_busy()
    rows = [{"transform": name, **seconds(arguments, stride, channels, args)}
            for name, (arguments, stride, channels) in tqdm.tqdm(cases().items(), disable=None)
            if not args.only or name in args.only]
    print(result_tables.render(rows, rows[0].keys()))
    slow = [row["transform"] for row in rows
            if max(row["training ratio"], row["inference ratio"]) > 1.05]
    print(f"\nslower in bfloat16: {', '.join(slow) or 'none'}")
    if args.only:
        return
    side_by_side.RESULTS.mkdir(parents=True, exist_ok=True)
    files.write_json(OUTPUT, {
        **side_by_side.facts([], args), "bfloat16": precision.hardware(), "slower": slow,
        "arguments": {name: json.loads(json.dumps(case[0])) for name, case in cases().items()},
        "rows": rows})
    print(f"written: {OUTPUT}")


if __name__ == "__main__":
    main()
