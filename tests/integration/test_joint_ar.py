"""joint_ar with the same commands as the other models: train, evaluate, compress, decompress."""

import csv
import json

import numpy as np
import pytest
import tensorflow as tf

import codec
import evaluate
from common import coding, export, images, quantizers, sweeps, training, validation, zoo
from common.errors import UserError
from joint_ar import models
from joint_ar.configs import gated, masked_stack, mbt2018, small
from joint_ar.models import JointAutoregressive
from tests.helpers import graphs, tiny


def tiny_config(module=small):
    config = module.get_config()
    mean_scale = tiny.tiny_config()
    for name in ("analysis", "synthesis", "hyper_analysis", "hyper_synthesis"):
        config.model[name].channels = mean_scale.model[name].channels
    config.model.entropy_parameters.channels = (20, 16, 24)
    config.model.context.channels = (8, 24) if module is masked_stack else 24
    if module is gated:
        config.model.context.update(latents=12, width=8, blocks=1)
    config.data = mean_scale.data
    config.train = mean_scale.train
    config.train.num_steps = 5
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("experiments") / "joint" / "wid=0-tiny"
    config = tiny_config()
    config.data.validation = ""
    with graphs.none():
        training.run(JointAutoregressive, config, workdir)
    return workdir


def parameters(model):
    """Of convolutions: kernels and biases, masked taps included."""
    return sum(int(tf.size(weight)) for layer in model._flatten_layers() if hasattr(layer, "kernel")
               for weight in (layer.kernel, layer.bias) if weight is not None)


def test_two_weights_measure_rates_as_validation_does(run, monkeypatch):
    # All passes of the context would take longer than the step that they are a part of.
    config, model, seen = tiny_config(), zoo.load(run / "model"), []
    config.train.update(rate_target=0.3, rate_control=dict(cls="TwoWeights", above=1.0))
    trainer = training.Trainer(model, config, tf.keras.optimizers.SGD(0.0))
    generate = model.generate
    monkeypatch.setattr(
        model, "generate",
        lambda *args, **more: seen.append(args[1].passes) or generate(*args, **more))
    measured = trainer.update_codec(tf.random.stateless_uniform([1, 64, 64, 3], [1, 2]))
    assert seen == [None, validation.QUANTIZER.passes] and seen[1] is not None
    assert float(measured["rate_weight"]) in (2.0, 0.125)


@pytest.mark.parametrize("latents, expected", [(192, 13_896_419), (320, 25_270_548)])
def test_parameters_are_the_papers(latents, expected):
    config = mbt2018.get_config()
    if latents == 320:
        assert mbt2018.get_hyper()[0]["train.rd_lambda"] == 0.08
        sweeps.apply(config, mbt2018.get_hyper(), 0)
    model = export.build(JointAutoregressive, config.to_dict())
    assert parameters(model) == expected
    parts = {name: parameters(getattr(model, name)) for name in ("context", "entropy_parameters")}
    if latents == 192:
        assert parts == {"context": 1_843_584, "entropy_parameters": 1_017_344}


@pytest.mark.parametrize("height, width", [(1, 1), (1, 65), (67, 131), (127, 129)])
def test_files_of_odd_sizes(run, photo, height, width):
    model = zoo.load(run)
    image = photo[50:50 + height, 100:100 + width]
    ntc = coding.compress(model, image)
    decoded = coding.decompress(model, ntc)
    tiny.assert_pictures_agree(decoded, model(image[None] / np.float32(255)).x_hat[0])


def test_commands(run, tiny_run, tmp_path, photo, capsys):
    images.write(tmp_path / "photo.png", photo[:96, :128])
    codec.main(["compress", "--model", str(run), str(tmp_path / "photo.png")])
    codec.main(["decompress", "--model", str(run), str(tmp_path / "photo.ntc"),
                str(tmp_path / "out.png")])
    assert images.read(tmp_path / "out.png").shape == (96, 128, 3)
    codec.main(["benchmark", "--model", str(run), "--dataset", str(tmp_path / "photo.png"),
                "--output", str(tmp_path / "b")])
    row = json.loads((tmp_path / "b.json").read_text())["rows"][0]
    assert row["bytes"] <= 1.005 * row["estimated_bpp"] * 96 * 128 / 8 + 20
    assert row["encoding_time.context"] > 0 and row["decoding_time.context"] > 0
    evaluate.main(["--runs", str(run), str(tiny_run), "--dataset", str(tmp_path / "photo.png"),
                   "--output", str(tmp_path / "results")])
    path, = (tmp_path / "results").rglob("curves.csv")
    with open(path) as file:
        points = {point["curve"]: point for point in csv.DictReader(file)}
    assert float(points["joint"]["encoding_time.context"]) > 0
    assert points["tiny"]["encoding_time.context"] == ""  # it has no such part


def test_corruption_of_any_byte_is_reported(run, photo):
    model = zoo.load(run)
    ntc = coding.compress(model, photo[:64, :64])
    assert len(ntc) > 30
    for position in range(len(ntc)):
        for bit in range(8):
            damaged = bytearray(ntc)
            damaged[position] ^= 1 << bit
            with pytest.raises(UserError):
                coding.decompress(model, bytes(damaged))


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_warm_start_takes_what_the_models_share(run, tiny_model, tmp_path, capsys):
    config = tiny_config()
    config.train.warm_start = str(tiny_model)
    config.train.num_steps = 1
    config.train.optimizer.learning_rate = 1e-12
    training.run(JointAutoregressive, config, tmp_path / "run")
    assert "fresh: context, entropy_parameters" in capsys.readouterr().out
    model, given = zoo.load(tmp_path / "run"), zoo.load(tiny_model)
    for part in ("analysis", "synthesis", "hyper_analysis", "hyper_synthesis", "z_prior"):
        for a, b in zip(getattr(model, part).weights, getattr(given, part).weights):
            np.testing.assert_allclose(a, b, atol=1e-6)
    config.model.analysis.channels = (8, 8, 10, 12)
    with pytest.raises(UserError, match="do not fit"):
        training.run(JointAutoregressive, config, tmp_path / "other")


@pytest.mark.parametrize("part, transform, message", [
    ("entropy_parameters",
     dict(cls="EntropyParameters", channels=(20, 16, 24), activation="gelu"), "gelu"),
    ("context", dict(cls="EntropyParameters", channels=(20, 16, 24)), "not causal"),
])
def test_what_cannot_be_coded_is_not_trained(tmp_path, part, transform, message):
    config = tiny_config()
    with config.unlocked():
        config.model[part] = transform
    with pytest.raises(UserError, match=message):
        training.run(JointAutoregressive, config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
@pytest.mark.parametrize("module", [gated, masked_stack])
def test_other_contexts_train_and_code(module, tmp_path, photo):
    config = tiny_config(module)
    config.data.validation = ""
    config.train.num_steps = 1
    path = training.run(JointAutoregressive, config, tmp_path / "run")
    model = export.load(JointAutoregressive, path)
    image = photo[50:97, 100:163]
    row, decoded = coding.measure(model, image)
    assert decoded.shape == image.shape
    assert abs(row["integer_bpp"] / row["estimated_bpp"] - 1) < 0.005


def test_what_is_said_of_y_may_have_any_width(tmp_path, photo):
    config = tiny_config()
    config.model.hyper_synthesis.channels = (8, 8, 20)  # y has 12 channels
    model = export.build(JointAutoregressive, config.to_dict())
    export.save(model, {**config.to_dict(), "package": "joint_ar", "module": "models"}, tmp_path)
    model = zoo.load(tmp_path)
    image = photo[50:117, 100:231]
    assert coding.decompress(model, coding.compress(model, image)).shape == image.shape


@pytest.mark.parametrize("name, passes", [
    ("UniformNoise", 1), ("Mixed", 4), ("SoftRound", 4), ("StraightThrough", 4)])
def test_in_training_the_context_sees_what_the_decoder_gets(run, photo, name, passes):
    model = zoo.load(run)
    seen, context, coded = [], model.context, []
    model.context = lambda y: (seen.append(y), context(y))[1]
    table = model.y_prior.table
    bits = table.bits
    table.bits = lambda value, index: (coded.append(value), bits(value, index))[1]
    quantizer = quantizers.for_training(dict(cls=name), tf.constant([1, 2]), 3, 10)
    latents = model.infer(photo[None, :64, :64] / np.float32(255))
    generated = model.generate(latents, quantizer)
    assert len(seen) == passes and len(coded) == 1
    psi = model.hyper_synthesis(quantizer(latents["z"], model.z_prior.offset, "z")[1])
    mean = model.y_prior.given(model.entropy_parameters(
        tf.concat([context(seen[-1]), psi[:, :4, :4]], axis=-1)), continuous=True).offset
    np.testing.assert_allclose(seen[-1], generated.latents["y"], atol=1e-6)
    rate, _ = quantizer(latents["y"], generated.offsets["y"], "y")
    np.testing.assert_allclose(rate - mean, coded[0], atol=1e-6)
    assert np.std(seen[-1] - latents["y"]) > 0.1


def test_grids_have_no_gradient_in_training(run, photo):
    # Soft rounding's values depend on where the grid lies; learning would move it to fit them.
    model = zoo.load(run)
    quantizer = quantizers.for_training(dict(cls="SoftRound"), tf.constant([1, 2]), 3, 10)
    latents = model.infer(photo[None, :64, :64] / np.float32(255))
    with tf.GradientTape() as tape:
        tape.watch(latents)
        offset = model.generate(latents, quantizer).offsets["y"]
    assert tape.gradient(offset, latents["y"]) is None


def test_training_rounds_nearer_to_a_serial_decoder_with_more_passes(run, photo, monkeypatch):
    model = zoo.load(run)
    latents = model.infer(photo[None, :96, :96] / np.float32(255))
    latents["y"] *= 20  # so that means follow from more than z
    serial = model.generate(latents, quantizers.Round()).latents["y"]
    others = []
    for passes in (1, models._TRAINING_PASSES):
        monkeypatch.setattr(models, "_TRAINING_PASSES", passes)
        y = model.generate(latents, quantizers.StraightThrough()).latents["y"]
        others.append(np.mean(np.abs(y - serial) > 0.01))
    assert 0 < others[1] < 0.8 * others[0]


def test_quantisation_in_few_passes_is_near_that_in_all(run, photo):
    model = zoo.load(run)
    latents = model.infer(photo[None, :96, :96] / np.float32(255))
    latents["y"] *= 20  # so that means follow from more than z
    whole, capped, one = (model.generate(latents, quantizers.Round(passes)).latents["y"]
                          for passes in (None, 22, 1))  # 21 wavefronts are all
    np.testing.assert_array_equal(whole, capped)
    assert 0 < np.mean(np.abs(whole - one) > 0.01) < 0.9
    assert np.max(np.abs(whole - one)) < 2
