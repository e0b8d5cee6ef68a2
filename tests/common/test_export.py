"""Exported models: complete, checked, and found by name."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

import configs
import mshyper.models
from common import export
from common.cli import UserError
from factorized.models import FactorizedPrior

CONFIG = {
    "package": "factorized",
    "model": {
        "analysis": {"cls": "BLS2017Analysis", "channels": [4, 4, 6]},
        "synthesis": {"cls": "BLS2017Synthesis", "channels": [4, 4, 3]},
    },
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model = export.build(FactorizedPrior, CONFIG)
    path = tmp_path_factory.mktemp("export") / "model"
    export.save(model, CONFIG, path)
    return model, path


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved[1], tmp_path / "copy")


def test_round_trip_restores_weights_priors_and_tables(saved):
    model, path = saved
    loaded = export.load(FactorizedPrior, path)
    assert len(loaded.variables) == len(model.variables) > 10
    for a, b in zip(model.variables, loaded.variables):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(model.tables.cdfs, loaded.tables.cdfs)
    np.testing.assert_array_equal(model.tables.minima, loaded.tables.minima)
    names = {variable.name for variable in loaded.variables}
    assert any("matrix_0" in name for name in names), "the prior's density is missing"


def test_the_fingerprint_is_of_the_content(saved, tmp_path):
    model, path = saved
    assert export.save(model, CONFIG, tmp_path / "again") == export.fingerprint(path)
    weight = model.trainable_variables[0]
    before = weight.numpy()
    weight.assign_add(tf.ones_like(weight) * 1e-3)
    try:
        assert export.save(model, CONFIG, tmp_path / "other") != export.fingerprint(path)
    finally:
        weight.assign(before)


def test_a_missing_or_unreadable_checkpoint_is_an_error(copy):
    (copy / "weights.index").unlink()
    with pytest.raises(UserError, match="damaged"):
        export.load(FactorizedPrior, copy)


def test_a_flipped_bit_in_the_weights_is_an_error(copy):
    path = copy / "weights.data-00000-of-00001"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged|fingerprint"):
        export.load(FactorizedPrior, copy)


@pytest.mark.parametrize("file", ["tables.npz", "networks.npz", "weights.data-00000-of-00001"])
def test_truncated_files_are_an_error(copy, file):
    path = copy / file
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    with pytest.raises(UserError, match="damaged"):
        export.load(FactorizedPrior, copy)


def test_a_model_of_an_earlier_version_is_an_error(copy):
    (copy / "networks.npz").unlink()
    with pytest.raises(UserError, match="earlier version"):
        export.load(FactorizedPrior, copy)


def test_a_changed_config_is_an_error(copy):
    config = json.loads((copy / "config.json").read_text())
    config["model"]["analysis"]["channels"] = [4, 4, 8]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="fingerprint"):
        export.load(FactorizedPrior, copy)


def test_weights_of_another_architecture_are_an_error(saved):
    other = {**CONFIG, "model": {
        "analysis": {"cls": "BLS2017Analysis", "channels": [4, 4, 8]},
        "synthesis": {"cls": "BLS2017Synthesis", "channels": [4, 4, 3]}}}
    with pytest.raises(UserError, match="do not fit"):
        export.load_weights(export.build(FactorizedPrior, other), saved[1])


def test_non_finite_weights_are_refused_at_export_and_at_load(saved, tmp_path):
    model, path = saved
    export.save(model, CONFIG, tmp_path / "nan")
    kernel = model.analysis.trainable_variables[0]
    before = kernel.numpy()
    kernel.assign(kernel * np.nan)
    try:
        with pytest.raises(UserError, match="not finite"):
            export.save(model, CONFIG, tmp_path / "refused")
        assert not (tmp_path / "refused").exists()
        tf.train.Checkpoint(codec=model).write(str(tmp_path / "nan" / "weights"))
        with pytest.raises(UserError, match="not finite"):
            export.load_weights(export.build(FactorizedPrior, CONFIG), tmp_path / "nan")
    finally:
        kernel.assign(before)


def test_find(saved, tmp_path, monkeypatch):
    _, path = saved
    assert export.find(path) == path
    assert export.find(path.parent) == path, "a run's folder leads to its model"
    monkeypatch.setattr(configs, "ZOO_DIR", tmp_path)
    released = tmp_path / "my-codec" / "3"
    shutil.copytree(path, released)
    assert export.find("my-codec-3") == released
    with pytest.raises(UserError, match="my-codec-4.*my-codec-3"):
        export.find("my-codec-4")


def test_find_says_when_a_run_has_no_model_yet(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="no exported model yet"):
        export.find(tmp_path)


def test_wrong_model_arguments():
    with pytest.raises(UserError, match="nonsense"):
        export.build(FactorizedPrior, {**CONFIG, "model": {**CONFIG["model"], "nonsense": 1}})


def test_parts_that_do_not_fit_together():
    parts = {"analysis": {"cls": "MBT2018Analysis", "channels": [4, 4, 4, 6]},
             "synthesis": {"cls": "MBT2018Synthesis", "channels": [4, 4, 4, 3]},
             "hyper_analysis": {"cls": "HyperAnalysis", "channels": [4, 4, 4]},
             "hyper_synthesis": {"cls": "HyperSynthesis", "channels": [4, 4, 10]}}
    with pytest.raises(UserError, match="do not fit together"):
        export.build(mshyper.models.MeanScaleHyperprior, {"model": parts})
