import argparse
import csv
import dataclasses
import json
import math
import pathlib
import statistics
import xml.etree.ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

import configs
import evaluate
from benchmarks import classical, rate_distortion
from common import coding, data, export, images, itinf, lpips, metrics
from common.errors import UserError
from mshyper.models import MeanScaleHyperprior

PUBLISHED = json.loads(rate_distortion.PUBLISHED.read_text())


def curve(bpp, psnr, kind="codec", **scores):
    points = [dict(zip(("run", "bpp", "psnr"), point)) for point in zip("abcdefg", bpp, psnr)]
    return {"kind": kind, "points": [{**point, **scores} for point in points]}


# --- Codecs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", classical.CODECS)
def test_codecs(name, photo):
    codec, image = classical.find(name), photo[:192, 100:320]
    files = [codec.encode(image, quality) for quality in codec.qualities]
    decoded = [codec.decode(file) for file in files]
    assert all(each.shape == image.shape and each.dtype == np.uint8 for each in decoded)
    psnrs = [metrics.psnr(image, each) for each in decoded]
    assert psnrs == sorted(psnrs) and psnrs[-1] > psnrs[0] + 10
    bpps = [8 * len(file) / image[..., 0].size for file in files]
    assert bpps == sorted(bpps) and bpps[0] < 0.4 and bpps[-1] > 1.2
    json.dumps(codec.settings)


@pytest.mark.parametrize("name, height, width", [("avif", 1, 65), ("jxl", 67, 131), ("webp", 1, 1)])
def test_codecs_of_odd_sizes(name, height, width):
    codec = classical.find(name)
    image = np.full([height, width, 3], 100, np.uint8)
    assert codec.decode(codec.encode(image, 50)).shape == image.shape


@pytest.mark.parametrize("name", ["jpeg", "avif"])
def test_largest_file_that_fits(name, photo):
    codec, image = classical.find(name), photo[:128, :160]
    quality, file = codec.largest(image, 2000)
    assert len(file) <= 2000 < len(codec.encode(image, quality + 1))
    assert file == codec.encode(image, quality)
    assert codec.largest(image, 10)[0] == codec.lowest
    assert codec.largest(image, 10**6)[0] == codec.highest


# --- Measurement ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(photo, tmp_path_factory):
    """Glob of two small pictures of different sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    images.write(folder / "a.png", photo[:176, :208])
    images.write(folder / "b.png", photo[200:361, 300:497])
    return str(folder / "*.png")


@pytest.fixture(autouse=True)
def no_lpips(monkeypatch, tmp_path):
    monkeypatch.setattr(configs, "LPIPS_WEIGHTS", tmp_path / "missing.npz")


def folder_for(dataset, output):
    """Where results for a data set are."""
    return evaluate.output_folder(argparse.Namespace(dataset=dataset, output=output))


def run(dataset, output, *arguments, models=()):
    rate_distortion.main(["--dataset", dataset, "--output", str(output.parent), "--models", *models,
                          *arguments])
    return json.loads((output / "curves.json").read_text())


@pytest.fixture(scope="module")
def output(dataset, tmp_path_factory):
    folder = folder_for(dataset, tmp_path_factory.mktemp("rate_distortion"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(configs, "LPIPS_WEIGHTS", folder / "missing.npz")
        run(dataset, folder, "--codecs", "jpeg,webp")
    return folder


def test_files(output):
    assert {path.name for path in output.iterdir()} == {
        "jpeg", "webp", "points.csv", "curves.json", "curves.png", "curves.svg"}
    assert {path.stem for path in (output / "webp").iterdir()} == {
        f"quality={quality}" for quality in classical.find("webp").qualities}
    assert images.read(output / "curves.png").shape[1] > 1500
    text = (output / "curves.svg").read_text()
    assert xml.etree.ElementTree.fromstring(text).tag.endswith("svg") and "MS-SSIM" in text


def test_numbers_are_those_of_the_files(output, dataset):
    result = json.loads((output / "jpeg/quality=35.json").read_text())
    for row, source in zip(result["images"], data.find(dataset)):
        image, codec = source.read(), classical.find("jpeg")
        file = codec.encode(image, 35)
        assert row["image"] == source.name and row["bytes"] == len(file)
        assert row["bpp"] == 8 * len(file) / (image.shape[0] * image.shape[1])
        assert row["psnr"] == metrics.psnr(image, codec.decode(file))
        assert row["ms_ssim"] == pytest.approx(metrics.ms_ssim(image, codec.decode(file)))
    assert result["library"].startswith("Pillow") and result["settings"]["subsampling"] == "4:2:0"
    curves = json.loads((output / "curves.json").read_text())["curves"]
    point, = (point for point in curves["jpeg"]["points"] if point["run"] == "quality=35")
    for score in ("bpp", "psnr", "ms_ssim"):  # not the PSNR of the mean error
        assert point[score] == pytest.approx(
            statistics.fmean(row[score] for row in result["images"]))
    with open(output / "points.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14 and rows[3]["curve"] == "jpeg"
    assert float(rows[3]["psnr"]) == point["psnr"]


def test_comparison_is_of_the_curves(output, capsys, dataset):
    result = run(dataset, output, "--codecs", "jpeg,webp", "--range", "28", "33")
    row, = result["comparison"]
    assert row["curve"] == "webp" and row["psnrs"] == [28, 33] == result["range"]
    assert -60 < row["bd_rate"] < -10 and 0.5 < row["bd_psnr"] < 4
    assert 0 < row["decoding_time"] < row["encoding_time"] < 5
    printed = capsys.readouterr().out
    assert f"{row['encoding_time']:.3f}" in printed
    assert f"{row['bd_rate']:+.1f}" in printed and "from 28 to 33 dB" in printed


def test_goes_on_where_it_was_stopped(output, dataset, monkeypatch):
    encoded = []

    def counting(image, quality):
        encoded.append(quality)
        return webp.encode(image, quality)

    webp = classical.find("webp")
    monkeypatch.setitem(classical.CODECS, "webp", dataclasses.replace(webp, encode=counting))
    before = run(dataset, output, "--codecs", "jpeg,webp")
    assert not encoded
    (output / "webp/quality=10.json").unlink()
    (output / "webp/quality=30.json").write_text('{"mean": {"bpp"')
    after = run(dataset, output, "--codecs", "jpeg,webp")
    for result in (before, after):
        for found in result["curves"].values():
            for point in found["points"]:
                assert point.pop("encoding_time") > 0 < point.pop("decoding_time")
    assert after["curves"] == before["curves"]
    assert encoded == [10, 10, 30, 30]
    # What another version or other settings made does not serve.
    monkeypatch.setitem(classical.CODECS, "webp", dataclasses.replace(
        webp, encode=counting, library="Pillow 1", qualities=(10, 30)))
    run(dataset, output, "--codecs", "webp,jpeg")
    assert len(encoded) == 8


def test_lpips_where_its_weights_are(dataset, tmp_path, monkeypatch, lpips_weights):
    monkeypatch.setattr(configs, "LPIPS_WEIGHTS", lpips_weights)
    monkeypatch.setitem(classical.CODECS, "jpeg", dataclasses.replace(
        classical.find("jpeg"), qualities=(10, 60)))
    folder = folder_for(dataset, tmp_path)
    points = run(dataset, folder, "--codecs", "jpeg")["curves"]["jpeg"]["points"]
    network, codec = lpips.Lpips.load(lpips_weights), classical.find("jpeg")
    expected = statistics.fmean(
        metrics.lpips(image, codec.decode(codec.encode(image, 10)), network)
        for image in (source.read() for source in data.find(dataset)))
    assert points[0]["lpips"] == pytest.approx(expected)


def test_models_of_one_family_are_one_curve(dataset, one_rate_models, output):
    result = run(dataset, output, "--codecs", "jpeg",
                 models=[str(path) for path in reversed(one_rate_models)])
    curve = result["curves"]["family"]
    assert [point["run"] for point in curve["points"]] == ["1", "2"]
    assert curve["points"][0]["bpp"] < curve["points"][1]["bpp"] and len(curve["fingerprints"]) == 2
    row, = result["comparison"]
    assert row["points"] == 2


@pytest.mark.usefixtures("without_graphs")
def test_refined_files_of_an_experiment_are_one_curve(
        dataset, tmp_path, levels_model, output, capsys):
    experiment = tmp_path / "sga"
    for quality in 80, 30:
        config = itinf.get_config("map", str(levels_model))
        config.update_from_flattened_dict(
            {"data": dataset, "quality": float(quality), "itinf.num_steps": 1})
        itinf.run(MeanScaleHyperprior, config, experiment / f"quality={quality}")
    result = run(dataset, output, "--refined", str(experiment), "--codecs", "jpeg")
    points = result["curves"]["sga"]["points"]
    assert [point["run"] for point in points] == ["quality=30", "quality=80"]
    for point in points:
        *files, _ = json.loads((experiment / point["run"] / "results.json").read_text())["rows"]
        for score in "bpp", "psnr", "ms_ssim":
            assert point[score] == pytest.approx(
                statistics.fmean(row[f"refined.{score}"] for row in files))
        for source, row in zip(data.find(dataset), files):
            height, width = source.read().shape[:2]
            path = experiment / point["run"] / source.path.stem / "image.ntc"
            assert row["refined.bpp"] == 8 * path.stat().st_size / (height * width)
    for folder, words in (experiment, "not of photos/validation"), (tmp_path, "no run in it"):
        with pytest.raises(UserError, match=words):
            rate_distortion.refined_curve(folder, "photos/validation")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run(dataset, output, "--refined", str(experiment), str(experiment), "--codecs", "jpeg")
    assert "two curves have the same name: jpeg, sga, sga" in capsys.readouterr().err
    path = experiment / "quality=30/results.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"rate_weight": 1.3}))  # as of models trained for a rate
    assert len(rate_distortion.refined_curve(experiment, dataset)["points"]) == 2
    for change, words in (({"method": "sga"}, "different methods"), ({"rows": {}}, "damaged"),
                          ({"lpips_weight": 1.0}, "different methods or losses")):
        path.write_text(json.dumps(content | change))
        with pytest.raises(UserError, match=words):
            rate_distortion.refined_curve(experiment, dataset)


def test_levels_of_a_model_are_one_curve(dataset, tmp_path, levels_model):
    folder = folder_for(dataset, tmp_path)
    result = run(dataset, folder, "--codecs=", "--anchor", "family-3", models=[str(levels_model)])
    curve, levels = result["curves"]["family-3"], (0, 3, 7, 10, 13, 17, 20)
    assert curve["kind"] == "model" and result["comparison"] == []
    assert curve["fingerprints"] == [export.fingerprint(levels_model)]
    assert {point["run"] for point in curve["points"]} == {f"3-level={level}" for level in levels}
    measured = [json.loads((folder / f"family-3/3-level={level}.json").read_text())["mean"]["bpp"]
                for level in levels]
    assert [point["bpp"] for point in curve["points"]] == sorted(measured)
    with open(folder / "points.csv") as file:
        assert [row["curve"] for row in csv.DictReader(file)] == ["family-3"] * 7


# --- Comparison and plot ----------------------------------------------------------------------


ANCHOR = curve([0.1, 0.2, 0.4, 0.8], [27, 30, 33, 36])


def test_best_curves_come_first_and_notes_say_what_is_special():
    rows = rate_distortion.compare({
        "single": curve([0.1], [30], "model"), "anchor": ANCHOR,
        "worse": curve([0.2, 0.4, 0.8, 1.6], [27, 30, 33, 36]),
        "far": curve([0.1, 0.2], [50, 53]),
        "bent": curve([0.05, 0.1, 0.2, 0.3, 0.4], [27, 30, 33, 32.9, 36]),
        "two": curve([0.1, 0.2], [30, 33])}, "anchor", (27.5, 35))
    notes = {row["curve"]: row["note"] for row in rows}
    assert [*notes][:3] == ["two", "bent", "worse"]
    assert [row["bd_rate"] for row in rows[:3]] == pytest.approx([-50, -50, 100], abs=0.1)
    assert notes["worse"] == "" and "no curve" in notes["single"]
    assert "in common in that range" in notes["far"] and notes["bent"].startswith("4 points used")
    assert "two points" in notes["two"] and "less than was asked for" in notes["two"]
    assert rows[0]["psnrs"] == (30, 33) and rows[1]["psnrs"] == (27.5, 35)
    cells = rate_distortion.cells(rows[-1])
    assert cells["BD-rate, %"] == cells["over dB"] == ""
    assert rate_distortion.cells(rows[0])["BD-rate, %"] == "-50.0"
    assert rate_distortion.cells(rows[0])["encode, s"] == ""  # not measured


def test_an_anchor_needs_two_points():
    for single in (curve([0.1], [30]), curve([0.1, 0.2], [math.inf, math.inf])):
        with pytest.raises(UserError, match="two"):
            rate_distortion.compare({"a": single, "b": ANCHOR}, "a", None)


def test_panels_show_what_there_is():
    curves = {"_ours": curve([0.1, 0.4], [28, 33], "model", ms_ssim=0.9), "codec": ANCHOR,
              "paper": curve([0.1, 0.8, 4], [27, 36, 48], "published")}
    axes = Figure().subplots(1, 2)
    rate_distortion.draw(axes[0], curves, "psnr")
    rate_distortion.draw(axes[1], curves, "ms_ssim")
    assert [text.get_text() for text in axes[0].get_legend().texts] == [*curves]
    # Measured rates set the limits, and 0.9 is 10 dB.
    assert 0.8 < axes[0].get_xlim()[1] < 0.9 and axes[0].get_ylim()[1] < 37
    line, = axes[1].lines
    assert line.get_color() == axes[0].lines[0].get_color()
    np.testing.assert_allclose(line.get_ydata(), 10)


def test_perfect_points_are_not_drawn_and_names_are_no_formulas(tmp_path):
    perfect = curve([0.1, 0.2, 0.4], [27, 30, math.inf], "model", ms_ssim=1.0)
    perfect["points"][0]["ms_ssim"] = 0.99
    rate_distortion.plot(tmp_path / "plot", {"$^$": perfect}, "$^$")
    rate_distortion.plot(tmp_path / "plot", {"_\udcff": perfect}, "\udcff")  # what is no text
    axes = Figure().subplots(1, 2)
    for each, score in zip(axes, rate_distortion.PANELS):
        rate_distortion.draw(each, {"a": perfect}, score)
    assert [len(each.lines[0].get_xdata()) for each in axes] == [2, 1]


def test_curves_are_of_all_images(dataset, levels_model, tmp_path, capsys, monkeypatch):
    def failing(model, image, level=None):
        if image.shape[0] == 161:
            raise UserError("latents are not finite")
        return measured

    measured = ({"bytes": 1, "bpp": 1.0, **dict.fromkeys(metrics.METRICS, 1.0)}, None)
    folder = folder_for(dataset, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(coding, "measure", failing)
        patch.setattr(metrics.Judges, "of_pair", lambda self, image, decoded: {})
        with pytest.raises(SystemExit):
            run(dataset, folder, "--codecs", "jpeg", models=[str(levels_model)])
    *_, error = capsys.readouterr().err.splitlines()
    assert "cannot code b.png (latents are not finite); curves need the same images" in error
    # An image that cannot be read is noticed before anything is measured.
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.png").write_bytes(pathlib.Path(data.find(dataset)[0].path).read_bytes())
    (pictures / "z.png").write_bytes(b"none")
    with pytest.raises(SystemExit):
        run(str(pictures), folder_for(str(pictures), tmp_path), "--codecs", "jpeg")
    assert "z.png is not an image file" in capsys.readouterr().err
    assert not (folder_for(str(pictures), tmp_path) / "jpeg").exists()


def test_results_of_other_files_of_the_same_names_do_not_serve(photo, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    folder, rates = folder_for(str(pictures), tmp_path), []
    for content in (photo[:64, :64], photo[:64, :64], photo[:96, :64]):
        images.write(pictures / "a.png", content)
        result = run(str(pictures), folder, "--codecs", "jpeg")
        rates.append([point["bpp"] for point in result["curves"]["jpeg"]["points"]])
    assert rates[0] == rates[1] != rates[2]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_curves_have_sources_and_rise(name):
    found = PUBLISHED[name]
    assert found["source"] and found["note"]
    assert np.all(np.diff(found["bpp"]) > 0) and np.all(np.diff(found["psnr"]) > 0)
    points = rate_distortion.published_curves([name])[name]["points"]
    assert points[0]["psnr"] == found["psnr"][0] and len(points) == len(found["bpp"])
    assert math.isclose(points[-1].get("ms_ssim", 1), found.get("ms_ssim", [1])[-1])


@pytest.mark.parametrize("arguments, message", [
    (["--codecs", "jpeg,gif"], "no codec 'gif'; there are: jpeg, jpeg2000"),
    (["--codecs", "webp"], "--anchor jpeg: not one of the curves: webp"),
    (["--published", "vtm"], "published curves are of kodak"),
    (["--range", "33", "28"], "need the lower PSNR first"),
    (["--models", "mshyper-none-1"], "no model 'mshyper-none-1'"),
    (["--dataset", "nowhere.png"], "nowhere.png"),
])
def test_mistakes_are_one_line(arguments, message, dataset, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        rate_distortion.main(["--models", "--dataset", dataset, "--output", str(tmp_path / "out"),
                              *arguments])
    error, = capsys.readouterr().err.splitlines()
    assert message in error and not (tmp_path / "out/curves.json").exists()
