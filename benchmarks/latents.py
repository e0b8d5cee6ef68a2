"""How much of y a model uses, and what its transforms lose: `python -m benchmarks.latents`.

For each of some levels, means over images of

    bpp, psnr    of the model as it is
    unrounded    PSNR of the transforms alone, with y as the analysis has it: no bits would help it
    channels     of y with more than 1e-4 of its bits

Channels whose rate drives them to zero early in training do not come back, and what they would have
held is lost at every rate. It shows where `unrounded` is hardly above `psnr` at the highest level.
Beside it, the PSNR of the cosine transform of as many channels, not rounded
(common/transforms/dct.py).
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import tqdm

from benchmarks import side_by_side
from common import images, result_tables, zoo
from common.cli import report
from common.lazy import Codec, data, metrics, quantizers, tf, transforms

_OUTPUT = side_by_side.KEPT / "latents"
_SHARE = 1e-4


def look(model: Codec, image: np.ndarray, level: int | None
         ) -> tuple[dict[str, float], np.ndarray]:
    """bpp and both PSNRs of an image [H, W, 3], and the bits of y's channels, [C]."""
    x = data.to_float(image)[None]
    latents = model.infer(x, level=level)
    generated = model.generate(latents, quantizers.Round())
    bits = {name: tf.reduce_sum(value, range(value.shape.rank - 1)).numpy()
            for name, value in generated.element_bits.items()}
    unrounded = model.to_image(latents["y"], level=latents.get("level"))
    return {"bpp": sum(value.sum() for value in bits.values()) / image[..., 0].size,
            "psnr": _psnr(image, generated.x_hat), "unrounded": _psnr(image, unrounded)}, bits["y"]


def cosine_psnr(image: np.ndarray, channels: int) -> float:
    """PSNR of an image [H, W, 3] of whose cosine transform the first channels are kept."""
    x = data.to_float(image)[None] - 0.5
    return _psnr(image, 0.5 + transforms.dct.InverseDCT()(transforms.dct.DCT(channels)(x)))


def _psnr(image, x):
    height, width = image.shape[:2]
    return metrics.psnr(image, images.to_uint8(x[0, :height, :width]).numpy())


@report
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=zoo.DEFAULT)
    parser.add_argument("--dataset", default="photos/validation")
    parser.add_argument("--output", nargs="?", const=_OUTPUT,
                        help="write OUTPUT.json and OUTPUT.csv (without a name: %(const)s)")
    args = parser.parse_args()
    model = zoo.load(args.model)
    photographs, rows = [source.read() for source in data.find(args.dataset)], []
    for level in tqdm.tqdm(model.levels.spread(5) if model.levels else [None], disable=None):
        looks = [look(model, image, level) for image in photographs]
        of_channels = np.sum([bits for _, bits in looks], axis=0)
        means = {key: statistics.fmean(float(row[key]) for row, _ in looks) for key in looks[0][0]}
        rows.append({"level": level, **means,
                     "channels": int(np.sum(of_channels > _SHARE * of_channels.sum()))})
    print(result_tables.render(rows, columns=[*rows[0]]))
    for channels in sorted({row["channels"] for row in rows} | {model.analysis.out_channels}):
        psnr = statistics.fmean(cosine_psnr(image, channels) for image in photographs)
        print(f"cosine transform of {channels} channels: {psnr:.2f} dB")
    if args.output:
        result_tables.save(args.output, rows, model=args.model, fingerprint=model.fingerprint,
                           dataset=args.dataset)


if __name__ == "__main__":
    main()
