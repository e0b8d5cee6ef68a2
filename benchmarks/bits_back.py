"""How much a bits-back decoder should know of the posterior: `python -m benchmarks.bits_back`.

Encoder and decoder need the same posterior q(z | ŷ). Measured are net bits of the stack, by

    amortised     the hyper-analysis as an integer network
    search of N   N steps of optimisation that the decoder does again (mshyper/posterior_search.py)
    sent D        200 such steps, whose result is sent: the means' difference from the amortised
                  ones in units of D / 16. Scales stay amortised. Its cost is the empirical entropy
                  of each channel and image, less than any coder without context can reach; the rate
                  without that cost stands beside.

The photographs of `photos/validation` are not among those that a zoo model was trained on. A model
with levels codes at quality 50.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

import chain
from common import result_tables
from common.ans import AnsStack
from common.cli import report
from common.lazy import coding, data
from mshyper.bits_back import BitsBackHyperprior

SEARCHES = (5, 10, 20, 40, 80)
UNITS = (4, 8, 16, 32)
_OPTIMISED = 200
_START = np.random.default_rng(0).bytes(1_000_000)


def net_bits(model: BitsBackHyperprior, y: np.ndarray, posterior: tuple[np.ndarray, np.ndarray]
             ) -> int:
    """The bits by which a stack grows when it takes int32 y with this posterior."""
    stack = AnsStack(model.exported[0], _START)
    before = stack.bits
    model.encode_with(y, posterior, stack)
    return stack.bits - before


def entropy(symbols: np.ndarray) -> float:
    """Bits of the symbols of one channel, by how often each occurs among them."""
    _, counts = np.unique(symbols, return_counts=True)
    return float(-np.sum(counts * np.log2(counts / counts.sum())))


def measure(model: BitsBackHyperprior, image: np.ndarray) -> dict[str, float]:
    """Net bits per pixel of an image, uint8 [H, W, 3], by each way."""
    y = np.round(coding.infer(model, image)["y"]).astype(np.int32)
    amortised = model.coded_posterior(y, 0)
    row: dict[str, float] = {"amortised": net_bits(model, y, amortised)}
    for steps in SEARCHES:
        row[f"search of {steps}"] = net_bits(model, y, model.coded_posterior(y, steps))
    optimised, _ = model.coded_posterior(y, _OPTIMISED)
    for unit in UNITS:
        sent = np.round((optimised - amortised[0]) / unit).astype(np.int32)
        without = net_bits(model, y, (amortised[0] + unit * sent, amortised[1]))
        cost = sum(entropy(channel) for channel in np.moveaxis(sent, -1, 0))
        row[f"sent {unit}"] = without + cost
        row[f"sent {unit}, without its cost"] = without
    return {name: bits / (image.shape[0] * image.shape[1]) for name, bits in row.items()}


@report
def main(argv: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bits_back", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mshyper-small_bb-2",
                        help="a bits-back model (default: %(default)s)")
    parser.add_argument("--dataset", default="photos/validation",
                        help="name of a data set, folder or glob (default: %(default)s)")
    parser.add_argument("--output", help="write OUTPUT.json and OUTPUT.csv")
    args = parser.parse_args(argv)
    model = chain.load_model(args.model)
    rows = [{"image": source.name, **measure(model, source.read())}
            for source in data.find(args.dataset)]
    mean = result_tables.mean_row(rows)
    print(result_tables.render([
        {"posterior": name, "net bpp": mean[name],
         "change": f"{mean[name] / mean['amortised'] - 1:+.2%}"}
        for name in mean if name != "image"], columns=("posterior", "net bpp", "change")))
    if args.output:
        result_tables.save(args.output, rows, model=args.model, fingerprint=model.fingerprint,
                           dataset=args.dataset)


if __name__ == "__main__":
    main(sys.argv[1:])
