"""Every config of every package, scaled down: builds, trains a step, exports, codes."""

import functools
import importlib
import pathlib

import numpy as np
import pytest
from ml_collections import config_dict

from common import (
    coding,
    config_files,
    data,
    export,
    programs,
    recipes,
    runs,
    sweeps,
    training,
    training_config,
    zoo,
)
from hific import adversarial
from mshyper import bits_back, chain

ROOT = pathlib.Path(__file__).parents[2]
CONFIGS = sorted(
    str(path.relative_to(ROOT)) for path in ROOT.glob("*/configs/*.py")
    if path.stem not in ("__init__", "itinf"))
QUICK = ("two_layer_light.py",)  # the others take minutes
# They differ from stage1_low.py and stage2_low.py in two numbers of the training.
ALIKE = ("stage1_med.py", "stage1_high.py", "stage2_med.py", "stage2_high.py")
DIVISOR = 16


def overrides(config):
    """`--config.model.<part>.<width>=...` for a sixteenth of all widths, as flat overrides."""
    def narrow(value):
        if isinstance(value, int):
            return value // DIVISOR if value >= 2 * DIVISOR else value
        return tuple(map(narrow, value))

    return {f"model.{part}.{key}": narrow(value)
            for part, arguments in config.model.items()
            if isinstance(arguments, config_dict.ConfigDict)
            for key, value in arguments.items() if key in ("channels", "latents", "width")}


def find_class(path, config):
    package = path.split("/")[0]
    return zoo.CODECS[f"{package}.{config.get('module', 'models')}"]


@functools.cache
def first_of_each_model():
    """The first config, by name, of each model that some have in common."""
    first = {}
    for path in CONFIGS:
        config = config_files.load(str(ROOT / path)).get_config()
        first.setdefault((find_class(path, config), config.model.to_json()), path)
    return {*first.values()}


@pytest.mark.parametrize("path", [
    pytest.param(path, marks=() if path.endswith(QUICK) else pytest.mark.slow)
    for path in CONFIGS if not path.endswith(ALIKE)])
def test_a_config_trains_exports_and_codes(path, photo, tmp_path, lpips_network, without_graphs):
    config = config_files.load(str(ROOT / path)).get_config()
    model_class = find_class(path, config)
    if not config.train.warm_start:  # from a released model, whose widths are what they are
        config.update_from_flattened_dict(overrides(config))
    side = 161 if config.train.distortion == "ms_ssim" else 64
    config.data.update(patch_size=side, batch_size=2)
    if config.train.optimizer.cls == "SOAP":  # that of tests/common/test_optimizers.py
        config.train.optimizer.cls = "Adam"
    training_config.check(config, replicas=1)
    make_trainer = adversarial.make_trainer if path.startswith("hific") else training.Trainer
    trainer, _ = training.build(model_class, config, make_trainer)
    if config.train.warm_start:
        export.warm_start(trainer.codec, runs.find_model("", config.train.warm_start, tmp_path))
        trainer.result.set_weights(trainer.codec.get_weights())
    crops = np.stack([photo[y:y + side, 200:200 + side]
                      for y in range(2 * trainer.batches_per_step)])
    measured = trainer.train_step(data.to_float(crops))
    assert trainer.optimizer.iterations == 1
    assert all(np.isfinite(value) for value in measured.values())

    if path not in first_of_each_model():
        return
    exported = tmp_path / "model"
    fingerprint = export.save(trainer.result, runs.record(model_class, config), exported,
                              config.train.export_dtype)
    # Small, as a serial context takes a step for each diagonal.
    model, photo = zoo.load(exported), photo[100:125, 200:241]
    assert model.fingerprint == fingerprint
    if model_class is bits_back.BitsBackHyperprior:
        ntb, _ = chain.compress(model, [photo], b"payload")
        (decoded,), payload = chain.decompress(model, ntb)
        assert decoded.shape == photo.shape and payload == b"payload"
        return
    latents = coding.infer(model, photo)
    ntc = coding.compress(model, photo)
    decoded = coding.decode(model, ntc)
    assert decoded.latents.keys() == latents.keys()
    for name, value in latents.items():
        # Untrained, y may be anything; but what is decoded is y rounded on some grid.
        assert np.max(np.abs(decoded.latents[name] - value)) <= 0.501
    assert coding.reconstruct(model, decoded).shape == photo.shape


def workdir(path, *arguments):
    """Where the run of a package's config is, below the folder "e"."""
    package, kind = path.split("/")[0], "itinf" if "itinf" in path else "train"
    program = importlib.import_module(f"{package}.{kind}").run
    run = programs.read(program, ["x", "--config", f"{ROOT}/{path}", "--experiments_dir=e",
                              *arguments])
    return run.workdir


@pytest.mark.parametrize("path, wide, widths", [
    ("mshyper/configs/bmshj2018.py", {0.08, 0.04}, ((128, 192), (192, 320))),
    ("mshyper/configs/mbt2018.py", {0.08, 0.04}, ((192, 192), (192, 320))),
    ("mshyper/configs/mbt2018_bb.py", {0.08, 0.04}, ((192, 192), (256, 256))),
    ("mshyper/configs/mbt2018_ms_ssim.py", {31.73, 60.5, 115.37, 220.0}, ((192, 192), (192, 320))),
    ("joint_ar/configs/mbt2018.py", {0.08, 0.04}, ((192, 192), (192, 320))),
])
def test_models_of_papers_are_wider_at_high_rates(path, wide, widths):
    file = config_files.load(str(ROOT / path))
    for hid in range(len(file.get_hyper())):
        config = file.get_config()
        sweeps.apply(config, file.get_hyper(), hid)
        inner, latents = widths[config.train.rd_lambda in wide]
        model, last = config.model, config.model.hyper_synthesis.channels[-1]
        assert model.analysis.channels == (inner, inner, inner, latents)
        assert model.synthesis.channels == (inner, inner, inner, 3)
        assert model.hyper_analysis.channels[:-1] == (inner, inner)
        assert last == (1 if path.endswith("bmshj2018.py") else 2) * latents
    assert {entry["train.rd_lambda"] for entry in file.get_hyper()} > wide


def test_every_run_of_every_config_has_a_name_of_its_own():
    entries = {path: config_files.load(str(ROOT / path)).get_hyper() for path in CONFIGS}
    folders = {path: [workdir(path, f"--hid={n}") for n in range(len(sweep))]
               for path, sweep in entries.items()}
    assert [str(folder) for folder in folders["mshyper/configs/mbt2018.py"]] == [
        f"e/mshyper-mbt2018/wid={wid}-mshyper-mbt2018-rd_lambda={rd_lambda:g}"
        for wid, rd_lambda in enumerate(recipes.LAMBDAS)]
    assert folders["joint_ar/configs/mbt2018.py"][4].name == (
        "wid=4-joint_ar-mbt2018-rd_lambda=0.04")
    assert folders["mshyper/configs/two_layer_syn2.py"][5].name == (
        "wid=5-mshyper-two_layer_syn2-channels=48,3-rd_lambda=0.02")
    assert str(*folders["hific/configs/stage1_low.py"]) == (
        "e/hific-stage1_low/wid=0-hific-stage1_low")
    experiments = {path: {folder.parent.name for folder in found}
                   for path, found in folders.items()}
    assert all(len(names) == 1 for names in experiments.values())
    assert len(set.union(*experiments.values())) == len(CONFIGS), "two would share a folder"
    for found in folders.values():
        names = [runs.split_name(folder.name)[1] for folder in found]
        assert len({*names}) == len(names) >= 1


@pytest.mark.parametrize("path, arguments, expected", [
    ("mshyper/configs/small.py", ["--config.train.rd_lambda=0.02", "--config.seed=3"],
     "mshyper-small/wid=0-mshyper-small-rd_lambda=0.02-seed=3"),
    ("mshyper/configs/small.py", ["--hid=0", "--config.train.rd_lambda=0.02"],
     "mshyper-small/wid=0-mshyper-small-rd_lambda=0.02"),
    ("mshyper/configs/small.py:advdnic", ["--hid=1", "--config.train.rate_target=0.3"],
     "mshyper-small-advdnic/wid=1-mshyper-small-advdnic-rd_lambda=0.01-rate_target=0.3"),
    ("mshyper/configs/small.py",
     ["--config.data.train=a/*.jpg", "--config.train.optimizer.cls=SGD"],
     "mshyper-small/wid=0-mshyper-small"),
    ("mshyper/configs/itinf.py:map", ["--config.model=e/mshyper-small/wid=1-x/model/", "--hid=3"],
     "mshyper-itinf-map/wid=3-mshyper-itinf-map-model=wid=1-x"),
    ("joint_ar/configs/itinf.py", ["--config.model=../a strange: name", "--xid=mine"],
     "mine/wid=0-joint_ar-itinf-model=a_strange_name"),
])
def test_names_of_runs_follow_the_command_line(path, arguments, expected):
    assert str(workdir(path, *arguments)) == f"e/{expected}"


def test_a_config_may_name_its_runs(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from mshyper.configs.small import get_config, get_hyper\n\n\n"
                    "def get_runname(config):\n    return f'x{config.train.rd_lambda}'\n")
    program = importlib.import_module("mshyper.train").run
    run = programs.read(program, ["x", "--config", str(path), "--hid=0", "--experiments_dir=e"])
    assert str(run.workdir) == "e/mshyper-mine/wid=0-x0.0025"


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS)
def test_models_of_a_sweep_can_be_built(path):
    module = config_files.load(str(ROOT / path))
    model_class = find_class(path, module.get_config())
    models = {}
    for entry in module.get_hyper():
        config = module.get_config()
        config.update_from_flattened_dict(entry)
        config.update_from_flattened_dict(overrides(config))
        models[config.model.to_json()] = config.to_dict()
    first = module.get_config()
    first.update_from_flattened_dict(overrides(first))
    models.pop(first.model.to_json(), None)  # that is trained above
    for config in models.values():
        export.build(model_class, config)


@pytest.mark.parametrize("path", CONFIGS)
@pytest.mark.parametrize("recipe", ["yang2020", "advdnic"])
def test_configs_take_any_recipe(path, recipe):
    config = config_files.load(str(ROOT / path)).get_config(recipe)
    assert config.train.optimizer.cls == recipes.build(recipe).train.optimizer.cls == "Adam"
    assert config.model.analysis.cls
