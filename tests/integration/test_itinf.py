"""Iterative inference as commands: folders, resuming, files that any decoder reads, errors."""

import csv
import importlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import codec
import configs
import mshyper.itinf
import mshyper.train
from common import (
    coding,
    config_files,
    export,
    images,
    itinf,
    locks,
    methods,
    metrics,
    refinement,
    runs,
    sweeps,
    zoo,
)
from common.errors import UserError
from mshyper.configs import itinf as itinf_config
from mshyper.configs import small
from mshyper.models import MeanScaleHyperprior
from tests.helpers import graphs
from tests.helpers.commands import refuses


@pytest.fixture(scope="module", autouse=True)
def graphs_of_programs():
    """What a program does is compared bit by bit."""
    with graphs.of_programs():
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, photo):
    """Two images of one size, and one of another."""
    folder = tmp_path_factory.mktemp("pictures")
    images.write(folder / "a.png", photo[100:164, 200:296])
    images.write(folder / "b.v2.png", photo[200:264, 200:296])
    images.write(folder / "c.png", photo[100:167, 300:365])
    return folder


def tiny_config(model, pictures):
    config = itinf_config.get_config("sga").lock()
    config.model = str(model)
    config.data = str(pictures)
    config.batch_size = 2
    config.itinf.num_steps = 20
    return config


@pytest.fixture(scope="module")
def finished(tiny_run, pictures, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("experiments") / "itinf" / "wid=0-sga"
    itinf.run(MeanScaleHyperprior, tiny_config(tiny_run.parent, pictures), workdir)
    return workdir


def test_a_run_leaves_what_it_should(finished, tiny_model):
    assert {path.name for path in finished.iterdir()} == {
        "config.json", "run_info.json", "results.json", "results.csv", "a", "b.v2", "c"}
    config = json.loads((finished / "config.json").read_text())
    assert (config["package"], config["module"]) == ("mshyper", "models")
    assert (config["rd_lambda"], config["distortion"]) == (0.01, "mse"), "those of the training"
    results = json.loads((finished / "results.json").read_text())
    assert results["fingerprint"] == export.fingerprint(tiny_model) == config["fingerprint"]
    assert results["method"] == config["itinf"] and results["method"]["name"] == "sga"
    *rows, mean = results["rows"]
    assert [row["image"] for row in rows] == ["a.png", "b.v2.png", "c.png"]
    assert mean["refined.bpp"] == pytest.approx(np.mean([row["refined.bpp"] for row in rows]))
    assert len((finished / "results.csv").read_text().splitlines()) == 5
    for row in rows:
        folder = finished / row["image"].removesuffix(".png")
        assert {path.name for path in folder.iterdir()} == {
            "trace.csv", "latents.npz", "image.ntc", "reconstruction.png", "result.json"}
        assert json.loads((folder / "result.json").read_text()) == row
        with open(folder / "trace.csv") as file:
            trace = list(csv.DictReader(file))
        assert [int(line["step"]) for line in trace] == [0, 10, 20] and row["steps"] == 20
        best = min(float(line["rd_loss"]) for line in trace)
        estimated = row["refined.estimated_bpp"] + 0.01 * row["refined.mse"]
        assert estimated == pytest.approx(best, rel=1e-3)


def test_refined_files_are_better_and_any_decoder_reads_them(
        finished, pictures, tiny_model, tmp_path):
    model = zoo.load(tiny_model)
    for row in json.loads((finished / "results.json").read_text())["rows"][:-1]:
        folder = finished / row["image"].removesuffix(".png")
        ntc = (folder / "image.ntc").read_bytes()
        codec.main(["decompress", "--precision", "float32", "--model", str(tiny_model),
                    str(folder / "image.ntc"), str(tmp_path / row["image"])])
        decoded = images.read(tmp_path / row["image"])
        np.testing.assert_array_equal(decoded, images.read(folder / "reconstruction.png"))
        original = images.read(pictures / row["image"])
        files = {"base": coding.compress(model, original), "refined": ntc}
        losses = {}
        for name, file in files.items():
            assert row[f"{name}.bytes"] == len(file)
            bpp = 8 * len(file) / np.prod(original.shape[:2])
            mse = metrics.mse(original, coding.decompress(model, file))
            losses[name] = row[f"{name}.rd_loss"]
            assert losses[name] == pytest.approx(bpp + 0.01 * mse)
        assert losses["refined"] < losses["base"]
        latents = coding.decode(model, ntc).latents
        with np.load(folder / "latents.npz") as saved:
            assert saved.keys() == latents.keys() == {"y", "z"}
            for name, value in latents.items():
                np.testing.assert_array_equal(saved[name], value)


def contents(folder):
    """All files below but those of whole runs; times left out."""
    found = {}
    for path in folder.glob("*/*"):
        content = path.read_bytes()
        if path.name == "result.json":
            content = json.loads(content)
            del content["seconds"]
        found[str(path.relative_to(folder))] = content
    return found


def test_what_is_missing_is_made_again_as_it_was(finished, tiny_run, pictures, tmp_path):
    workdir = tmp_path / "wid=0-again"
    shutil.copytree(finished, workdir)
    shutil.rmtree(workdir / "b.v2")
    (workdir / "results.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in workdir.glob("[ac]/*")}
    itinf.run(MeanScaleHyperprior, tiny_config(tiny_run.parent, pictures), workdir)
    assert {path: path.stat().st_mtime_ns for path in workdir.glob("[ac]/*")} == before
    assert contents(workdir) == contents(finished), "the seed decides"
    assert (workdir / "results.json").exists()


def test_a_finished_run_is_not_done_again(finished, tiny_run, pictures, monkeypatch):
    monkeypatch.setattr(refinement.Refiner, "__call__", None)
    results = (finished / "results.json").read_text()
    itinf.run(MeanScaleHyperprior, tiny_config(tiny_run.parent, pictures), finished)
    assert (finished / "results.json").read_text() == results


def test_model_and_data_may_be_moved(finished, tiny_model, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(refinement.Refiner, "__call__", None)
    workdir, photos = (shutil.copytree(path, tmp_path / path.name)
                       for path in (finished, pictures))
    itinf.run(MeanScaleHyperprior, tiny_config(tiny_model, photos), workdir)
    change, = runs.fact(workdir, "changes")
    assert set(change["config"]) == {"data", "model"}
    assert contents(workdir) == contents(finished)


def test_a_second_process_in_a_folder_is_refused(tiny_model, pictures, tmp_path):
    with locks.held(tmp_path / "run"), pytest.raises(UserError, match="in use by process"):
        itinf.run(MeanScaleHyperprior, tiny_config(tiny_model, pictures), tmp_path / "run")


def test_a_config_to_train_with_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no section itinf.*python -m mshyper\.train"):
        mshyper.itinf.run(small.get_config(), tmp_path)
    with pytest.raises(UserError, match=r"no section train.*python -m mshyper\.itinf"):
        mshyper.train.run(itinf.get_config("sga", None), tmp_path)
    with pytest.raises(UserError, match=r"no section train.*python -m mshyper\.itinf"):
        mshyper.train.run.check(itinf.get_config("sga", None), tmp_path)


@pytest.mark.parametrize("key, value, message", [
    ("seed", 1, "itinf.seed, seed differ"),
    ("rd_lambda", 0.5, "rd_lambda differ"),
    ("data", "photos/validation", "data differ"),
])
def test_another_config_does_not_touch_the_run(finished, tiny_run, pictures, key, value, message):
    config = tiny_config(tiny_run.parent, pictures)
    config[key] = value
    with pytest.raises(UserError, match=message):
        itinf.run(MeanScaleHyperprior, config, finished)


@pytest.mark.parametrize("key, value, message", [
    ("model", "no-such-model-1", "no model 'no-such-model-1'"),
    ("model", None, "model should name"),
    ("model", "joint_ar", "of joint_ar.models; this command is for those of mshyper"),
    ("data", "nowhere/*.png", "neither a data set"),
    ("batch_size", 0, "at least 1"),
    ("rd_lambda", -1.0, "need a positive number"),
    ("distortion", "ssim", "unknown distortion"),
    ("distortion", "ms_ssim", r"at least 161 pixels; a\.png has 64"),
    ("itinf.num_steps", 0, "at least 1"),
    ("itinf.quantizer", "Gumbel", "unknown quantizer of refinement 'Gumbel'"),
])
def test_mistakes_in_the_config(tiny_model, pictures, tmp_path, key, value, message):
    config = tiny_config(tiny_model, pictures)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message):
        itinf.run(MeanScaleHyperprior, config, tmp_path / "wid=0-run")
    assert not (tmp_path / "wid=0-run").exists()


def test_an_experiment_without_such_a_run(tiny_run, pictures, tmp_path):
    with pytest.raises(UserError, match="model: the experiment .* one run wid=1-.*found: none"):
        itinf.run(MeanScaleHyperprior, tiny_config(tiny_run.parent, pictures),
                  tmp_path / "wid=1-sga")


@pytest.mark.parametrize("files, message", [
    ({"x.png": "a.png", "x.jpg": "a.png"}, r"x\.jpg and .*x\.png would share the folder x"),
    ({"x.png": "a.png", "y.png": None}, r"y\.png is not an image"),
])
def test_data_that_cannot_be_refined(tiny_model, pictures, tmp_path, files, message):
    (tmp_path / "in").mkdir()
    for name, source in files.items():
        content = (pictures / source).read_bytes() if source else b""
        (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        itinf.run(MeanScaleHyperprior, tiny_config(tiny_model, tmp_path / "in"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("without_graphs")
def test_images_of_one_file_have_a_folder_each(tiny_model, photo, tmp_path):
    np.save(tmp_path / "test.npy", photo[:64, :32].reshape(2, 32, 32, 3))
    config = tiny_config(tiny_model, tmp_path / "test.npy")
    config.itinf.num_steps = 1
    itinf.run(MeanScaleHyperprior, config, tmp_path / "run")
    assert {"test-0", "test-1"} < {path.name for path in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize("package", ["factorized", "hific", "joint_ar", "mshyper"])
def test_configs_of_all_packages(package):
    module = config_files.load(str(configs.ZOO_DIR.parent / package / "configs/itinf.py"))
    assert len(module.get_hyper()) == 7
    for method in methods.METHODS:
        config = module.get_config(method)
        sweeps.apply(config, module.get_hyper(), 6)
        config.seed = 3
        assert config.itinf.seed == 3
        if config.model:
            assert export.read_module(export.find(config.model)) == f"{package}.models"
    with pytest.raises(UserError, match="unknown method 'sag'; known: sga, "):
        module.get_config("sag")


# --- codec compress --refine --------------------------------------------------------------------


def compress(*arguments):
    codec.main(["compress", *map(str, arguments)])


def test_codec_refines_files(tiny_model, pictures, tmp_path):
    compress("--model", tiny_model, pictures, "--output_dir", tmp_path / "base")
    compress("--model", tiny_model, pictures, "--output_dir", tmp_path / "refined",
             "--refine", "sga", "--refine_steps", "20")
    model = zoo.load(tiny_model)
    for path in pictures.iterdir():
        original, losses = images.read(path), []
        for folder in ("base", "refined"):
            ntc = (tmp_path / folder / f"{path.stem}.ntc").read_bytes()
            losses.append(8 * len(ntc) / np.prod(original.shape[:2])
                          + 0.01 * metrics.mse(original, coding.decompress(model, ntc)))
        assert losses[1] < losses[0]


@pytest.mark.usefixtures("without_graphs")
def test_codec_refines_for_another_lambda(tiny_model, pictures, tmp_path):
    # So small a lambda leaves the bytes alone to count.
    for name, arguments in {"base": [], "refined": ["--refine", "map", "--refine-steps", "10",
                                                    "--refine-lambda", "1e-5"]}.items():
        compress("--model", tiny_model, pictures / "a.png", tmp_path / f"{name}.ntc", *arguments)
    base, refined = (tmp_path / f"{name}.ntc" for name in ("base", "refined"))
    assert refined.stat().st_size < base.stat().st_size


@pytest.mark.parametrize("arguments, message", [
    (["--refine", "sag"], "unknown method 'sag'; known: sga, "),
    (["--refine", "sga", "--refine_steps", "0"], "num_steps is 0"),
    (["--refine", "sga", "--refine_lambda", "nan"], "rd_lambda is nan"),
    (["--refine_steps", "10"], "need --refine METHOD"),
    (["--model", "mshyper-small_bb-2", "--refine", "sga"], "code with `chain`, not `codec`"),
])
def test_mistakes_of_codec(tiny_model, pictures, tmp_path, capsys, arguments, message):
    capsys.readouterr()
    with pytest.raises(SystemExit) as failure:
        compress("--model", tiny_model, pictures / "a.png", tmp_path / "a.ntc", *arguments)
    assert failure.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]
    assert not list(tmp_path.iterdir())


def test_codec_names_small_images_of_ms_ssim_models(tiny_model, pictures, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    config = json.loads((model / "config.json").read_text())
    config["train"]["distortion"] = "ms_ssim"
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit):
        compress("--model", model, pictures / "a.png", tmp_path / "a.ntc", "--refine", "sga")
    error = capsys.readouterr().err
    assert "a.png: MS-SSIM needs sides of at least 161 pixels; the image has 64" in error


# --- As programs --------------------------------------------------------------------------------


def program(package, *arguments):
    return subprocess.run([sys.executable, "-m", f"{package}.itinf", *map(str, arguments)],
                          capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_as_a_program(tiny_run, finished, pictures, tmp_path):
    done = program(
        "mshyper", "--config", "mshyper/configs/itinf.py:sga", "--hid", "0",
        f"--config.model={tiny_run.parent}", f"--config.data={pictures}", "--config.batch_size=2",
        "--config.itinf.num_steps=20", "--experiments_dir", tmp_path)
    assert done.returncode == 0, done.stderr
    workdir = (
        tmp_path / "mshyper-itinf-sga" / f"wid=0-mshyper-itinf-sga-model={tiny_run.parent.name}")
    assert contents(workdir) == contents(finished)
    assert str(workdir) in done.stdout and "refined.rd_loss" in done.stdout


@pytest.mark.parametrize("package, arguments, message", [
    ("mshyper", [":sag"], "unknown method 'sag'"),
    ("mshyper", ["", "--config.model=joint_ar"], "a model of joint_ar.models"),
    ("factorized", [""], "model should name"),
    ("joint_ar", ["", "--config.model=mshyper"], "a model of mshyper.models"),
    ("joint_ar", ["", "--hid", "7"], "entries 0 to 6"),
    ("joint_ar", ["", "--config.itinf.steps=3"], "has no key"),
])
def test_mistakes_on_the_command_line(package, arguments, message, tmp_path):
    recipe, *arguments = arguments
    refuses(importlib.import_module(f"{package}.itinf").run, tmp_path, message,
            "--config", f"{package}/configs/itinf.py{recipe}", *arguments)
