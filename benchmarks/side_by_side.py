"""Two libraries measured side by side: a live process of each, taking turns.

Both processes load, trace and warm up before anything is measured, and then alternate A B A B, so
that a change of the machine's clock happens to both. The machine must be idle all the same: the
threads of OpenMP wait for each other after every operation, so that beside one busy process
PyTorch on all cores is several times slower, and TensorFlow is not.

A benchmark is one module that is run in three ways: by the user, and with `--side` once in each
environment, as a worker that answers calls on stdin. Imports of either library sit inside
functions, for neither environment has both.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results" / "benchmarks"  # what is measured here; not tracked by git
KEPT = ROOT / "benchmarks" / "results"  # what benchmarks/README.md quotes
PYTHONS = {
    "ours": pathlib.Path(sys.executable),
    "CompressAI": ROOT / ".compressai" / "bin" / "python",
}
_PACKAGES = {
    "ours": ("tensorflow", "tensorflow-compression", "numpy"),
    "CompressAI": ("torch", "compressai", "numpy"),
}
PRECISIONS = ("float32", "bfloat16")
_SIDE = "--side"

# What a worker can be asked to do, by name. Arguments and results are JSON.
Methods = dict[str, Callable]


# --- The driver -------------------------------------------------------------------------------


class Worker:
    """One side's live process.

    Args:
      side: key of `PYTHONS`.
      module: the benchmark, as for `python -m`.
      arguments: command line for the benchmark.
    """

    def __init__(self, side: str, module: str, arguments: list[str]):
        self.side = side
        process = subprocess.Popen(
            [PYTHONS[side], "-W", "ignore", "-m", module, *arguments, _SIDE, side],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"})
        assert process.stdin and process.stdout
        self._process, self._requests, self._answers = process, process.stdin, process.stdout

    def call(self, method: str, **arguments: Any) -> Any:
        """Calls a method of the worker and waits for its result."""
        with contextlib.suppress(BrokenPipeError):  # then there is no answer
            print(json.dumps([method, arguments]), file=self._requests, flush=True)
        answer = self._answers.readline()
        if not answer:
            sys.exit(f"error: the process of {self.side} has ended; its message is above")
        return json.loads(answer)

    def close(self) -> None:
        """Lets the process end."""
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        self._process.wait()


@contextlib.contextmanager
def workers(module: str, arguments: list[str], sides: Sequence[str] = ("ours", "CompressAI")
            ) -> Iterator[list[Worker]]:
    """Starts the processes of sides for the block, in their order."""
    warn_if_busy()
    if "CompressAI" in sides and not PYTHONS["CompressAI"].exists():
        print("error: CompressAI is not installed; see benchmarks/README.md", file=sys.stderr)
        sys.exit(2)
    with contextlib.ExitStack() as stack:
        started = []
        for side in sides:
            started.append(Worker(side, module, arguments))
            stack.callback(started[-1].close)
        yield started


def warn_if_busy() -> None:
    """Says so if there is other work on the machine."""
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"warning: load average {load:.1f}; beside other work no measurement is fair",
              file=sys.stderr)


def alternate(sides: list[Worker], rounds: int, method: str, **arguments: Any
              ) -> dict[str, list]:
    """Calls `method` of each side in turn, `rounds` times; the results by side."""
    results = {worker.side: [] for worker in sides}
    for _ in range(rounds):
        for worker in sides:
            results[worker.side].append(worker.call(method, **arguments))
    return results


def alternate_precisions(sides: list[Worker], rounds: int, method: str, **arguments: Any
                         ) -> dict[str, list]:
    """`alternate` with `precision` as one more argument; the results by "<side> <precision>"."""
    results = {f"{worker.side} {precision}": [] for precision in PRECISIONS for worker in sides}
    for _ in range(rounds):
        for precision in PRECISIONS:
            turn = alternate(sides, 1, method, precision=precision, **arguments)
            for side, (result,) in turn.items():
                results[f"{side} {precision}"].append(result)
    return results


def ratios(values: dict[str, float]) -> dict[str, float]:
    """Our seconds by CompressAI's: in float32, ours in bfloat16 by its float32, in bfloat16."""
    return {f"ours {ours} / {theirs}": values[f"ours {ours}"] / values[f"CompressAI {theirs}"]
            for ours, theirs in (("float32", "float32"), ("bfloat16", "float32"),
                                 ("bfloat16", "bfloat16"))}


def facts(sides: list[Worker], args: argparse.Namespace) -> dict:
    """The facts that a measurement depends on: date, machine, options, versions."""
    from common import result_tables  # which CompressAI's side need not have

    return {
        "date": datetime.date.today().isoformat(),
        "processor": result_tables.processor(),
        "cores": os.cpu_count(),
        "options": {name: value for name, value in vars(args).items() if name != "side"},
        "versions": {worker.side: worker.call("versions") for worker in sides},
    }


# --- The workers ------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that all benchmarks have."""
    parser.add_argument("--threads", type=int, default=os.cpu_count(),
                        help="threads of each side; default: %(default)s, all cores")
    parser.add_argument(_SIDE, choices=PYTHONS, help=argparse.SUPPRESS)


def run(args: argparse.Namespace, measure: Callable[[argparse.Namespace], None],
        **sides: Callable[[argparse.Namespace], Methods]) -> None:
    """Measures; or, in a worker, is one of the sides.

    Args:
      args: with those of `add_arguments`.
      measure: what the command line asks for.
      **sides: by name of the side, what makes the methods of its workers.
    """
    if args.side:
        _serve(args.side, lambda: sides[args.side](args))
    else:
        from common import cli  # CompressAI's environment has no absl

        cli.report(measure)(args)


def _serve(side, build):
    """Answers calls on stdin with what `build` returns, until stdin closes."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # libraries print; answers stay clean
    methods = {"versions": lambda: {p: importlib.metadata.version(p) for p in _PACKAGES[side]}}
    methods |= build()
    for line in sys.stdin:
        method, arguments = json.loads(line)
        print(json.dumps(methods[method](**arguments)), file=answers, flush=True)


def tensorflow(threads: int) -> types.ModuleType:
    """Imports TensorFlow for `threads` threads, with fixed seeds."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    tf.keras.utils.set_random_seed(0)
    return tf


def torch(threads: int) -> types.ModuleType:
    """Imports PyTorch and CompressAI for `threads` threads, with fixed seeds."""
    import compressai  # noqa: F401  (before the number of threads is set, lest it sets its own)
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return torch


def seconds(function: Callable, *args: Any) -> float:
    """Time of one call."""
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start
