"""Validation within a training: what it measures, and who is told."""

import json

import numpy as np
import pytest

from common import coding, data, export, rate_control, training, zoo
from common.errors import UserError
from common.training_loop import TrainingLoop
from common.validation import Validation
from mshyper.models import MeanScaleHyperprior
from tests.helpers.tiny import shallow_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_graphs")]


def train(workdir, **changes):
    """Trains for four steps, with an interval of one."""
    config = shallow_config()
    config.train.update(num_steps=4, checkpoint_interval=1, log_interval=1)
    config.train.schedule = dict(cls="Constant")
    config.update_from_flattened_dict({f"train.{key}": value for key, value in changes.items()})
    training.run(MeanScaleHyperprior, config, workdir)
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def constant(monkeypatch):
    """Validations that find nothing better, at 0.4 bits per pixel."""
    row = {"rd_loss": 1.0, "bpp": 0.4, "bpp_y": 0.3, "bpp_z": 0.1, "mse": 60.0, "psnr": 30.0}
    monkeypatch.setattr(Validation, "__call__", lambda self: {0: dict(row)})
    return row


def test_a_schedule_by_plateaus_is_told_of_losses(tmp_path, constant):
    lines = train(tmp_path / "run", schedule=dict(
        cls="ReduceOnPlateau", patience=1, factor=0.5, minimum=1e-9), **{
            "optimizer.learning_rate": 1e-3})
    rates = [line["learning_rate"] for line in lines if line["split"] == "train"]
    # Of a step; the first validation is the best, each of the others halves.
    assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 2.5e-4])


def test_a_schedule_by_plateaus_needs_validation(tmp_path):
    config = shallow_config()
    config.train.schedule = dict(cls="ReduceOnPlateau")
    config.data.validation = ""
    with pytest.raises(UserError, match="ReduceOnPlateau needs data.validation"):
        training.run(MeanScaleHyperprior, config, tmp_path / "run")


def test_rate_control_is_told_of_rates(tmp_path, constant, monkeypatch, caplog):
    seen, observe = [], rate_control.ProportionalIntegral.observe
    monkeypatch.setattr(rate_control.ProportionalIntegral, "observe",
                        lambda self, bpp: seen.append(bpp) or observe(self, bpp))
    train(tmp_path / "run", rate_target=0.2)
    assert seen == [constant["bpp"]] * 4
    assert "the rate is 0.400 bits per pixel, not 0.2 as train.rate_target says" in caplog.text
    caplog.clear()
    # Another training for a rate begins with the weight that this one ended with.
    begun, begin = [], rate_control.ProportionalIntegral.begin
    monkeypatch.setattr(rate_control.ProportionalIntegral, "begin",
                        lambda self, weight: begun.append(weight) or begin(self, weight))
    config = export.read_config(tmp_path / "run" / "model")
    assert config["train"]["rate_weight"] > 0
    seen.clear()
    train(tmp_path / "next", rate_target=0.4, warm_start=str(tmp_path / "run"))
    assert begun == [config["train"]["rate_weight"]]
    assert seen == [constant["bpp"]] * 4, "that before the first step says nothing of steps"
    assert "the rate is" not in caplog.text


def test_what_is_validated_are_files(tmp_path):
    last = train(tmp_path / "run")[-1]
    model = zoo.load(tmp_path / "run" / "model")
    sources = data.find(shallow_config().data.validation)
    rows = [coding.measure(model, source.read())[0] for source in sources]
    # On 8-bit images, and with rounded latents; decoders' means differ in the last digits.
    assert last["split"] == "validation"
    assert last["mse"] == pytest.approx(np.mean([row["mse"] for row in rows]), rel=2e-3)
    assert last["psnr"] == pytest.approx(np.mean([row["psnr"] for row in rows]), abs=5e-3)
    assert last["bpp"] == pytest.approx(
        np.mean([row["estimated_bpp"] for row in rows]), rel=2e-3)
    assert last["rd_loss"] == pytest.approx(last["bpp"] + 0.01 * last["mse"], rel=1e-5)


def test_the_rate_of_a_validation_weighs_as_in_training(tmp_path):
    *_, train_line, last = train(tmp_path / "run", rate_target=0.2)
    weight = export.read_config(tmp_path / "run" / "model")["train"]["rate_weight"]
    assert abs(weight - 1) > 0.01
    assert last["rd_loss"] == pytest.approx(weight * last["bpp"] + 0.01 * last["mse"], rel=1e-3)


def test_a_signal_does_not_save_weights_that_are_no_numbers(tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def ending(self, measured):
        if self.step == 3:
            weight = self._trainer.codec.trainable_variables[0]
            weight.assign(weight * np.nan)
            self.interrupt()
            raise Killed
        end_step(self, measured)

    end_step = TrainingLoop.end_step
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "end_step", ending)
        with pytest.raises(Killed):
            train(tmp_path / "run")
    names = {path.stem for path in (tmp_path / "run" / "checkpoints").glob("*.index")}
    assert names == {"step-1", "step-2"}
    assert train(tmp_path / "run")[-1]["step"] == 4
