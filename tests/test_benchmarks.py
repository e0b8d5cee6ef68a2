import argparse
import functools
import json
import math
import shutil

import numpy as np
import pytest
import tensorflow as tf

import configs
from benchmarks import (
    complexity,
    inference_speed,
    latents,
    optimizers,
    precision,
    scaling,
    sga_landscape,
    side_by_side,
    tiling,
    transforms,
    versus_jpeg,
)
from common import coding, export, images, metrics, zoo
from common.transforms import REGISTRY


@pytest.mark.parametrize("size", [3, 7, 20])
def test_tiled_mirrors_the_photograph(size):
    photograph = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    rows, columns = ([*range(side), *range(side)[::-1]] * 3 for side in (4, 6))
    expected = photograph[rows[:size]][:, columns[:size]]
    np.testing.assert_array_equal(scaling.tiled(photograph, size), expected)


def test_exponent_of_a_power_law():
    assert scaling.exponent({size: 3 * (size**2)**0.7 for size in (512, 1024, 4096)}
                            ) == pytest.approx(0.7)


def test_range_coder_returns_both_speeds():
    encode, decode = scaling.range_coder(count=10_000, rounds=1)
    assert encode["symbols a second"] > 0 and decode["symbols a second"] > 0
    # The mean entropy over all scales, from 0 bits to 10.
    assert 4 < encode["bits a symbol"] == decode["bits a symbol"] < 5


def test_optimizers_are_compared_at_the_lowest_loss_that_adam_reaches():
    curves = {
        "Adam, published (1e-04)": [(50, 9.0), (100, 8.0)],
        "Adam, best (1e-03)": [(50, 7.0), (100, 5.0), (150, 6.0)],
        "SOAP (2e-03)": [(10, 6.0), (20, 4.9), (30, 4.0)]}
    seconds = {"Adam": [0.9, 1.0, 5.0], "SOAP": [2.0]}
    published, best, soap = optimizers.compare(curves, seconds)
    assert {row["target"] for row in (published, best, soap)} == {5.0}
    assert [row["steps"] for row in (published, best, soap)] == [None, 100, 20]
    assert best["steps / SOAP"] == 5 and published["steps / SOAP"] == 5  # at least
    assert best["minutes"] == pytest.approx(100 / 60)  # of the median step
    assert best["minutes / SOAP"] == pytest.approx(2.5)
    # Where SOAP does not get as low, its lowest loss counts.
    curves["SOAP (2e-03)"] = [(20, 5.5)]
    _, best, soap = optimizers.compare(curves, seconds)
    assert best["target"] == 5.5 and best["steps"] == 100 and soap["steps"] == 20


def test_optimizers_train_the_same_model_on_the_same_data():
    args = argparse.Namespace(train="photos/train", validation="photos/validation")
    for model in optimizers.MODELS:
        adam = optimizers.config_of(model, "Adam", 1e-4, 3000, args)
        soap = optimizers.config_of(model, "SOAP", 2e-3, 600, args)
        assert adam.model == soap.model and adam.data == soap.data and adam.seed == soap.seed
        assert adam.train.schedule == soap.train.schedule
        assert adam.train.optimizer.global_clipnorm == soap.train.optimizer.global_clipnorm == 1


@pytest.fixture(scope="module")
def toy():
    source = sga_landscape.draw_sources(20)
    return source, *(sga_landscape.infer(method, source) for method in ("map", "sga"))


def test_sga_ends_at_lower_losses_than_rounding_does(toy):
    source, by_map, sga = toy
    least = sga_landscape.least(source)
    assert least[0] <= sga.losses[0] < by_map.losses[0]
    assert np.all(least <= np.minimum(sga.losses, by_map.losses))
    assert np.mean(sga.losses) < np.mean(by_map.losses)
    # Before rounding, it is the other way round.
    ends = (sga_landscape.objective(tf.constant(each.path[-1]), source[0]) for each in toy[1:])
    assert next(ends) < next(ends)


def test_loss_of_the_toy_is_that_of_its_definition():
    def gaussian(y):
        return 0.5 * (1 + math.erf(y / sga_landscape.SIGMA / math.sqrt(2)))

    def decode(y):
        return 3 * (y[0] + y[1] - 0.1 * (y[0] - y[1])**2), y[0] - y[1]

    y, source = (1.0, -2.0), (0.4, 0.3)
    bits = -sum(math.log2(gaussian(each + 0.5) - gaussian(each - 0.5)) for each in y)
    error = math.dist(decode(y), decode(source))
    loss = sga_landscape.objective(tf.constant(y), tf.constant(source))
    assert float(loss) == pytest.approx(bits + sga_landscape.LAMBDA * error**2, rel=1e-5)


def test_picture_of_sga_shows_its_panels(toy, tmp_path):
    source, by_map, sga = toy
    sga_landscape.plot(tmp_path / "sga.png", by_map, sga, source)
    picture = images.read(tmp_path / "sga.png")
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1000
    with pytest.raises(SystemExit, match="2"):
        sga_landscape.main(["--output", "sga.txt"])


@pytest.mark.slow
def test_all_loops_of_inference_are_in_the_table(monkeypatch):
    took = iter([*[9] * 6, *range(1, 7)])  # the warm-ups; then 1 second for each part of ours, ...
    monkeypatch.setattr(inference_speed, "turn", lambda loop, x, steps: dict.fromkeys(
        ("begin", "first", "step", "check"), next(took)))
    rows, turns = inference_speed.measure(height=16, width=16, channels=2, rounds=1, steps=1)
    assert [row["loop"] for row in rows] == [*turns] == [
        "ours", "bfloat16", "rdft", "variables", "eager", "baseline"]
    assert [row["3000 steps"] for row in rows] == [
        3301, 6602, 9903, 4 * 3301, 5 * 3016, 6 * 3016]
    assert [row["once"] for row in rows] == [16, 14, 12, 10, 8, 6]
    assert rows[-1]["ratio"] == pytest.approx(6 * 3016 / 3301)


@functools.cache
def _losses(name):
    differences = inference_speed.LOOPS[name]
    loop = inference_speed.Loop(inference_speed.build(2, differences), differences)
    took = inference_speed.turn(loop, tf.random.stateless_uniform([1, 32, 48, 3], [0, 0]), 1)
    assert min(took.values()) > 0
    return loop.loss, loop.measured["rd_loss"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*inference_speed.LOOPS][1:])
def test_all_loops_of_inference_minimise_the_same(name):
    assert _losses(name) == pytest.approx(
        _losses("ours"), rel=1e-2 if name == "bfloat16" else 1e-4)


def test_every_transform_of_a_config_is_measured(monkeypatch):
    cases = transforms.cases()
    assert {*REGISTRY} - {*cases} == {  # no config has these
        "CNNSynthesis", "Cheng2020Analysis", "Cheng2020HyperAnalysis", "Cheng2020HyperSynthesis",
        "Cheng2020Synthesis", "ElicSynthesis"}
    assert cases["HyperSynthesis"][1] == 64 and cases["MBT2018Analysis"][1:] == (1, 3)
    took = iter([*[9.0] * 2, 1.0, 2.0, 3.0, 6.0, *[9.0] * 2, 4.0, 2.0, 4.0, 2.0])
    monkeypatch.setattr(side_by_side, "seconds", lambda run: (run(), next(took))[1])
    row = transforms.seconds(
        dict(cls="HyperAnalysis", channels=(2, 2, 2)), 16, 3, argparse.Namespace(batch=1, rounds=2))
    assert row == {"training float32": 2.0, "training bfloat16": 4.0, "training ratio": 2.0,
                   "inference float32": 4.0, "inference bfloat16": 2.0, "inference ratio": 0.5}


def test_what_a_precision_costs_is_nothing_for_the_same_model(photo):
    image = photo[:64, :96]
    model = zoo.load(zoo.DEFAULT)
    row = precision.compare({"float32": model, "bfloat16": model}, 0.0095, image)
    assert row["bytes"] == len(coding.compress(model, image)) and row["psnr"] > 20
    assert {*row.values()} == {row["bytes"], row["psnr"], 0}
    other = zoo.load(zoo.DEFAULT, "bfloat16")
    row = precision.compare({"float32": model, "bfloat16": other}, 0.0095, photo[:256, :384])
    assert 0 < row["samples differ"] < 0.3 and abs(row["decoding: dB lost"]) < 0.02
    assert row["by more than 1"] < 0.003 and 0 < abs(row["rate at equal MSE"]) < 0.02


# --- Models with levels, which code at quality 50 -------------------------------------------------


@pytest.fixture
def small_picture(photo, tmp_path):
    """Path of it."""
    path = tmp_path / "photo.png"
    images.write(path, photo[100:196, 200:296])
    return path


def test_bits_of_channels_are_those_of_the_file(photo):
    model, image = zoo.load(zoo.DEFAULT), photo[:128, :192]
    row, bits = latents.look(model, image, level=63)
    ntc = coding.compress(model, image, level=63)
    assert bits.shape == (model.analysis.out_channels,)
    assert bits.sum() < row["bpp"] * 128 * 192 == pytest.approx(8 * len(ntc), rel=0.02, abs=160)
    decoded = coding.decompress(model, ntc)
    assert row["psnr"] == pytest.approx(metrics.psnr(image, decoded), abs=0.02)
    assert row["unrounded"] > row["psnr"] + 0.1


def test_what_is_quoted_is_not_overwritten_unasked(tmp_path, monkeypatch):
    assert (side_by_side.KEPT / "coding.json").exists()
    ignored = (side_by_side.ROOT / ".gitignore").read_text().split()
    for path in (side_by_side.RESULTS, versus_jpeg.RESULTS, tiling.OUTPUT, transforms.OUTPUT):
        assert f"/{path.relative_to(side_by_side.ROOT).parts[0]}/" in ignored
    written = []
    monkeypatch.setattr(complexity, "RESULTS", tmp_path)
    monkeypatch.setattr(complexity, "configurations",
                        lambda: {"a/configs/b.py": complexity.Config("A", "B", {})})
    monkeypatch.setattr(complexity, "measure", lambda *_: written.append(1))
    monkeypatch.setattr(complexity, "render", lambda _: "")
    monkeypatch.setattr("sys.argv", ["complexity"])
    before = complexity.OUTPUT.read_bytes()
    complexity.main()
    assert written and (tmp_path / "complexity.json").exists()
    assert complexity.OUTPUT.read_bytes() == before


def test_a_released_model_with_levels_is_compared_with_jpeg(
        levels_model, small_picture, tmp_path, monkeypatch):
    monkeypatch.setattr(configs, "ZOO_DIR", tmp_path / "zoo")
    monkeypatch.setattr(versus_jpeg, "RESULTS", tmp_path)
    # No JPEG is as bad as this model.
    monkeypatch.setattr(versus_jpeg, "jpeg_bytes_at", lambda image, psnrs: [1.0 for _ in psnrs])
    shutil.copytree(levels_model, tmp_path / "zoo/family/3")
    monkeypatch.setattr("sys.argv", ["versus_jpeg", "--dataset", str(small_picture)])
    versus_jpeg.main()
    results = json.loads((tmp_path / "versus_jpeg.json").read_text())
    assert results["levels"] == {"family-3": 10}
    assert results["fingerprints"] == {"family-3": export.fingerprint(levels_model)}
    model, image = zoo.load(levels_model), images.read(small_picture)
    assert results["rows"]["family-3"][0]["bytes"] == len(coding.compress(model, image, level=10))
    monkeypatch.setattr("sys.argv", ["versus_jpeg", "--dataset", str(small_picture),
                                     "--quality", "0", "100"])
    versus_jpeg.main()
    rows = json.loads((tmp_path / "versus_jpeg.json").read_text())["rows"]
    monkeypatch.setattr(versus_jpeg, "jpeg_bytes_at", lambda image, psnrs: [math.inf] * len(psnrs))
    versus_jpeg.main()  # nor does any reach it
    assert not json.loads((tmp_path / "versus_jpeg.json").read_text())["means"]
    for quality in (0, 100):
        level = model.levels.at_quality(quality)
        assert rows[f"family-3, quality {quality}"][0]["bytes"] == len(
            coding.compress(model, image, level=level))


def test_lambda_of_a_model_with_levels_is_that_of_the_level(
        levels_model, small_picture, monkeypatch):
    lambdas = []

    def compare(models, rd_lambda, image):
        lambdas.append(rd_lambda)
        return {"by at most": 0}

    monkeypatch.setattr(precision, "compare", compare)
    monkeypatch.setattr("sys.argv", ["precision", "--models", str(levels_model), "--dataset",
                                     str(small_picture)])
    precision.main()
    assert lambdas == [pytest.approx(math.sqrt(0.0015 * 0.06))]
