"""Configs of training: what is refused before it begins, and overrides."""

import json
import subprocess
import sys

import numpy as np
import pytest

import configs
import factorized.train
import mshyper.train
from common import data, images, lpips, programs, recipes, training, training_config
from common.errors import UserError
from mshyper.models import MeanScaleHyperprior
from tests.helpers.commands import refuses
from tests.helpers.tiny import photographs, tiny_config


def test_a_config_of_another_module_is_refused(tmp_path):
    config = tiny_config()
    config.module = "bits_back"
    with pytest.raises(UserError, match="one for mshyper.bits_back, .* mshyper.models"):
        training.run(MeanScaleHyperprior, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("runs, message", [
    (["wid=1-a"], "one run wid=0-.*found: none"),
    (["wid=0-a", "wid=0-b", "wid=1-a"], "found: wid=0-a, wid=0-b"),
    (["wid=0-a"], "not|no model"),
])
def test_warm_start_from_an_experiment_without_such_a_run(tmp_path, runs, message):
    config = tiny_config()
    for run in runs:
        (tmp_path / "before" / run).mkdir(parents=True)
    config.train.warm_start = str(tmp_path / "before")
    with pytest.raises(UserError, match=message):
        training.run(MeanScaleHyperprior, config, tmp_path / "now" / "wid=0-b")
    assert not (tmp_path / "now").exists()


@pytest.mark.parametrize("key, value", [
    ("patch_size", 32), ("crops_per_image", 2), ("min_scale", 0.25), ("flip", False),
    ("cache_gib", 0.0), ("by_size", True)])
def test_training_draws_crops_as_the_config_says(key, value):
    config = tiny_config()
    config.data[key] = value
    crops, _, _ = training._data(config)
    expected = data.Crops(data.find(config.data.train), seed=config.seed, **{
        "patch_size": 64, "crops_per_image": 1, "min_scale": 0.5, "flip": True, "cache_gib": 4.0,
        key: value})
    plain = training._data(tiny_config())[0]
    assert len(crops) == len(expected) and bool(crops._cache) == bool(expected._cache)
    np.testing.assert_array_equal(crops.draw(5), expected.draw(5))
    assert key == "cache_gib" or not np.array_equal(crops.draw(5), plain.draw(5))


def test_ms_ssim_of_small_images_is_refused(tmp_path):
    config = tiny_config()
    config.train.distortion = "ms_ssim"
    config.train.rd_lambda = 8.73
    with pytest.raises(UserError, match="at least 161 pixels; data.patch_size has 64"):
        training.run(MeanScaleHyperprior, config, tmp_path / "run")
    config.data.patch_size = 161
    config.data.validation = str(tmp_path / "*.png")
    images.write(tmp_path / "narrow.png", np.zeros([300, 160, 3], np.uint8))
    with pytest.raises(UserError, match=r"validation image narrow\.png has 160"):
        training.run(MeanScaleHyperprior, config, tmp_path / "run")


@pytest.mark.parametrize("key, value, message", [
    ("data.train", "nowhere/*.png", "neither a data set"),
    ("data.batch_size", 3, "not a multiple"),
    ("train.num_steps", 0, "at least 1"),
    ("train.checkpoint_interval", 0, "at least 1"),
    ("train.export_dtype", "half", "known: float32, float16"),
    ("data.validation", "Makefile", "no images"),
    ("model.analysis.cls", "MBT2018Analisys", "did you mean 'MBT2018Analysis'"),
    ("train.optimizer.cls", "Adm", "did you mean .Adam."),
    ("train.quantizer.cls", "Noise", "unknown quantizer"),
    ("train.quantizer.alpha", 3.0, "UniformNoise.*alpha"),
    ("train.distortion", "ssim", "unknown distortion"),
    ("train.ema_decay", 1.0, "ema_decay is 1.0"),
    ("train.profile_steps", (10,), "need the first and the last"),
    ("train.precision", "mixed_float16", "known: auto, float32, bfloat16"),
    ("train.schedule.cls", "Cosine", "unknown schedule"),
    ("train.jit_compile", "maybe", "known: auto, on, off"),
    ("train.warm_start", "no-such-model-1", "no model"),
    ("train.rate_target", -0.3, "the target is -0.3 bits per pixel"),
    ("train.optimizer.use_ema", True, "use train.ema_decay"),
])
def test_mistakes_in_the_config(tmp_path, key, value, message):
    config = tiny_config()
    config.data.crops_per_image = 2
    with config.unlocked():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message):
        training.run(MeanScaleHyperprior, config, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_plateaus_of_changing_losses_are_refused(tmp_path):
    config = tiny_config()
    config.train.schedule = dict(cls="ReduceOnPlateau")
    config.train.rate_target = 0.3
    with pytest.raises(UserError, match="ReduceOnPlateau compares losses"):
        training.run(MeanScaleHyperprior, config, tmp_path / "run")


def test_lpips_needs_its_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(configs, "LPIPS_WEIGHTS", tmp_path / "none.npz")
    lpips.network.cache_clear()
    config = tiny_config()
    config.train.lpips_weight = 1.0
    with pytest.raises(UserError, match="make lpips"):
        training.run(MeanScaleHyperprior, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_mistake_is_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "mshyper.train", "--config", "mshyper/configs/small.py",
         "--config.train.num_step=3"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    line, = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and "num_steps" in line


@pytest.mark.parametrize("arguments, message", [
    (["--config", "mshyper/configs/small.py:advdnc"], "did you mean 'advdnic'"),
    (["--config", "nowhere.py"], "no config file nowhere.py"),
    ([], "--config"),
    (["--config", "mshyper/configs/small.py", "--hid", "7"], "entries 0 to 1"),
    (["--config", "mshyper/configs/small_bb.py", "--config.module=bits"],
     "unknown module 'bits'; known: models, bits_back"),
    (["--config", "hific/configs/small_stage2.py", "--config.train.lpips_weight=0"],
     "discriminator, with which only python -m hific.train trains"),
])
def test_mistakes_on_the_command_line(arguments, message, tmp_path):
    refuses(mshyper.train.run, tmp_path, message, *arguments)


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_overrides_on_the_command_line_go_before_the_sweep(tmp_path):
    run = programs.read(factorized.train.run, [
        "factorized.train", "--hid", "0", "--experiments_dir", str(tmp_path),
        "--config", "factorized/configs/bls2017.py:hific", "--config.train.num_steps=2",
        "--config.data.train=photos/train", f"--config.data.validation={photographs()}",
        "--config.data.patch_size=32", "--config.data.batch_size=1",
        "--config.train.rd_lambda=0.03", "--config.train.quantizer.alpha=(1.0, 8.0)",
        "--config.train.quantizer.cls=SoftRound", "--config.model.analysis.channels=(4,4,4)",
        "--config.model.synthesis.channels=(4,4,3)"])
    factorized.train.run(*run.arguments)
    config = json.loads(
        (tmp_path / "factorized-bls2017-hific" / "wid=0-factorized-bls2017-hific-rd_lambda=0.03"
         / "config.json").read_text())
    assert config["train"]["rd_lambda"] == 0.03 and config["train"]["num_steps"] == 2
    assert config["data"]["min_scale"] == 0.75 and config["train"]["schedule"]["drop_at"] == 0.5
    assert config["train"]["quantizer"] == {"cls": "SoftRound", "alpha": [1.0, 8.0]}


@pytest.mark.parametrize("section, given, expected", [
    ("schedule", dict(cls="Constant"), dict(cls="Constant")),
    ("schedule", dict(final="0.5", cls="WarmupCosine"), dict(cls="WarmupCosine", final=0.5)),
    ("schedule", dict(cls="WarmupDrop", warmup="0"),
     dict(cls="WarmupDrop", warmup=0, drop_at=0.8, drop_factor=0.1)),
    ("optimizer", dict(momentum="0.9", cls="SGD"),
     dict(cls="SGD", momentum=0.9, learning_rate=1e-4, global_clipnorm=1.0)),
    ("quantizer", dict(alpha="(1.0, 8.0)", cls="SoftRound"),
     dict(cls="SoftRound", alpha=(1.0, 8.0))),
])
def test_another_class_leaves_no_arguments_of_the_first(section, given, expected):
    config = recipes.build("yang2023").lock()
    training_config.override(config, [(f"train.{section}.{key}", given[key]) for key in given])
    assert config.train[section].to_dict() == expected and config.is_locked


def test_arguments_of_a_class_may_follow_their_keys():
    config = programs.read(mshyper.train.run, [
        "mshyper.train", "--config", "mshyper/configs/small.py",
        "--config.train.optimizer.amsgrad", "--config.train.schedule.cls", "Constant",
        "--config.train.optimizer.beta_1", "0.8", "--noconfig.train.optimizer.jit_compile"]).config
    assert config.train.schedule.to_dict() == {"cls": "Constant"}
    assert config.train.optimizer.beta_1 == 0.8 and config.train.optimizer.amsgrad is True
    assert config.train.optimizer.jit_compile is False
