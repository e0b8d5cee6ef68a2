"""Training one model for every rate: what stops and resumes, where it starts, and its configs.

tests/integration/test_levels.py has what such a model can do.
"""

import json
import math
import shutil

import numpy as np
import pytest
import tensorflow as tf

from common import distribution, export, locks, refinement, training, zoo
from common.errors import UserError
from common.training_loop import TrainingLoop
from factorized.configs import bls2017_levels
from hific import adversarial, regimes
from hific.configs import small_levels as hific_levels
from hific.models import HiFiC
from joint_ar.configs import small_levels as joint_levels
from mshyper.configs import mbt2018_levels, small_levels
from mshyper.models import MeanScaleHyperprior
from tests.helpers import graphs
from tests.helpers.tiny import shallow_config, tiny_config
from tests.helpers.tiny_levels import COUNT, levels_config


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_a_resumed_run_has_the_same_levels(tmp_path, monkeypatch):
    config = levels_config(shallow_config)
    config.data.validation += "/coffee.png"
    config.train.update(num_steps=4, checkpoint_interval=2, log_interval=1)
    end_step = TrainingLoop.end_step

    def copy(self, measured):
        end_step(self, measured)
        if self.step == 3:  # this is what it would leave if it were killed
            shutil.copytree(tmp_path / "whole", tmp_path / "parts",
                            ignore=shutil.ignore_patterns(locks.NAME))

    monkeypatch.setattr(TrainingLoop, "end_step", copy)
    training.run(MeanScaleHyperprior, config, tmp_path / "whole")
    monkeypatch.setattr(TrainingLoop, "end_step", end_step)
    training.run(MeanScaleHyperprior, config, tmp_path / "parts")
    whole, parts = ((tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "parts"))
    assert whole == parts
    drawn = [json.loads(line)["rd_lambda"] for line in whole.splitlines()
             if '"train"' in line]
    assert len({*drawn}) == 4, "each step has levels of its own"


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_warm_start_from_a_model_of_one_rate(tmp_path, tiny_model, capsys):
    config = levels_config()
    config.data.validation += "/coffee.png"
    config.train.update(num_steps=1, checkpoint_interval=1, warm_start=str(tiny_model))
    config.train.optimizer.learning_rate = 1e-9
    training.run(MeanScaleHyperprior, config, tmp_path / "run")
    assert "fresh: levels" in capsys.readouterr().out
    model, start = (zoo.load(path) for path in (tmp_path / "run", tiny_model))
    for own, given in zip(model.analysis.weights, start.analysis.weights):
        np.testing.assert_allclose(own, given, atol=1e-6)
    level = tf.constant([COUNT // 2])  # whose gains begin as ones
    np.testing.assert_allclose(model.levels.apply_gain(tf.ones([1, 1, 1, 12]), level), 1, atol=1e-5)


@pytest.mark.parametrize("change, words", [
    ({"rate_target": 0.3}, "of one rate"),
    ({"distortion": "ms_ssim"}, "is one for MSE")])
def test_mistakes_in_the_config(tmp_path, change, words):
    config = levels_config(shallow_config)
    config.data.patch_size, config.data.validation = 192, ""
    with config.unlocked(), config.train.ignore_type():
        config.train.update(change)
    with pytest.raises(UserError, match=words):
        training.run(MeanScaleHyperprior, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_of_one_rate_needs_a_lambda(tmp_path):
    config = tiny_config()
    with config.train.ignore_type():
        config.train.rd_lambda = None
    with pytest.raises(UserError, match="train.rd_lambda is None"):
        training.run(MeanScaleHyperprior, config, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_one_lambda_says_nothing_of_levels(tmp_path):
    config = levels_config(shallow_config)
    config.data.validation = ""
    config.train.update(rd_lambda=0.5, num_steps=1, checkpoint_interval=1)
    training.run(MeanScaleHyperprior, config, tmp_path / "run")
    assert export.read_config(tmp_path / "run" / "model")["train"]["rd_lambda"] is None
    assert refinement.objective(tmp_path / "run" / "model").rd_lambda is None
    assert refinement.objective(tmp_path / "run" / "model", rd_lambda=0.02).rd_lambda == 0.02


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_ms_ssim_has_lambdas_of_its_own(tmp_path):
    config = levels_config(shallow_config, rd_lambda=(2.4, 220.0))
    config.data.patch_size, config.data.validation = 192, ""
    config.train.update(distortion="ms_ssim", num_steps=1, checkpoint_interval=1, log_interval=1)
    training.run(MeanScaleHyperprior, config, tmp_path / "run")
    line, *_ = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert 2.4 <= json.loads(line)["rd_lambda"] <= 220


@pytest.mark.parametrize("module", [
    small_levels, mbt2018_levels, bls2017_levels, joint_levels, hific_levels])
def test_configs(module):
    config = module.get_config()
    assert config.model.levels.to_dict() == dict(
        count=201, rd_lambda=(0.0015, 0.06), scales=True)
    assert config.train.rd_lambda is None and module.get_hyper() == [{}]


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_a_discriminator_sees_all_levels(tmp_path, monkeypatch):
    config = hific_levels.get_config()
    config.model.analysis.channels = (4, 8, 8, 8, 8, 6)
    config.model.synthesis.update(channels=(8, 8, 8, 8, 4, 3), blocks=1)
    config.model.hyper_analysis.channels = (8, 8, 8)
    config.model.hyper_synthesis.channels = (8, 8, 6)
    config.train.adversarial = dict(regimes.ADVERSARIAL, channels=(4, 4, 4, 4))
    config.train.update(lpips_weight=0.0, num_steps=2, log_interval=1, checkpoint_interval=2)
    config.train.optimizer.cls = "Adam"
    config.data.update(train="photos/train", validation="", patch_size=64, batch_size=2)
    exported = training.run(HiFiC, config, tmp_path / "run", adversarial.make_trainer)
    model = zoo.load(exported)
    trainer = adversarial.AdversarialTrainer(model, config, tf.keras.optimizers.SGD())
    x, seen, infer = tf.random.stateless_uniform([8, 64, 64, 3], [1, 2]), [], model.infer
    monkeypatch.setattr(
        model, "infer", lambda *args, **more: seen.append(more["level"]) or infer(*args, **more))
    trainer.update_discriminator(x)
    np.testing.assert_array_equal(seen[0], trainer.draw_levels(x, stream=2))
    assert np.any(trainer.draw_levels(x) != seen[0]) and len({*seen[0].numpy()}) > 1
    lines = (exported.parent / "metrics.jsonl").read_text().splitlines()
    assert all(math.isfinite(json.loads(line)["d_loss"]) for line in lines)


def test_replicas_draw_the_levels_of_the_batch(monkeypatch):
    config = levels_config(shallow_config)
    trainer = training.Trainer(export.build(MeanScaleHyperprior, config.to_dict()), config,
                               tf.keras.optimizers.SGD())
    whole = trainer.draw_levels(tf.zeros([6, 8, 8, 3]))
    parts = []
    for index in range(3):
        monkeypatch.setattr(distribution, "replica", lambda index=index: (3, index))
        parts.append(trainer.draw_levels(tf.zeros([2, 8, 8, 3])))
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    before = whole.numpy()
    monkeypatch.undo()
    trainer.optimizer.iterations.assign(1)
    assert np.any(trainer.draw_levels(tf.zeros([6, 8, 8, 3])) != before)


@pytest.mark.slow
def test_xla_trains_as_if_there_were_no_graphs(tmp_path):
    """What a model of one rate does is a part of this."""
    config = levels_config(shallow_config)
    config.train.update(jit_compile="on", num_steps=2, checkpoint_interval=2, log_interval=1)
    training.run(MeanScaleHyperprior, config, tmp_path / "compiled")
    config.train.jit_compile = "off"
    with graphs.none():
        training.run(MeanScaleHyperprior, config, tmp_path / "plain")
    compiled, plain = ([json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text(
        ).splitlines()] for name in ("compiled", "plain"))
    assert [line["split"] for line in plain[:3]] == ["train", "train", "validation"]
    for one, other in zip(compiled, plain, strict=True):
        assert one["split"] == other["split"]
        assert one["rd_loss"] == pytest.approx(other["rd_loss"], rel=1e-4)
        assert one.get("rd_lambda", 0) == pytest.approx(other.get("rd_lambda", 0), rel=1e-5)
