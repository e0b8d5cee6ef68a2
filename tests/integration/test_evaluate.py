"""evaluate.py: numbers of real files, in the schemas it promises."""

import csv
import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

import configs
import evaluate
from benchmarks import rate_distortion
from common import coding, data, fid, images, lpips, metrics, result_tables, zoo
from common.errors import UserError
from common.evaluation_figures import decoded_path
from tests.helpers.results import points


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder with a part of two photographs, large enough for FID."""
    folder = tmp_path_factory.mktemp("photographs")
    for source, width in zip(data.find("photos/validation"), (516, 264), strict=True):
        Image.fromarray(source.read()[120:380, 60:60 + width]).save(folder / source.name)
    return str(folder)


@pytest.fixture(scope="module")
def output(tiny_run, photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    published = tmp_path_factory.mktemp("published") / "published.json"
    published.write_text(json.dumps({"JPEG": {"bpp": [0.2, 0.5], "psnr": [24, 29]}}))
    evaluate.main(["--model", str(tiny_run.parent), "--dataset", photographs, "--output",
                   str(folder), "--save_images", "--published", str(published), "--curves",
                   "JPEG"])
    return next(folder.iterdir())


def test_files(output):
    assert {path.name for path in output.iterdir()} == {
        "tiny", "tiny.json", "curves.csv", "curves.png"}
    assert {path.name for path in (output / "tiny/wid=0-tiny").iterdir()} == {
        "coffee.png", "flower.jpg.png"}
    args = evaluate.parse(["--model", "a", "--dataset", "photos/validation", "--output", "b"])
    assert evaluate.output_folder(args) == pathlib.Path("b/photos-validation")


def test_numbers_are_those_of_the_files(output, photographs, tiny_model):
    result = json.loads((output / "tiny/wid=0-tiny.json").read_text())
    image = data.find(photographs)[0].read()
    row, _ = coding.measure(zoo.load(tiny_model), image)
    assert result["images"][0]["bytes"] == row["bytes"]
    assert result["images"][0]["psnr"] == pytest.approx(row["psnr"])
    assert result["mean"]["psnr"] == pytest.approx(
        sum(image["psnr"] for image in result["images"]) / 2)


def test_summary_has_compressais_schema(output):
    summary = json.loads((output / "tiny.json").read_text())
    assert summary.keys() == {"name", "description", "results"}
    assert summary["results"].keys() == {
        "bpp", "psnr-rgb", "ms-ssim-rgb", "encoding_time", "decoding_time"}
    assert all(len(values) == 1 for values in summary["results"].values())


def test_csv_has_luma(output):
    with open(output / "curves.csv") as file:
        row, = csv.DictReader(file)
    assert float(row["psnr_y"]) > 10 and row["run"] == "wid=0-tiny"


def test_skip_existing(output, photographs, tiny_run):
    path = output / "tiny/wid=0-tiny.json"
    result = json.loads(path.read_text())
    result["mean"]["psnr"] = 99.0
    path.write_text(json.dumps(result))
    arguments = ["--runs", str(tiny_run), "--dataset", photographs, "--output",
                 str(output.parent)]
    evaluate.main([*arguments, "--skip_existing"])
    assert json.loads((output / "tiny.json").read_text())["results"]["psnr-rgb"] == [99.0]
    evaluate.main(arguments)
    assert json.loads((output / "tiny.json").read_text())["results"]["psnr-rgb"] != [99.0]


def features(patches):
    """Cheap stand-ins for Inception's features."""
    return np.concatenate([np.mean(patches, axis=(1, 2)), np.std(patches, axis=(1, 2))], axis=1)


def test_judges_and_figure(photographs, tiny_run, tmp_path, capsys, monkeypatch, lpips_weights):
    monkeypatch.setattr(configs, "LPIPS_WEIGHTS", lpips_weights)
    monkeypatch.setattr(evaluate.Inception, "load", lambda: features)
    arguments = ["--runs", str(tiny_run), "--dataset", photographs, "--output", str(tmp_path),
                 "--lpips", "--fid", "--figure", "1"]
    evaluate.main(arguments)
    out, errors = capsys.readouterr()
    assert "nan" in out and "it needs 3 images or more" in errors and "has 2" in errors
    folder = next(tmp_path.iterdir())
    result = json.loads((folder / "tiny/wid=0-tiny.json").read_text())
    network, comparison = lpips.Lpips.load(lpips_weights), fid.Comparison(features)
    for row, source in zip(result["images"], data.find(photographs), strict=True):
        decoded = images.read(decoded_path(folder / "tiny/wid=0-tiny", source.name))
        assert row["lpips"] == pytest.approx(metrics.lpips(source.read(), decoded, network))
        comparison.add(source.read(), decoded)
    assert result["mean"]["lpips"] == pytest.approx(
        sum(row["lpips"] for row in result["images"]) / 2)
    # Of two images, KID is not known.
    assert result["mean"]["fid"] == pytest.approx(comparison.scores()["fid"], rel=1e-6)
    assert result["mean"]["fid"] > 0 and result["mean"]["patches"] == comparison.scores()["patches"]
    assert result["mean"]["kid"] is None
    with open(folder / "curves.csv") as file:
        row, = csv.DictReader(file)
    assert float(row["lpips"]) == result["mean"]["lpips"]
    assert float(row["fid"]) == result["mean"]["fid"]

    # A crop of the original and one of the decoded image lie side by side.
    figure = images.read(folder / "crops.png")
    assert figure.shape[1] > 1.5 * figure.shape[0]
    crop = images.read(decoded_path(folder / "tiny/wid=0-tiny", "coffee.png"))
    crop = crop[(crop.shape[0] - 256) // 2:, (crop.shape[1] - 256) // 2:][:256, :256]
    halves = np.array_split(figure[figure.shape[0] // 4:], 2, axis=1)
    errors = [abs(np.mean(half[half.min(axis=2) < 250]) - np.mean(crop)) for half in halves]
    assert errors[1] < errors[0]

    # What is there already serves, but not where scores are missing.
    path = folder / "tiny/wid=0-tiny.json"
    path.write_text(json.dumps({**result, "mean": {**result["mean"], "fid": 99.0}}))
    evaluate.main([*arguments, "--skip_existing"])
    assert json.loads(path.read_text())["mean"]["fid"] == 99.0
    del result["mean"]["lpips"]
    path.write_text(json.dumps(result))
    evaluate.main([*arguments, "--skip_existing"])
    assert "lpips" in json.loads(path.read_text())["mean"]

    # Numbers that are not finite are read back, and pictures of another model do not stay.
    result = json.loads(path.read_text())
    result["images"][0].update(psnr=None, lpips=None)
    path.write_text(json.dumps(result))
    evaluate.main([*arguments, "--skip_existing"])
    assert json.loads(path.read_text())["images"][0]["psnr"] is None
    evaluate.main(arguments[:-2])
    assert (folder / "tiny/wid=0-tiny").exists()  # they are of this model
    path.write_text(path.read_text().replace(result["fingerprint"], "another"))
    evaluate.main(arguments[:-2])
    assert not (folder / "tiny/wid=0-tiny").exists()


# --- Curves to plot beside ------------------------------------------------------------------------


def test_every_file_of_curves_that_is_written_is_read(output, tmp_path):
    point, = points(output)
    expected = {"bpp": float(point["bpp"]), "psnr": float(point["psnr"]),
                "ms_ssim": float(point["ms_ssim"])}
    benchmark = tmp_path / "benchmark"
    result_tables.save(benchmark, [{"image": "a.png", "bpp": 1.0, "psnr": 50.0},
                                   {"image": "mean", **expected}])
    for path, name in ((output / "tiny.json", "tiny"), (output / "curves.csv", "tiny"),
                       (output / "tiny/wid=0-tiny.json", "wid=0-tiny"),
                       (f"{benchmark}.json", "benchmark"), (f"{benchmark}.csv", "benchmark")):
        (found, curve), = evaluate.read_published(str(path)).items()
        assert found == name
        assert {key: curve[key] for key in expected} == {
            key: [pytest.approx(value)] for key, value in expected.items()}
    compared = rate_distortion.OUTPUT / "kodak"
    one, two = (evaluate.read_published(compared / name) for name in ("curves.json", "points.csv"))
    assert one.keys() == two.keys() and one["avif"]["psnr"] == two["avif"]["psnr"]
    assert len(one["avif"]["psnr"]) > 3


def test_a_curve_that_evaluate_wrote_is_plotted(output, tiny_run, picture, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(evaluate, "plot", lambda path, curves, published, title: drawn.append(
        (list(curves), list(published))))
    evaluate.main(["--model", str(tiny_run), "--dataset", str(picture), "-o", str(tmp_path),
                   "--published", str(output / "tiny.json")])
    assert drawn == [(["tiny"], ["tiny"])]


# --- What is missing ------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path, photo):
    """Two photographs, and one that ends too early."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a", "b", "c"):
        images.write(folder / f"{name}.png", photo[100:164, 200:296])
    (folder / "c.png").write_bytes((folder / "c.png").read_bytes()[:3000])
    return folder


def results_of(path):
    return json.loads(next(path.glob("*/tiny/wid=0-tiny.json")).read_text())


def test_an_image_that_cannot_be_read_costs_no_others(pictures, tiny_run, tmp_path, capsys):
    arguments = ["--model", str(tiny_run), "--dataset", str(pictures), "-o", str(tmp_path / "out")]
    for options in [], ["--skip_existing"], ["--keep_going"]:
        with pytest.raises(SystemExit) as failure:
            evaluate.main([*arguments, *options])
        assert failure.value.code == 2
        early, small, late = capsys.readouterr().err.strip().splitlines()
        assert early.startswith("left out: ") and "c.png" in early
        assert small == ("MS-SSIM will be nan: it needs sides of at least 161 pixels; too small: "
                         "2 of 2 images, a.png for one")
        assert late == "error: missing from the results: c.png"
        assert [row["image"] for row in results_of(tmp_path / "out")["images"]] == [
            "a.png", "b.png"]
        assert points(next((tmp_path / "out").iterdir()))
    # Once it is there, what was measured without it does not serve.
    images.write(pictures / "c.png", images.read(pictures / "a.png"))
    evaluate.main([*arguments, "--skip_existing"])
    assert len(results_of(tmp_path / "out")["images"]) == 3


def test_an_image_that_cannot_be_coded_costs_no_others(
        pictures, tiny_run, tmp_path, capsys, monkeypatch):
    (pictures / "c.png").unlink()
    images.write(pictures / "z.png", np.zeros([64, 64, 3], np.uint8))
    measure = coding.measure

    def failing(model, image, level=None):
        if not image.any():
            raise UserError("latents are not finite")
        return measure(model, image, level)

    monkeypatch.setattr(coding, "measure", failing)
    for last in "z.png", "B.png":  # at the end, and at the beginning
        with pytest.raises(SystemExit) as failure:
            evaluate.main(["--model", str(tiny_run), "--dataset", str(pictures), "--figure", "1",
                           "--output", str(tmp_path / last)])
        assert failure.value.code == 2
        _, line, error = capsys.readouterr().err.strip().splitlines()
        assert line == f"left out: {last}, wid=0-tiny: latents are not finite"
        assert error == f"error: missing from the results: {last}"
        result = results_of(tmp_path / last)
        assert result["missing"] == {last: "latents are not finite"}
        assert [row["image"] for row in result["images"]] == ["a.png", "b.png"]
        if last == "z.png":
            (pictures / "z.png").rename(pictures / "B.png")


def test_a_model_that_cannot_be_read_costs_no_others(picture, tiny_run, tmp_path, capsys):
    damaged = shutil.copytree(tiny_run, tmp_path / "mine/wid=1-damaged")
    (damaged / "model/weights.safetensors").write_bytes(b"none")
    with pytest.raises(SystemExit) as failure:
        evaluate.main(["--model", str(damaged), str(tiny_run), "--dataset", str(picture), "-o",
                       str(tmp_path / "out")])
    assert failure.value.code == 2
    _, line, error = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("left out: ")
    assert error == "error: missing from the results: wid=1-damaged"
    row, = points(next((tmp_path / "out").iterdir()))
    assert row["curve"] == "tiny"


def test_models_and_data_are_checked_before_work_begins(
        picture, tiny_run, tmp_path, capsys, monkeypatch):
    damaged = shutil.copytree(tiny_run, tmp_path / "mine/wid=1-damaged")
    config = damaged / "model/config.json"
    config.write_text(config.read_text().replace('"mshyper"', '"another"'))
    monkeypatch.setattr(zoo, "load", None)  # nothing is coded
    for arguments, message in (
            ([str(tiny_run), str(damaged), "--dataset", str(picture)], "model of 'another.models'"),
            ([str(tiny_run), "--dataset", str(config.parent)], "no images")):
        with pytest.raises(SystemExit) as failure:
            evaluate.main(["--model", *arguments, "-o", str(tmp_path / "out")])
        assert failure.value.code == 2
        error, = capsys.readouterr().err.strip().splitlines()
        assert message in error and not (tmp_path / "out").exists()


def test_options_that_had_other_names(capsys):
    for model, output in ("--model", "--output"), ("--runs", "-o"), ("--models", "--output_dir"):
        args = evaluate.parse([model, "a", "b", output, "c"])
        assert args.model == ["a", "b"] and args.output == "c"
    with pytest.raises(SystemExit):
        evaluate.parse(["--help"])
    out = capsys.readouterr().out
    assert "--model" in out and "--runs" not in out and "--output_dir" not in out


# --- Mistakes -----------------------------------------------------------------------------------


def test_images_of_one_name_are_not_mixed_up(tiny_run, tmp_path, capsys):
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        images.write(tmp_path / part / "same.png", np.zeros([40, 40, 3], np.uint8))
    with pytest.raises(SystemExit):
        evaluate.main(["--runs", str(tiny_run), "--dataset", str(tmp_path / "*/*.png"),
                       "--output", str(tmp_path / "results"), "--save_images"])
    assert "have the same name" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, message", [
    (["--runs", "nowhere"], "no model 'nowhere'"),
    (["--runs", "{run}", "--dataset", "nowhere"], "neither a data set"),
    (["--runs", "{run}", "--curves", "JPEG"], "--published"),
    (["--runs", "{run}", "--published", "nowhere.json", "--curves", "JPEG"], "nowhere.json"),
    (["--runs", "{run}", "--figure", "-1"], "--figure -1"),
    (["--runs", "{run}", "--points", "1"], "--points 1: a curve needs 2 or more"),
    (["--runs", "{run}", "--lpips"], "make lpips"),
    (["--runs", "{run}", "--fid"], "make inception"),
])
def test_mistakes(arguments, message, tiny_run, capsys, tmp_path, monkeypatch):
    for name in ("LPIPS_WEIGHTS", "INCEPTION_WEIGHTS"):
        monkeypatch.setattr(configs, name, tmp_path / "none.npz")
    with pytest.raises(SystemExit) as failure:
        evaluate.main([a.format(run=tiny_run) for a in arguments] + ["--output", str(tmp_path)])
    assert failure.value.code == 2
    error, = capsys.readouterr().err.strip().splitlines()
    assert message in error


def test_an_unfinished_run_is_an_error(tmp_path, capsys):
    (tmp_path / "wid=0-x" / "checkpoints").mkdir(parents=True)
    with pytest.raises(SystemExit) as failure:
        evaluate.main(["--runs", str(tmp_path), "--dataset", "photos/validation"])
    assert failure.value.code == 2
    assert "no exported model yet" in capsys.readouterr().err
