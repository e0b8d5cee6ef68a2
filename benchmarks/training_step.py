"""Seconds a training step of mbt2018, N = M = 192: `python -m benchmarks.training_step`.

A step is forward, loss, backward and Adam's update with the gradients' norm clipped to 1, in
float32 and in bfloat16 on the CPU, on one and the same batch of noise.

    ours         `Trainer.train_step` with mshyper/configs/mbt2018.py, as a tf.function. In bfloat16
                 it keeps a copy of the weights for validation up to date, as training does.
    CompressAI   `MeanScaleHyperprior(192, 192)` with the loop of its examples/train.py: the same
                 loss, and after it the auxiliary loss of the prior's quantiles with its own Adam.
                 Ours has no such loss (quantiles are found at export), so this is part of what a
                 step costs there. Memory layout and the rest are PyTorch's defaults; bfloat16 is
                 torch.autocast around the model.

With --small it is mshyper/configs/small.py with SOAP, batch 4, and our side alone.
"""

import argparse
import statistics
import sys

import numpy as np

from benchmarks import side_by_side


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side")
    parser.add_argument("--steps", type=int, default=2, help="steps a turn")
    parser.add_argument("--warmup", type=int, default=2, help="steps before measuring")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--small", action="store_true", help="see above; saves nothing")
    parser.add_argument("--patch", type=int, default=256, help="height and width of the images")
    side_by_side.add_arguments(parser)
    args = parser.parse_args()
    side_by_side.run(args, measure, ours=ours, CompressAI=compressai)


def measure(args: argparse.Namespace) -> None:
    """Measures both sides; prints a table and writes training_step.json."""
    from common import files, result_tables

    sides = ("ours",) if args.small else ("ours", "CompressAI")
    with side_by_side.workers("benchmarks.training_step", sys.argv[1:], sides) as sides:
        side_by_side.alternate_precisions(sides, 1, "run", steps=args.warmup)
        turns = side_by_side.alternate_precisions(sides, args.rounds, "run", steps=args.steps)
        facts = side_by_side.facts(sides, args)
    seconds = {side: [s for turn in of_side for s in turn] for side, of_side in turns.items()}
    medians = {side: statistics.median(all_seconds) for side, all_seconds in seconds.items()}
    rows = [{"seconds a step": side, "median": medians[side], "least": min(all_seconds),
             "most": max(all_seconds)} for side, all_seconds in seconds.items()]
    print(result_tables.render(rows, rows[0].keys()))
    if args.small:
        return
    ratios = side_by_side.ratios(medians)
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.3f}")
    side_by_side.RESULTS.mkdir(parents=True, exist_ok=True)
    files.write_json(side_by_side.RESULTS / "training_step.json",
                     {**facts, "ratios": ratios, "rows": rows, "seconds": seconds})


def ours(args: argparse.Namespace) -> side_by_side.Methods:
    """The worker of our side."""
    tf = side_by_side.tensorflow(args.threads)
    from common import export, optimizers, precision, schedules
    from common.trainer import Trainer
    from mshyper.configs import mbt2018, small
    from mshyper.models import MeanScaleHyperprior

    config = (small if args.small else mbt2018).get_config()
    batch = tf.constant(_batch(args))

    def build(name):
        with precision.policy(name):
            codec = export.build(MeanScaleHyperprior, config.to_dict())
        average = None if name == "float32" else export.build(
            MeanScaleHyperprior, config.to_dict())
        rate = schedules.for_optimizer(
            config.train.schedule, config.train.optimizer, config.train.num_steps)
        trainer = Trainer(codec, config, optimizers.build(config.train.optimizer, rate, name),
                          average)
        trainer.optimizer.build(codec.trainable_variables)
        train_step = tf.function(trainer.train_step)
        return lambda: train_step(batch)["rd_loss"].numpy()

    return _methods({name: build(name) for name in side_by_side.PRECISIONS})


def compressai(args: argparse.Namespace) -> side_by_side.Methods:
    """The worker of CompressAI."""
    torch = side_by_side.torch(args.threads)
    from compressai.losses import RateDistortionLoss
    from compressai.models import MeanScaleHyperprior
    from compressai.optimizers import net_aux_optimizer

    net = MeanScaleHyperprior(192, 192).train()
    criterion = RateDistortionLoss(lmbda=0.01)
    adams = net_aux_optimizer(
        net, {"net": {"type": "Adam", "lr": 1e-4}, "aux": {"type": "Adam", "lr": 1e-3}})
    batch = torch.from_numpy(_batch(args)).permute(0, 3, 1, 2).contiguous()

    def step(autocast):
        adams["net"].zero_grad()
        adams["aux"].zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = net(batch)
        loss = criterion(out, batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adams["net"].step()
        net.aux_loss().backward()
        adams["aux"].step()
        loss.item()

    return _methods({name: lambda name=name: step(name == "bfloat16")
                     for name in side_by_side.PRECISIONS})


def _methods(step_of: dict) -> side_by_side.Methods:
    def run(steps, precision):
        return [side_by_side.seconds(step_of[precision]) for _ in range(steps)]

    return {"run": run}


def _batch(args):
    size = (4 if args.small else args.batch, args.patch, args.patch, 3)
    return np.random.default_rng(0).random(size, np.float32)


if __name__ == "__main__":
    main()
