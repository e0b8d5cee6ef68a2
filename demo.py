"""`make demo`: trains, evaluates, writes a real file, reads it back, and shows it beside JPEG."""

import json
import pathlib
import shutil
import sys

from matplotlib.figure import Figure

from common import images, jpeg, result_tables, zoo
from common.cli import report
from common.files import replacing
from common.lazy import coding, data, metrics, pictures, targets, training
from mshyper.configs import demo

OUTPUT = pathlib.Path("demo")
QUALITIES = (10, 40, 70)  # at which the released model codes


def show_training(path: pathlib.Path, rows: list[result_tables.Row]) -> None:
    """Draws the validation loss over the steps of training."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([row["step"] for row in rows], [row["rd_loss"] for row in rows], "o-")
    axes.set(xlabel="step", ylabel="validation loss (bpp + lambda MSE)", ylim=(0, None))
    axes.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


@report
def main(_: list[str]) -> None:
    """Runs the demo; everything lands in the folder `demo`."""
    config = demo.get_config()
    workdir = OUTPUT / "run"
    shutil.rmtree(workdir, ignore_errors=True)
    OUTPUT.mkdir(exist_ok=True)

    steps, held_out = config.train.num_steps, config.data.validation
    release = zoo.load(zoo.DEFAULT)
    print(f"1. Training: {steps} steps from fresh weights, on {config.data.train}")
    exported = training.run(zoo.CODECS["mshyper.models"], config, workdir)
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    rows = [line for line in lines if line["split"] == "validation"]
    print(f"   On {held_out}, the loss (bpp + lambda MSE) falls:")
    print(result_tables.render(rows, ("step", "rd_loss", "bpp", "psnr")))
    show_training(OUTPUT / "training.png", rows)

    print(f"\n2. Evaluation on {held_out}, actual files: of this model, and of {zoo.DEFAULT},\n"
          "   which was trained for hours, on other photographs, for all rates")
    sources, means = data.find(held_out), []
    for name, model, quality in [(str(exported), zoo.load(exported), None),
                                 *((zoo.DEFAULT, release, quality) for quality in QUALITIES)]:
        measured = [row for row, _ in coding.measure_all(
            model, sources, level=targets.level(model, quality))]
        means.append({"model": name, "quality": quality, **result_tables.mean_row(measured)})
    print(result_tables.render(means, ("model", "quality", "bytes", "bpp", "estimated_bpp", "psnr",
                                       "ms_ssim", "encoding_time", "decoding_time")))

    print(f"\n3. One photograph as three files of {zoo.DEFAULT}, beside JPEG (4:2:0) of like size")
    original = sources[0].read()
    stem = pathlib.Path(sources[0].name).stem
    rows, shown = [], []
    for quality in QUALITIES:
        ntc = coding.compress(release, original, level=targets.level(release, quality))
        decoded = coding.decompress(release, ntc)
        jpg = jpeg.nearest(original, len(ntc))
        (OUTPUT / f"{stem}-{quality}.ntc").write_bytes(ntc)
        (OUTPUT / f"{stem}-{quality}.jpg").write_bytes(jpg)
        images.write(OUTPUT / f"{stem}-{quality}.decoded.png", decoded)
        shown.append({"original": original})
        for codec, file, picture in ("ntc", ntc, decoded), ("JPEG", jpg, jpeg.decode(jpg)):
            psnr = metrics.psnr(original, picture)
            rows.append({"quality": quality, "codec": codec, "bytes": len(file),
                         "bpp": 8 * len(file) / (original.shape[0] * original.shape[1]),
                         "PSNR": psnr, "MS-SSIM": metrics.ms_ssim(original, picture)})
            shown[-1][f"{codec}: {len(file)} bytes, {psnr:.2f} dB"] = picture
    print(result_tables.render(rows, ("quality", "codec", "bytes", "bpp", "PSNR", "MS-SSIM")))
    pictures.draw(OUTPUT / "comparison.png", shown)

    print(f"""
Where everything lies:
   {OUTPUT / 'training.png'}   the loss over the steps
   {OUTPUT / 'comparison.png'}   original | ntc | JPEG, at three rates
   {OUTPUT / f'{stem}-*.ntc'}, {OUTPUT / f'{stem}-*.decoded.png'}, {OUTPUT / f'{stem}-*.jpg'}
   {workdir}   the run; tensorboard --logdir {workdir}
   {exported}   the model; python -m codec compress --model {exported} photo.png""")


if __name__ == "__main__":
    main(sys.argv)
