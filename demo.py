"""`make demo`: trains, evaluates, writes a real file, reads it back, and shows it beside JPEG."""

import json
import pathlib
import shutil
import sys

import numpy as np
from matplotlib.figure import Figure

from common import coding, data, export, images, jpeg, metrics, tables, targets, training, zoo
from common.cli import report
from common.files import replacing
from mshyper.configs import demo
from mshyper.models import MeanScaleHyperprior

OUTPUT = pathlib.Path("demo")
RELEASE = "mshyper-small-3"  # of the same architecture


def show(path: pathlib.Path, pictures: dict[str, np.ndarray]) -> None:
    """Draws uint8 pictures of one size side by side, each under its title."""
    height, width, _ = next(iter(pictures.values())).shape
    figure = Figure(figsize=(len(pictures) * width / 100, height / 100 + 0.5),
                    layout="constrained")
    panels = figure.subplots(1, len(pictures))
    for panel, (title, picture) in zip(panels, pictures.items()):
        panel.imshow(picture, interpolation="none")
        panel.set_title(title)
        panel.axis("off")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def show_training(path: pathlib.Path, rows: list[tables.Row]) -> None:
    """Draws the validation loss over the steps of training."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([row["step"] for row in rows], [row["rd_loss"] for row in rows], "o-")
    axes.set(xlabel="step", ylabel="validation loss (bpp + lambda MSE)", ylim=(0, None))
    axes.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


@report
def main(_) -> None:
    """Runs the demo; everything lands in the folder `demo`."""
    config = demo.get_config()
    workdir = OUTPUT / "run"
    shutil.rmtree(workdir, ignore_errors=True)
    OUTPUT.mkdir(exist_ok=True)

    steps, held_out = config.train.num_steps, config.data.validation
    released = export.read_config(export.find(RELEASE))["train"]["num_steps"]
    print(f"1. Training: {steps} steps from fresh weights, on {config.data.train}")
    exported = training.run(MeanScaleHyperprior, config, workdir)
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    rows = [line for line in lines if line["split"] == "validation"]
    print(f"   On {held_out}, the loss (bpp + lambda MSE) falls:")
    print(tables.render(rows, ("step", "rd_loss", "bpp", "psnr")))
    show_training(OUTPUT / "training.png", rows)

    print(f"\n2. Evaluation on {held_out}, actual files: of this model, and of {RELEASE}, which "
          f"was\n   trained for {released} steps, on other photographs")
    sources, models, means = data.find(held_out), {}, []
    for name in str(exported), RELEASE:
        models[name] = zoo.load(name)
        level = targets.level(models[name], None)
        measured = [row for row, _ in coding.measure_all(models[name], sources, level=level)]
        means.append({"model": name, **tables.mean_row(measured)})
    print(tables.render(means, ("model", "bytes", "bpp", "estimated_bpp", "psnr", "ms_ssim",
                                "encoding_time", "decoding_time")))

    print(f"\n3. One photograph as a file of {RELEASE}, beside JPEG (4:2:0) of the nearest size")
    original, model = sources[0].read(), models[RELEASE]
    stem = pathlib.Path(sources[0].name).stem
    pixels = original.shape[0] * original.shape[1]
    files = {"ntc": OUTPUT / f"{stem}.ntc", "JPEG": OUTPUT / f"{stem}.jpg"}
    ntc = coding.compress(model, original)
    files["ntc"].write_bytes(ntc)
    files["JPEG"].write_bytes(jpeg.nearest(original, len(ntc)))
    pictures = {
        "ntc": coding.decompress(model, files["ntc"].read_bytes()),
        "JPEG": jpeg.decode(files["JPEG"].read_bytes()),
    }
    images.write(OUTPUT / f"{stem}.decoded.png", pictures["ntc"])
    rows = []
    for name, picture in pictures.items():
        size = files[name].stat().st_size
        rows.append({"codec": name, "bytes": size, "bpp": 8 * size / pixels,
                     "PSNR": metrics.psnr(original, picture),
                     "MS-SSIM": metrics.ms_ssim(original, picture)})
    print(tables.render(rows, ("codec", "bytes", "bpp", "PSNR", "MS-SSIM")))
    titles = {row["codec"]: f"{row['codec']}: {row['bytes']} bytes, {row['PSNR']:.2f} dB"
              for row in rows}
    show(OUTPUT / "comparison.png",
         {"original": original, **{titles[name]: p for name, p in pictures.items()}})

    print(f"""
Where everything lies:
   {OUTPUT / 'training.png'}   the loss over the steps
   {OUTPUT / 'comparison.png'}   original | ntc | JPEG
   {files['ntc']}, {OUTPUT / (stem + '.decoded.png')}, {files['JPEG']}
   {workdir}   the run; tensorboard --logdir {workdir}
   {exported}   the model; python -m codec compress --model {exported} photo.png""")


if __name__ == "__main__":
    main(sys.argv)
