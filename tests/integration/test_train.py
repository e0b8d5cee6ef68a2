"""Training as a whole: folders, resuming, and what it trains for."""

import contextlib
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from common import data, export, locks, precision, refinement, stopping, training
from common.errors import ConversionError, UserError
from common.objectives import Objective
from common.training_loop import TrainingLoop
from common.validation import Validation
from mshyper.models import MeanScaleHyperprior
from tests.helpers.tiny import shallow_config, tiny_config

ROOT = pathlib.Path(__file__).parents[2]


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def weights(workdir):
    reader = tf.train.load_checkpoint(str(workdir / "checkpoints"))
    return {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()
            if key.endswith("VARIABLE_VALUE") and "save_counter" not in key}


def test_a_run_leaves_what_it_should(tiny_run):
    assert {"config.json", "run_info.json", "metrics.jsonl", "tensorboard", "checkpoints",
            "model"} == {path.name for path in tiny_run.iterdir()}
    lines = metrics(tiny_run)
    assert [(line["step"], line["split"]) for line in lines] == [
        (5, "train"), (10, "train"), (10, "validation"),
        (15, "train"), (20, "train"), (20, "validation")]
    for line in lines:
        assert line["rd_loss"] == pytest.approx(line["bpp"] + 0.01 * line["mse"], rel=1e-3)
        assert line["bpp"] == pytest.approx(line["bpp_y"] + line["bpp_z"], rel=1e-3)
    assert lines[-1]["rd_loss"] < lines[2]["rd_loss"], "training does not train"
    info = json.loads((tiny_run / "run_info.json").read_text())
    assert info["seed"] == 0 and info["versions"]["tensorflow"] == tf.__version__


class Killed(Exception):
    pass


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, monkeypatch):
    config = shallow_config()
    # All that keeps a state or depends on the step, but the weight of a rate (the next test).
    config.train.update_from_flattened_dict({
        "optimizer.cls": "SOAP", "ema_decay": 0.5, "quantizer": dict(cls="SoftRound"),
        "schedule": dict(cls="ReduceOnPlateau", patience=1), "precision": "bfloat16"})
    config.train.optimizer.update_interval = 2
    config.train.num_steps = 7  # not a multiple of the interval: the last epoch is short
    config.train.checkpoint_interval = 3
    config.train.log_interval = 2
    end_step = TrainingLoop.end_step

    def copy(self, measured):
        end_step(self, measured)
        if self.step == 5:  # this is what it would leave if it were killed
            shutil.copytree(tmp_path / "whole", tmp_path / "parts",
                            ignore=shutil.ignore_patterns(locks.NAME))

    monkeypatch.setattr(TrainingLoop, "end_step", copy)
    training.run(MeanScaleHyperprior, config, tmp_path / "whole")
    monkeypatch.setattr(TrainingLoop, "end_step", end_step)
    assert [line["step"] for line in metrics(tmp_path / "parts")] == [2, 3, 3, 4]
    training.run(MeanScaleHyperprior, config, tmp_path / "parts")

    assert (tmp_path / "whole/metrics.jsonl").read_text() == (
        tmp_path / "parts/metrics.jsonl").read_text()
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for key in whole:
        np.testing.assert_array_equal(whole[key], parts[key], err_msg=key)
    assert export.fingerprint(tmp_path / "whole/model") == export.fingerprint(
        tmp_path / "parts/model")


def save_while_tracing():
    """As when a signal comes while Python makes a graph; for tests without graphs."""
    tf.config.run_functions_eagerly(False)
    tf.function(stopping.save_all, autograph=False)()
    tf.config.run_functions_eagerly(True)


@pytest.mark.usefixtures("without_graphs")
def test_steps_are_not_lost_to_a_validation_that_fails(tmp_path, monkeypatch):
    def fail(self):
        raise tf.errors.ResourceExhaustedError(None, None, "out of memory")

    config = shallow_config()
    config.train.update(num_steps=2, checkpoint_interval=2, log_interval=1)
    with monkeypatch.context() as patch, pytest.raises(tf.errors.ResourceExhaustedError):
        patch.setattr(Validation, "__call__", fail)
        training.run(MeanScaleHyperprior, config, tmp_path)
    assert tf.train.latest_checkpoint(str(tmp_path / "checkpoints")).endswith("step-2")
    assert [line["split"] for line in metrics(tmp_path)] == ["train", "train"]
    monkeypatch.setattr(TrainingLoop, "end_step", fail)  # there is no step left
    training.run(MeanScaleHyperprior, config, tmp_path)
    assert [line["split"] for line in metrics(tmp_path)] == ["train", "train", "validation"]


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
@pytest.mark.parametrize("validation", [True, False])
def test_an_interrupted_run_goes_on_at_the_very_step(tmp_path, monkeypatch, validation, caplog):
    config = shallow_config()
    config.train.rate_target = 0.5
    if not validation:
        config.data.validation = ""
    config.train.num_steps = 7
    config.train.checkpoint_interval = 4
    config.train.log_interval = 3
    training.run(MeanScaleHyperprior, config, tmp_path / "whole")
    assert ("train.rate_target is the rate of crops" in caplog.text) != validation

    end_step = TrainingLoop.end_step
    # Where a line of metrics is due, where an interval ends, in the middle of one, and the end;
    # without validation only where one ends.
    for last in (3, 4, 5, 7) if validation else (4, 7):
        def kill(self, measured, last=last):
            if self.step == last:  # a signal comes before anything else is done
                (save_while_tracing if last == 5 else stopping.save_all)()
                raise Killed
            end_step(self, measured)

        monkeypatch.setattr(TrainingLoop, "end_step", kill)
        with pytest.raises(Killed):
            training.run(MeanScaleHyperprior, config, tmp_path / "parts")
        checkpoint = tf.train.latest_checkpoint(str(tmp_path / "parts/checkpoints"))
        assert checkpoint.endswith(f"step-{last}")
    monkeypatch.setattr(TrainingLoop, "end_step", end_step)
    training.run(MeanScaleHyperprior, config, tmp_path / "parts")

    assert (tmp_path / "whole/metrics.jsonl").read_text() == (
        tmp_path / "parts/metrics.jsonl").read_text()
    assert export.fingerprint(tmp_path / "whole/model") == export.fingerprint(
        tmp_path / "parts/model")


def test_running_a_finished_run_again_changes_nothing(tiny_run):
    before = {path: path.stat().st_mtime_ns for path in (tiny_run / "model").iterdir()}
    lines = metrics(tiny_run)
    training.run(MeanScaleHyperprior, tiny_config(), tiny_run)
    assert {path: path.stat().st_mtime_ns for path in (tiny_run / "model").iterdir()} == before
    assert metrics(tiny_run) == lines


def test_another_config_does_not_touch_the_run(tiny_run):
    config = tiny_config()
    config.train.rd_lambda = 0.5
    with pytest.raises(UserError, match=r"train\.rd_lambda differ"):
        training.run(MeanScaleHyperprior, config, tiny_run)


@pytest.mark.usefixtures("without_graphs")
def test_the_seed_decides(tmp_path, tiny_run):
    config = tiny_config()
    config.seed = 1
    config.data.validation = ""
    config.train.num_steps = 5
    training.run(MeanScaleHyperprior, config, tmp_path / "run")
    own, other = (metrics(folder)[0]["rd_loss"] for folder in (tmp_path / "run", tiny_run))
    assert own != pytest.approx(other, rel=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_warm_start_keeps_the_better_weights(tmp_path, tiny_run, tiny_model, caplog):
    config = tiny_config()
    config.train.warm_start = str(tiny_model)
    config.train.num_steps = 1
    config.train.optimizer.learning_rate = 10.0
    training.run(MeanScaleHyperprior, config, tmp_path / "run")
    first, _, last = metrics(tmp_path / "run")
    best = min(line["rd_loss"] for line in metrics(tiny_run) if line["split"] == "validation")
    assert first["step"] == 0 and first["rd_loss"] == pytest.approx(best, rel=1e-4)
    assert last["rd_loss"] > first["rd_loss"], "the step was meant to do harm"
    assert "other settings" not in caplog.text
    kept, given = (export.load(MeanScaleHyperprior, path)
                   for path in (tmp_path / "run/model", tiny_model))
    for a, b in zip(kept.trainable_variables, given.trainable_variables):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_what_could_not_be_exported_is_not_the_best(tmp_path, tiny_model, monkeypatch, caplog):
    config = tiny_config()
    config.model.use_offset = not config.model.use_offset
    config.train.warm_start = str(tiny_model)
    config.train.num_steps = 1
    config.train.optimizer.learning_rate = 10.0
    save, refusals = export.save, iter([True])

    def refuse_once(*arguments):
        if next(refusals, False):
            raise ConversionError("culprit")
        return save(*arguments)

    monkeypatch.setattr(export, "save", refuse_once)
    path = training.run(MeanScaleHyperprior, config, tmp_path / "run")
    assert "other settings: use_offset is" in caplog.text
    refused, _, exported = (line["rd_loss"] for line in metrics(tmp_path / "run"))
    assert refused < exported, "the step was meant to do harm"
    reader = tf.train.load_checkpoint(str(tmp_path / "run" / "checkpoints"))
    best = reader.get_tensor("best_loss/.ATTRIBUTES/VARIABLE_VALUE")
    assert best == pytest.approx(exported)
    assert export.load(MeanScaleHyperprior, path)


@pytest.mark.usefixtures("without_graphs")
def test_without_validation_the_last_weights_are_exported(tmp_path):
    config = shallow_config()
    config.data.validation = ""
    config.train.num_steps = 3
    path = training.run(MeanScaleHyperprior, config, tmp_path / "run")
    exported = export.load(MeanScaleHyperprior, path).analysis.trainable_variables[0].numpy()
    last = weights(tmp_path / "run")
    assert any(np.array_equal(exported, value) for value in last.values())


@pytest.mark.usefixtures("without_graphs")
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    config = shallow_config()
    config.train.optimizer = dict(cls="SGD", learning_rate=1e30)
    with pytest.raises(UserError, match=r"not finite at step \d+"):
        training.run(MeanScaleHyperprior, config, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_a_run_that_diverges_at_a_checkpoint_keeps_the_good_ones(tmp_path):
    config = shallow_config()
    config.train.optimizer = dict(cls="SGD", learning_rate=1e30)
    config.train.schedule = dict(cls="WarmupDrop", warmup=0.0)
    config.train.checkpoint_interval = 1
    with pytest.raises(UserError, match="not finite"):
        training.run(MeanScaleHyperprior, config, tmp_path / "run")
    assert tf.train.latest_checkpoint(str(tmp_path / "run" / "checkpoints")) is None
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    # Nothing was trained, so the mended config may have the folder.
    config.train.optimizer = dict(cls="Adam", learning_rate=1e-3)
    config.train.num_steps = 1
    training.run(MeanScaleHyperprior, config, tmp_path / "run")
    assert weights(tmp_path / "run")


def test_averaged_weights_are_validated_and_exported_but_not_trained(tmp_path, tiny_run):
    config = tiny_config()
    config.train.ema_decay = 0.999
    config.train.export_dtype = "float16"
    training.run(MeanScaleHyperprior, config, tmp_path / "run")
    # Training is that of a run without averages, validation is not.
    lines = [metrics(folder) for folder in (tiny_run, tmp_path / "run")]
    for plain, averaged in zip(*lines, strict=True):
        assert (averaged == plain) == (plain["split"] == "train")
    # After few steps an average over a thousand is not that of the weights that it began with.
    (at_10, _), (_, averaged_at_20) = (
        [line["rd_loss"] for line in each if line["split"] == "validation"] for each in lines)
    assert averaged_at_20 < at_10

    last, average = ({key.partition("/")[2]: value for key, value in weights(
        tmp_path / "run").items() if key.startswith(f"{name}/")} for name in ("codec", "result"))
    for key in average:
        if key.startswith("analysis"):
            assert 0 < np.max(np.abs(last[key] - average[key])) < np.max(np.abs(last[key])), key
    # Weights are rounded in the file alone.
    key = "analysis/layer_with_weights-0/_kernel_parameter/.ATTRIBUTES/VARIABLE_VALUE"
    exported = export.load(MeanScaleHyperprior, tmp_path / "run/model")
    np.testing.assert_array_equal(
        exported.analysis.layers[0].kernel, average[key].astype(np.float16))
    assert np.any(average[key] != average[key].astype(np.float16))
    for weight in exported.trainable_variables:
        assert any(np.array_equal(value.astype(np.float16), weight) for value in average.values())
    rounded, whole = ((folder / "model/weights.safetensors").stat().st_size
                      for folder in (tmp_path / "run", tiny_run))
    assert rounded < 0.65 * whole


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_ms_ssim_as_distortion(tmp_path):
    config = shallow_config()
    config.data.update(patch_size=161, validation="photos/validation")  # which are large enough
    config.train.distortion = "ms_ssim"
    config.train.rd_lambda = 8.73
    config.train.num_steps = config.train.log_interval = 1
    training.run(MeanScaleHyperprior, config, tmp_path / "run")
    for line in metrics(tmp_path / "run"):
        assert line["rd_loss"] == pytest.approx(
            line["bpp"] + 8.73 * (1 - line["ms_ssim"]), rel=1e-3)
        assert math.isfinite(line["mse"]) and math.isfinite(line["psnr"])


@pytest.mark.parametrize("first, second", [
    ("avx512_bf16", None), pytest.param(None, "avx512_bf16", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("without_graphs")
def test_a_run_keeps_its_precision_on_another_machine(
        tmp_path, monkeypatch, capsys, caplog, first, second):
    config = tiny_config()
    config.data.batch_size, config.data.patch_size, config.data.validation = 1, 32, ""
    config.train.num_steps, config.train.checkpoint_interval = 2, 1
    config.train.precision = "auto"
    begun = "bfloat16" if first else "float32"
    update_codec = training.Trainer.update_codec
    end_step = TrainingLoop.end_step

    def check(self, x):
        assert self.codec.analysis.layers[1].compute_dtype == begun
        return update_codec(self, x)

    def kill(self, measured):
        if self.step == 2:
            raise Killed
        end_step(self, measured)

    monkeypatch.setattr(training.Trainer, "update_codec", check)
    for hardware, ending in ((first, kill), (second, end_step)):
        monkeypatch.setattr(precision, "hardware", lambda hardware=hardware: hardware)
        monkeypatch.setattr(TrainingLoop, "end_step", ending)
        with pytest.raises(Killed) if ending is kill else contextlib.nullcontext():
            training.run(MeanScaleHyperprior, config, tmp_path)
        assert capsys.readouterr().out.splitlines()[0] == f"run: {tmp_path}, in {begun}"
        assert json.loads((tmp_path / "run_info.json").read_text())["precision"] == begun
        assert json.loads((tmp_path / "config.json").read_text())["train"]["precision"] == "auto"
    assert ("no bfloat16 in hardware" in caplog.text) == (begun == "bfloat16")
    assert metrics(tmp_path)[-1]["step"] == 2


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_bfloat16_and_warm_start_from_an_experiment(tmp_path, tiny_run):
    config = tiny_config()
    config.data.batch_size = 1
    config.data.patch_size = 32
    config.train.num_steps = 1
    config.train.precision = "mixed_bfloat16"
    config.train.warm_start = str(tiny_run.parent)
    path = training.run(MeanScaleHyperprior, config, tmp_path / "wid=0-other-name")
    assert tf.keras.mixed_precision.global_policy().name == "float32"
    first, train, last = metrics(tmp_path / "wid=0-other-name")
    best = min(line["rd_loss"] for line in metrics(tiny_run) if line["split"] == "validation")
    assert first["rd_loss"] == pytest.approx(best, rel=1e-5), "validation is in float32"
    assert all(math.isfinite(line["rd_loss"]) for line in (train, last))
    exported = export.load(MeanScaleHyperprior, path)
    assert {variable.dtype for variable in exported.variables} == {tf.float32}


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_a_run_for_a_rate_keeps_the_last_model_and_its_weight(tmp_path, lpips_network):
    config = shallow_config()
    config.train.update(rate_target=0.2, rd_lambda=0.02, lpips_weight=0.5, num_steps=4,
                        checkpoint_interval=2, log_interval=1)
    config.train.rate_control = dict(cls="ProportionalIntegral", settle=1.0)
    path = training.run(MeanScaleHyperprior, config, tmp_path / "run")
    lines = metrics(tmp_path / "run")
    trained = [line for line in lines if line["split"] == "train"]
    for line in trained:
        assert line["rd_loss"] == pytest.approx(
            line["rate_weight"] * line["bpp"] + 0.02 * line["mse"] + 0.5 * line["lpips"], rel=1e-4)
    weights = [line["rate_weight"] for line in trained]
    assert len(set(weights)) == len(weights)
    assert export.read_config(path)["train"]["rate_weight"] == pytest.approx(np.mean(weights))
    last = [line for line in lines if line["split"] == "validation"][-1]
    # Refinement minimises this loss too.
    assert refinement.objective(path) == Objective(
        0.02, "mse", pytest.approx(np.mean(weights)), lpips_weight=0.5)
    model, photos = export.load(MeanScaleHyperprior, path), data.find(config.data.validation)
    bpp = [float(tf.add_n([*model(data.to_float(photo.read()[None])).bits.values()])[0])
           / photo.read()[..., 0].size for photo in photos]
    assert np.mean(bpp) == pytest.approx(last["bpp"], rel=1e-4)


def test_the_command_trains_with_soap(picture, tmp_path):
    # As from a shell, in which no TensorFlow has set this: compared tensors were then Python bools.
    shell = {name: value for name, value in os.environ.items() if name != "TF2_BEHAVIOR"}
    done = subprocess.run(
        [sys.executable, "-m", "mshyper.train", "--config", "mshyper/configs/small.py",
         f"--config.data.train={picture}", "--config.data.validation=",
         "--config.data.batch_size=1", "--config.data.patch_size=64",
         "--config.train.num_steps=2", "--config.train.log_interval=1",
         "--config.train.precision=float32",
         f"--experiments_dir={tmp_path}", "--xid=soap"],
        cwd=ROOT, env=shell, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    workdir, = (tmp_path / "soap").iterdir()
    assert [line["step"] for line in metrics(workdir)] == [1, 2]
    config = json.loads((workdir / "config.json").read_text())
    assert config["train"]["optimizer"]["cls"] == "SOAP", "the test tests something else"
