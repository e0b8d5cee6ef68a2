"""evaluate.py of models with levels: each is a curve."""

import json
import shutil

import numpy as np
import pytest

import configs
import evaluate
from common import coding, export, images, zoo
from common.errors import UserError
from common.evaluation_figures import columns
from tests.helpers.results import points


@pytest.fixture(scope="module")
def curve(levels_model, picture, tmp_path_factory):
    """What an evaluation wrote of a model with levels, at four of them."""
    folder = tmp_path_factory.mktemp("levels")
    evaluate.main(["--runs", str(levels_model), "--dataset", str(picture), "--output", str(folder),
                   "--points", "4", "--figure", "1"])
    return next(folder.iterdir())


def test_a_model_with_levels_is_a_curve(curve, levels_model, picture):
    assert {path.name for path in curve.iterdir()} == {
        "family-3", "family-3.json", "curves.csv", "curves.png", "crops.png"}
    model, image = zoo.load(levels_model), images.read(picture)
    rows = points(curve)
    assert [row["run"] for row in rows] == [f"3-level={level}" for level in (0, 7, 13, 20)]
    for row, level in zip(rows, (0, 7, 13, 20)):
        result = json.loads((curve / "family-3" / f"{row['run']}.json").read_text())
        assert result["level"] == int(row["level"]) == level
        assert result["quality"] == float(row["quality"]) == 5 * level
        assert result["rd_lambda"] == pytest.approx(0.0015 * 40**(level / 20), rel=1e-5)
        measured, decoded = coding.measure(model, image, level)
        assert result["mean"]["bytes"] == measured["bytes"]
        assert result["mean"]["psnr"] == measured["psnr"] == float(row["psnr"])
        np.testing.assert_array_equal(
            decoded, images.read(curve / "family-3" / row["run"] / "photo.png"))
    rates = json.loads((curve / "family-3.json").read_text())["results"]["bpp"]
    assert len(rates) == 4 and rates[0] < 0.5 * rates[-1]
    # Of its points, the figure shows one beside the original.
    height, width, _ = images.read(curve / "crops.png").shape
    assert 1.5 * height < width < 2.5 * height


def test_points_are_skipped_one_by_one(curve, levels_model, picture, tmp_path, monkeypatch):
    curve = shutil.copytree(curve, tmp_path / curve.name)
    measured, loaded = [], []

    def measure_all(model, sources, name, level):
        measured.append(level)
        return measure(model, sources, name, level)

    def load_model(*arguments):
        loaded.append(arguments)
        return load(*arguments)

    measure, load = coding.measure_all, zoo.load
    monkeypatch.setattr(coding, "measure_all", measure_all)
    monkeypatch.setattr(zoo, "load", load_model)
    arguments = ["--runs", str(levels_model), "--dataset", str(picture), "--output",
                 str(curve.parent), "--skip_existing", "--points"]
    evaluate.main([*arguments, "4"])
    assert not measured and not loaded
    # Of seven points, the lowest and the highest are the same, and two others.
    evaluate.main([*arguments, "7"])
    assert measured == [3, 10, 17] and len(loaded) == 1
    assert [row["level"] for row in points(curve)] == ["0", "3", "7", "10", "13", "17", "20"]
    path = curve / "family-3/3-level=10.json"
    path.write_text(path.read_text().replace(export.fingerprint(levels_model), "another"))
    evaluate.main([*arguments, "7"])
    assert measured == [3, 10, 17, 10]


def test_models_with_levels_are_no_points_of_their_familys_curve(
        levels_model, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(configs, "ZOO_DIR", tmp_path / "zoo")
    for source, name in ((tiny_model, "1"), (tiny_model, "2"), (levels_model, "3")):
        shutil.copytree(source, tmp_path / "zoo/family" / name)
    family = tmp_path / "zoo/family"
    assert evaluate.find_runs(["family-3", "family-1", "family-2"]) == {
        "family-3": [family / "3"], "family": [family / "1", family / "2"]}
    for source, name in ((tiny_model, "alone"), (levels_model, "dial")):
        path = shutil.copytree(source, tmp_path / "zoo" / name)
        assert evaluate.find_runs([name]) == {name: [path]}
    # In an experiment, each run is told apart.
    for wid in (0, 1):
        shutil.copytree(levels_model, tmp_path / f"mine/wid={wid}-x/model")
    assert evaluate.find_runs([str(tmp_path / "mine")]) == {
        f"mine-wid={wid}-x": [tmp_path / f"mine/wid={wid}-x/model"] for wid in (0, 1)}
    shutil.copytree(tiny_model, tmp_path / "family-3/1")
    with pytest.raises(UserError, match="would be curves of one name"):
        evaluate.find_runs(["family-3", str(tmp_path / "family-3/1")])


def test_a_figure_shows_a_model_with_levels_at_quality_50(tmp_path):
    curves = {
        "one": [{"run": "1"}], "two": [{"run": "1"}, {"run": "2"}],
        "family-3": [{"run": f"3-level={level}", "level": level, "quality": 5.0 * level}
                     for level in (0, 3, 7, 10, 13, 17, 20)]}
    assert [(title, folder) for title, _, folder in columns(curves, tmp_path)] == [
        ("one", tmp_path / "one/1"), ("two 1", tmp_path / "two/1"), ("two 2", tmp_path / "two/2"),
        ("family-3, quality 50", tmp_path / "family-3/3-level=10")]


def test_a_damaged_model_leaves_the_others(levels_model, tiny_run, picture, tmp_path, capsys):
    damaged = shutil.copytree(levels_model, tmp_path / "damaged/3")
    (damaged / "weights.safetensors").unlink()
    evaluate.main(["--runs", str(damaged), str(tiny_run), "--dataset", str(picture), "--output",
                   str(tmp_path / "results"), "--keep_going"])
    _, error = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("left out: ")
    row, = points(next((tmp_path / "results").iterdir()))
    assert (row["curve"], row["level"], row["quality"]) == ("tiny", "", "")
