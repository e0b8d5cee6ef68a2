"""`python -m convert`, and what can be done with its models."""

import numpy as np
import pytest
import tensorflow as tf

import convert
from common import export, methods, quantizers, refinement, tiles
from common.errors import UserError
from common.objectives import Objective
from convert.__main__ import main
from mshyper.models import MeanScaleHyperprior
from tests.helpers.convert import torch_writer
from tests.helpers.convert.compressai_states import STATES
from tests.helpers.convert.models import load


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("zoo") / "mbt2018-mean-4-e522738d.pth.tar"
    torch_writer.write(path, STATES["mbt2018-mean"])
    return path


@pytest.fixture(scope="module")
def model(checkpoint, tmp_path_factory):
    return load(checkpoint, tmp_path_factory.mktemp("models") / "mean")


def fails(capsys, *arguments):
    """The one line that the command ends with."""
    with pytest.raises(SystemExit) as error:
        main([*map(str, arguments)])
    assert error.value.code == 2
    line, = capsys.readouterr().err.strip().splitlines()[-1:]
    return line


def test_command(checkpoint, tmp_path, capsys):
    output = tmp_path / "new" / "model"
    main([str(checkpoint), "--output", str(output)])
    said = capsys.readouterr().out
    assert "CompressAI's mbt2018-mean, as mshyper.models" in said
    assert export.fingerprint(output) in said
    config = export.read_config(output)
    assert config["train"] == {"distortion": "mse", "rd_lambda": 0.013}
    assert config["source"]["file"] == checkpoint.name
    assert "--force replaces a model" in fails(capsys, checkpoint, "--output", output)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").touch()
    assert "--force replaces models only" in fails(
        capsys, checkpoint, "--output", precious, "--force")
    assert (precious / "thesis.txt").exists()
    main([str(checkpoint), "--output", str(output), "--force", "--rd_lambda", "0.5"])
    assert export.read_config(output)["train"]["rd_lambda"] == 0.5


def test_lambda_is_asked_for(checkpoint, tmp_path, capsys):
    other = tmp_path / "best.pth.tar"
    other.write_bytes(checkpoint.read_bytes())
    assert "give --rd_lambda" in fails(capsys, other, "--output", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_other_files_are_refused(tmp_path, capsys):
    torch_writer.write(tmp_path / "other.pt", {"conv1.weight": np.zeros((4, 3, 7, 7), np.float32)})
    assert "architecture that is not known" in fails(
        capsys, tmp_path / "other.pt", "--output", tmp_path / "model")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert "not a checkpoint of TensorFlow" in fails(
        capsys, tmp_path / "photo.png", "--output", tmp_path / "model")
    assert "no such file" in fails(capsys, tmp_path / "none", "--output", tmp_path / "model")
    assert "CHECKPOINT and --output" in fails(capsys, tmp_path / "none")
    assert not (tmp_path / "model").exists()


def test_list_names_all_models(capsys):
    main(["--list"])
    said = capsys.readouterr().out
    for name in ("CompressAI", "cheng2020-attn", "two_layer_syn2", "high-fidelity", "mbt2018_bb",
                 "bmshj2018"):
        assert name in said


def test_a_damaged_model_leaves_nothing(checkpoint, tmp_path, capsys):
    state = dict(STATES["mbt2018-mean"])
    state["g_s.0.bias"] = np.full_like(state["g_s.0.bias"], np.nan)
    torch_writer.write(tmp_path / "nan.pth", state)
    fails(capsys, tmp_path / "nan.pth", "--output", tmp_path / "model", "--rd_lambda", "0.01")
    assert not (tmp_path / "model").exists()


def test_refinement_of_an_imported_model(model, image):
    method = methods.method("sga")
    method.num_steps = 120
    pixels = np.round(255 * image).astype(np.uint8)
    refiner = refinement.Refiner(model, method, Objective(0.013))
    loss = {}
    for name, latents in (("before", model.infer(pixels[None])),
                          ("after", refiner.infer(model, pixels, None))):
        generated = model.generate(latents, quantizers.Round())
        bits = sum(float(tf.reduce_sum(bits)) for bits in generated.bits.values())
        error = np.mean((255 * (np.asarray(generated.x_hat)[0] - image))**2)
        loss[name] = bits / image[..., 0].size + 0.013 * error
    assert loss["after"] < loss["before"]


def test_an_imported_model_in_tiles(model, image, monkeypatch):
    whole = model.infer(image[None])
    picture = model.to_image(tf.round(whole["y"]))
    monkeypatch.setattr(tiles, "SIDE", 32)
    monkeypatch.setattr(tiles, "LATENT_SIDE", 4)
    parts = model.infer(image[None])
    for name in "y", "z":
        np.testing.assert_allclose(parts[name], whole[name], atol=1e-4)
    np.testing.assert_allclose(model.to_image(tf.round(whole["y"])), picture, atol=1e-4)


def test_training_goes_on_from_an_imported_model(checkpoint, tmp_path):
    convert.save(convert.read(checkpoint), checkpoint, tmp_path / "model")
    fresh = export.build(MeanScaleHyperprior, export.read_config(tmp_path / "model"))
    assert export.warm_start(fresh, tmp_path / "model") == []
    kernel = STATES["mbt2018-mean"]["g_a.0.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(fresh.analysis.layers[0].kernel, kernel)


def test_reading_what_is_missing(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        convert.read(tmp_path / "none.pth")
