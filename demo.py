"""`make demo`: trains, evaluates, writes a real file, reads it back, and shows it beside JPEG."""

import json
import pathlib
import shutil
import sys

import numpy as np
from matplotlib.figure import Figure

import codec
from common import coding, data, images, jpeg, metrics, tables, training
from common.cli import report
from common.files import replacing
from mshyper.configs import demo
from mshyper.models import MeanScaleHyperprior

OUTPUT = pathlib.Path("demo")


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


@report
def main(_) -> None:
    """Runs the demo; everything lands in the folder `demo`."""
    config = demo.get_config()
    workdir = OUTPUT / "run"
    shutil.rmtree(workdir, ignore_errors=True)
    OUTPUT.mkdir(exist_ok=True)

    print(f"1. Training: {config.train.num_steps} more steps of {config.train.warm_start} on "
          f"{config.data.train}")
    exported = training.run(MeanScaleHyperprior, config, workdir)
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    losses = [line["rd_loss"] for line in lines if line["split"] == "validation"]
    print(f"   validation loss (bpp + lambda MSE): {losses[0]:.4f} before, {losses[-1]:.4f} after; "
          f"kept: {min(losses):.4f}")

    print(f"\n2. Evaluation on {config.data.validation}, photographs it never saw: actual files")
    model = codec.load_model(exported)
    rows = [row for row, _ in coding.measure_all(model, data.find(config.data.validation))]
    rows.append(tables.mean_row(rows))
    print(tables.render(rows, ("image", "bytes", "bpp", "estimated_bpp", "psnr", "ms_ssim",
                               "encoding_time", "decoding_time")))

    print("\n3. One photograph as a file, beside JPEG (4:2:0) of the nearest size")
    source = data.find(config.data.validation)[0]
    original = source.read()
    stem = pathlib.Path(source.name).stem
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
   {OUTPUT / 'comparison.png'}   original | ntc | JPEG
   {files['ntc']}, {OUTPUT / (stem + '.decoded.png')}, {files['JPEG']}
   {workdir}   the run; tensorboard --logdir {workdir}
   {exported}   the model; python -m codec compress --model {exported} photo.png""")


if __name__ == "__main__":
    main(sys.argv)
