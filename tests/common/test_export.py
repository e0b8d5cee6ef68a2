"""Exported models: complete, checked, and found by name."""

import inspect
import json
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

import configs
import joint_ar.models
import mshyper.models
from common import coding, export, runs, weights
from common.errors import UserError
from factorized.models import FactorizedPrior
from tests.helpers import format1

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


@pytest.fixture(scope="module")
def formats(tmp_path_factory):
    """The same model in each format."""
    path = tmp_path_factory.mktemp("formats") / "2"
    format1.export_again(path)
    return {1: format1.FOLDER, 2: path}


def flipped(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1:]


@pytest.mark.parametrize("damage", [
    lambda content: None, lambda content: content[:len(content) // 2], flipped],
    ids=["missing", "truncated", "flipped"])
@pytest.mark.parametrize("number, file", [
    (1, "weights.index"), (1, "weights.data-00000-of-00001"), (2, "weights.safetensors"),
    *((number, name) for number in (1, 2) for name in ("tables.npz", "networks.npz"))])
def test_damaged_files_are_an_error(formats, tmp_path, number, file, damage):
    path = shutil.copytree(formats[number], tmp_path / "copy") / file
    content = damage(path.read_bytes())
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match="damaged|fingerprint" if content else "damaged") as error:
        export.load(mshyper.models.MeanScaleHyperprior, path.parent)
    assert "\n" not in str(error.value) and str(path.parent) in str(error.value)


@pytest.mark.parametrize("changes", [
    {"module": "bits_back"}, {"package": "mshyper"},
    {"model": {**CONFIG["model"], "analysis": {"cls": "BLS2017Analysis", "channels": [4, 4, 8]}}}])
def test_a_changed_config_is_an_error(copy, changes):
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError, match="fingerprint"):
        export.load(FactorizedPrior, copy)


@pytest.mark.parametrize("text, message", [
    ("[1]", "config.json is damaged"), ("{", "config.json is damaged"),
    ('{"format": 3}', "of format 3, which a later version")])
def test_a_config_that_cannot_be_read_is_an_error(copy, text, message):
    (copy / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        export.load(FactorizedPrior, copy)


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
        with pytest.raises(UserError, match="analysis/0/kernel is not finite"):
            export.save(model, CONFIG, tmp_path / "refused")
        assert not (tmp_path / "refused").exists()
        weights.write(model, tmp_path / "nan")
        with pytest.raises(UserError, match="nan: weight analysis/0/kernel is not finite"):
            export.load_weights(export.build(FactorizedPrior, CONFIG), tmp_path / "nan")
    finally:
        kernel.assign(before)


def test_in_half_of_the_bytes_a_model_codes_as_what_was_loaded(saved, tmp_path, photo):
    model, path = saved
    image = photo[:65, :100]
    before = model.get_weights()
    fingerprint = export.save(model, CONFIG, tmp_path / "half", "float16")
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b, "training is to go on with these")
    assert fingerprint != export.fingerprint(path)
    arrays = safetensors.numpy.load_file(tmp_path / "half" / "weights.safetensors")
    assert {array.dtype.name for array in arrays.values()} == {"float16", "float32"}

    half = export.load(FactorizedPrior, tmp_path / "half")
    for name, weight in weights.named(weights.parts(half)).items():
        assert weight.dtype == tf.float32
        np.testing.assert_array_equal(weight, arrays[name].astype(np.float32))
    # Tables are those of the rounded densities: made once more, they are the same.
    tables = half.tables
    half.prepare_coding()
    np.testing.assert_array_equal(half.tables.cdfs, tables.cdfs)
    assert export.save(half, CONFIG, tmp_path / "again", "float16") == fingerprint
    # The whole weights that the file stands for have its symbols.
    assert export.save(half, CONFIG, tmp_path / "whole") != fingerprint
    whole = export.load(FactorizedPrior, tmp_path / "whole")
    streams = [coding.compress(each, image) for each in (half, whole)]
    latents = [coding.decode(each, stream)[0]["y"]
               for each, stream in zip((half, whole), streams)]
    assert len(streams[0]) == len(streams[1])
    np.testing.assert_array_equal(*latents)


def test_weights_too_large_for_half_of_the_bytes_are_refused(saved, tmp_path):
    model, _ = saved
    kernel = model.analysis.trainable_variables[0]
    before = kernel.numpy()
    kernel.assign(kernel * 0 + 1e5)
    try:
        with pytest.raises(UserError, match="too large for float16"):
            export.save(model, CONFIG, tmp_path / "refused", "float16")
        assert not [*tmp_path.iterdir()]
    finally:
        kernel.assign(before)


# --- Warm start ---------------------------------------------------------------------------------


def joint(**model):
    config = {**export.read_config(format1.FOLDER)["model"],
              "context": {"cls": "MaskedContext", "channels": 8},
              "entropy_parameters": {"cls": "EntropyParameters", "channels": [6, 4, 8]}, **model}
    return export.build(joint_ar.models.JointAutoregressive, {"model": config})


@pytest.fixture(params=[1, 2])
def start(request, formats):
    return formats[request.param]


def test_warm_start_takes_the_parts_that_both_have(start):
    model = joint()
    own = model.context.get_weights()
    assert export.warm_start(model, start) == ["context", "entropy_parameters"]
    given = format1.load()
    for part in ("analysis", "synthesis", "hyper_analysis", "hyper_synthesis", "z_prior"):
        for a, b in zip(getattr(model, part).weights, getattr(given, part).weights, strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(own, model.context.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_warm_start_leaves_transforms_of_another_class_and_their_scales_by_level(tmp_path):
    config = {**export.read_config(format1.FOLDER)["model"],
              "levels": {"count": 8, "rd_lambda": (0.001, 0.1), "scales": True}}
    given = export.build(mshyper.models.MeanScaleHyperprior, {"model": config})
    for name, weight in weights.named(weights.parts(given)).items():
        if name.startswith("levels/"):
            weight.assign(weight + 0.25)
    export.save(given, {"package": "mshyper", "model": config}, tmp_path / "model")
    model = export.build(mshyper.models.MeanScaleHyperprior, {"model": {
        **config, "synthesis": {"cls": "TwoLayerResSynthesis", "channels": [4, 3]}}})
    assert export.warm_start(model, tmp_path / "model") == ["synthesis"]
    own, theirs = (weights.named(weights.parts(each)) for each in (model, given))
    for name, weight in own.items():
        if name.startswith("levels/synthesis."):
            assert np.all(weight == 0)
        elif not name.startswith("synthesis/"):
            np.testing.assert_array_equal(weight, theirs[name])


def test_warm_start_tells_of_settings_that_shapes_do_not_show(start):
    base = export.read_config(start)["model"]

    def said(**changes):
        config = {**base, **changes}
        model = export.build(mshyper.models.MeanScaleHyperprior, {"model": config})
        return export.other_settings(model, config, start)

    parameters = inspect.signature(mshyper.models.MeanScaleHyperprior).parameters
    default = parameters["pixel_range"].default
    assert said() == said(pixel_range=default) == said(pixel_range=[*default]) == []
    other = {**base["hyper_analysis"], "activation": "relu"}
    levels = {"count": 8, "rd_lambda": (0.001, 0.1), "scales": True}
    assert base["hyper_analysis"]["activation"] == "leaky_relu" and "levels" not in base
    assert said(hyper_analysis=other, scale_output="exp_index", pixel_range=(0, 1)) == [
        "hyper_analysis.activation is leaky_relu there and relu here",
        "pixel_range is [-0.5, 0.5] there and [0, 1] here",
        "scale_output is log_scale there and exp_index here"]
    assert said(levels=levels) == [], "levels may be added"
    # A transform of another class is fresh.
    assert said(synthesis={**base["synthesis"], "cls": "CNNSynthesis"}) == []


def test_warm_start_tells_of_levels_that_are_left_out(start, tmp_path):
    base = export.read_config(start)["model"]
    levels = {"count": 8, "rd_lambda": (0.001, 0.1), "scales": True}
    config = {**base, "levels": levels}
    given = export.build(mshyper.models.MeanScaleHyperprior, {"model": config})
    export.save(given, {**export.read_config(start), "model": config}, tmp_path / "model")
    for changes, lines in (
            ({}, []), ({"count": 20}, []),
            ({"rd_lambda": (0.001, 0.2), "scales": False}, [
                "levels.rd_lambda is [0.001, 0.1] there and [0.001, 0.2] here",
                "levels.scales is True there and False here"])):
        own = {**base, "levels": {**levels, **changes}}
        assert export.other_settings(given, own, tmp_path / "model") == lines
    line, = export.other_settings(given, base, tmp_path / "model")
    assert line.startswith("levels are there and not here")


def test_warm_start_refuses_other_shapes_and_other_parts(start):
    wider = {"cls": "HyperAnalysis", "channels": [2, 5, 3], "activation": "leaky_relu"}
    with pytest.raises(UserError, match="its weights do not fit the model"):
        export.warm_start(joint(hyper_analysis=wider), start)
    other = tf.keras.Model()
    other.own = tf.keras.layers.Dense(1)
    other.own(tf.zeros([1, 1]))
    with pytest.raises(UserError, match=r"none of the parts of this model \(own\)"):
        export.warm_start(other, start)


def test_warm_start_refuses_weights_that_are_not_finite(start, tmp_path):
    path = shutil.copytree(start, tmp_path / "nan")
    model = export.load(mshyper.models.MeanScaleHyperprior, start)
    model.synthesis.trainable_variables[0].assign(
        model.synthesis.trainable_variables[0] * np.inf)
    if (path / weights.FILE).exists():
        weights.write(model, path)
    else:
        tf.train.Checkpoint(codec=model).write(str(path / "weights"))
    with pytest.raises(UserError, match="weight synthesis/0/kernel is not finite"):
        export.warm_start(joint(), path)


# --- By name ------------------------------------------------------------------------------------


def test_find(saved, tmp_path, monkeypatch):
    _, path = saved
    assert export.find(path) == path
    assert export.find(path.parent) == path, "a run's folder leads to its model"
    monkeypatch.setattr(configs, "ZOO_DIR", tmp_path)
    released = tmp_path / "my-codec" / "3"
    shutil.copytree(path, released)
    assert export.find("my-codec-3") == released
    alone = shutil.copytree(path, tmp_path / "codec")
    assert export.find("codec") == alone
    assert export.released_models() == {"codec": alone, "my-codec-3": released}
    with pytest.raises(UserError, match="my-codec-4.*my-codec-3"):
        export.find("my-codec-4")


def test_an_experiment_with_one_run_is_a_model(saved, tmp_path):
    _, path = saved
    experiment = tmp_path / "mine"
    with pytest.raises(UserError, match="no model"):
        export.find(experiment)
    model = pathlib.Path(shutil.copytree(path, experiment / "wid=2-a/model"))
    assert export.find(experiment) == export.find(f"{experiment}/") == model
    # To start from, also for a run of no entry of a sweep.
    for workdir in "wid=2-b", "wid=0-b":
        assert runs.find_model("key", str(experiment), pathlib.Path(workdir)) == model
    with pytest.raises(UserError, match="should have one run wid=1-.*found: none"):
        runs.find_model("key", str(experiment), pathlib.Path("wid=1-b"))
    (experiment / "wid=3-c").mkdir()
    with pytest.raises(UserError, match="experiment of 2 runs; name one of them: .*wid=2-a, .*3-c"):
        export.find(experiment)


def test_find_says_when_a_run_has_no_model_yet(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="no exported model yet"):
        export.find(tmp_path)
