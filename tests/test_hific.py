"""HiFiC: its parts against the paper, its losses by hand, and who trains whom."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf

import mshyper.models
from common import config_files, data, export, lpips, optimizers, training, transforms
from common.errors import UserError
from common.training_loop import TrainingLoop
from common.transforms.layers import ChannelNorm, InstanceNorm
from hific import adversarial, regimes
from hific.models import HiFiC
from tests.helpers.tiny import photographs


def tiny_config(stage=regimes.stage2):
    config = stage("med", "cpu")
    config.model.analysis.channels = (3, 4, 5, 6, 7, 8)
    config.model.synthesis.update(channels=(7, 6, 5, 4, 3, 3), blocks=1)
    config.model.hyper_analysis.channels = (6, 6, 6)
    config.model.hyper_synthesis.channels = (6, 6, 8)
    if "adversarial" in config.train:
        config.train.adversarial.channels = (6, 6, 6, 8)
    config.train.optimizer = dict(cls="Adam", learning_rate=1e-3)
    config.data.update(patch_size=64, batch_size=2, validation=photographs())
    config.train.update(num_steps=2, log_interval=1, checkpoint_interval=1)
    return config


def make_trainer(codec, config):
    return adversarial.make_trainer(codec, config, optimizers.build(config.train.optimizer, 1e-3))


@pytest.fixture(scope="module")
def shared_trainer(lpips_weights):
    tf.keras.utils.set_random_seed(0)
    config = tiny_config()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lpips, "network", lambda: lpips.Lpips.load(lpips_weights))
        return make_trainer(export.build(HiFiC, config.to_dict()), config)


@pytest.fixture
def trainer(shared_trainer, lpips_network):
    """As it was made, whatever other tests did to it."""
    optimizer, weight = shared_trainer.optimizer, shared_trainer._weight
    start = values(shared_trainer)
    yield shared_trainer
    shared_trainer.optimizer, shared_trainer._weight = optimizer, weight
    for variable, value in zip(shared_trainer.variables, start):
        variable.assign(value)


@pytest.fixture
def batch(photo):
    """Two different crops for the discriminator, two for the codec."""
    return data.to_float(np.stack([photo[64 * i:64 * i + 64, 100:164] for i in range(4)]))


# --- The parts --------------------------------------------------------------------------------


def parameters(layer):
    return sum(int(np.prod(variable.shape)) for variable in layer.trainable_variables)


@pytest.mark.parametrize("part, channels, expected", [
    ("analysis", 3, 7_423_420),
    ("synthesis", 220, 156_774_683),
    ("hyper_analysis", 220, 5_754_560),
    ("hyper_synthesis", 320, 2 * 5_754_460)])
def test_parameters_are_the_papers(part, channels, expected):
    with tf.Graph().as_default():  # in which no weight gets a value
        transform = transforms.build(regimes.stage1("low").model[part])
        transform(tf.zeros([1, 16, 16, channels]))
    assert parameters(transform) == expected


def test_parameters_of_the_discriminator_are_googles():
    arguments = dict(regimes.ADVERSARIAL)
    discriminator = adversarial.Discriminator(
        channels=arguments["channels"], latent_channels=arguments["latent_channels"])
    logits = discriminator((tf.zeros([1, 64, 64, 3]), tf.zeros([1, 4, 4, 220])))
    assert parameters(discriminator) == 2_800_797
    # 1024 for a crop of 256 pixels.
    assert logits.shape == (1, 8, 8, 1)


def test_regimes_are_the_papers():
    for regime, target, above in (("low", 0.14, 2.0), ("med", 0.30, 1.0), ("high", 0.45, 0.5)):
        for stage in (1, 2):
            config = config_files.load(
                f"hific/configs/stage{stage}_{regime}.py").get_config()
            train = config.train
            assert (train.rate_target, train.rate_control.above) == (target, above)
            assert train.rate_control.below == 0.0625
            assert (train.rd_lambda, train.lpips_weight) == (0.00234375, 1.0)
            assert ("adversarial" in train) == (stage == 2)
            assert train.num_steps == 1_000_000 and config.data.batch_size == 8
    assert train.adversarial.weight == 0.15


def test_norms():
    x = np.random.default_rng(0).normal(3, 2, [2, 4, 5, 6]).astype(np.float32)
    mean, variance = np.mean(x, -1, keepdims=True), np.var(x, -1, ddof=1, keepdims=True)
    np.testing.assert_allclose(ChannelNorm()(x), (x - mean) / np.sqrt(variance + 1e-3), atol=1e-5)
    mean, variance = (f(x, (1, 2), keepdims=True) for f in (np.mean, np.var))
    np.testing.assert_allclose(InstanceNorm()(x), (x - mean) / np.sqrt(variance + 1e-3), atol=1e-5)


def test_mistakes_in_the_model():
    for key, value, words in (("likelihood", "laplace", "unknown likelihood 'laplace'"),
                              ("analysis", dict(cls="HiFiCAnalysis", norm="batch"),
                               "unknown norm 'batch'")):
        config = tiny_config().to_dict()
        config["model"][key] = value
        with pytest.raises(UserError, match=words):
            export.build(HiFiC, config)


# --- The discriminator ------------------------------------------------------------------------


def test_the_adversarial_loss_begins_at_its_start(trainer):
    config = tiny_config()
    config.train.adversarial.start = 2
    trainer = make_trainer(trainer.codec, config)
    x, y = tf.zeros([1, 64, 64, 3]), tf.zeros([1, 4, 4, 8])
    for step, weight in (0, 0.0), (1, 0.0), (2, 0.15), (3, 0.15):
        trainer.optimizer.iterations.assign(step)
        loss, measured = trainer.additional_loss(x, x, y)
        assert float(loss) == pytest.approx(weight * float(measured["g_loss"]), abs=1e-7)


def test_latents_learn_nothing_from_being_judged_with(trainer, batch):
    y_hat = tf.random.stateless_normal([2, 4, 4, 8], [1, 2])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([batch, y_hat])
        loss, _ = trainer.additional_loss(batch[:2], batch[2:], y_hat)
    assert np.any(tape.gradient(loss, batch))
    assert tape.gradient(loss, y_hat) is None


def test_the_discriminators_rate_follows_the_schedule(trainer):
    config = tiny_config()
    config.train.schedule = dict(cls="WarmupDrop", warmup=0.0, drop_at=0.5, drop_factor=0.1)
    config.train.num_steps = 4
    trainer = make_trainer(trainer.codec, config)
    first = float(trainer.discriminator_optimizer.learning_rate)
    trainer.discriminator_optimizer.iterations.assign(3)
    rate = trainer.discriminator_optimizer._learning_rate
    assert [float(rate(0)), float(rate(3))] == pytest.approx([first, first / 10])


def test_mistakes_in_the_section_of_the_discriminator(trainer):
    for change, words in (
            (lambda section: section.update(channel=(4, 4)), "no channel; did you mean channels"),
            (lambda section: section.update(start=-1), "start is -1"),
            (lambda section: section.__delattr__("weight"), "train.adversarial: it needs weight")):
        config = tiny_config()
        with config.train.adversarial.unlocked():
            change(config.train.adversarial)
        with pytest.raises(UserError, match=words):
            make_trainer(trainer.codec, config)


def test_the_discriminator_learns_that_texture_is_missing():
    """In images whose mean is 20 times their contrast. Not centred, they stay at 1.386."""
    tf.keras.utils.set_random_seed(0)
    texture = np.random.default_rng(0).normal(0, 0.025, [8, 64, 64, 3]).astype(np.float32)
    both = 0.5 + tf.concat([texture, tf.nn.avg_pool2d(texture, 3, 1, "SAME")], axis=0)
    discriminator = adversarial.Discriminator(16, (8, 16, 16, 16), 2)
    inputs = both, tf.zeros([16, 4, 4, 4])
    discriminator(inputs)
    optimizer = tf.keras.optimizers.Adam(1e-3)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            logits = discriminator(inputs, training=True)
            loss = adversarial.discriminator_losses(*tf.split(logits, 2))["d_loss"]
        weights = discriminator.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights))
        return loss

    losses = [float(step()) for _ in range(100)]
    assert abs(losses[0] - 1.386) < 0.01 and losses[-1] < 0.7


def test_kernels_have_spectral_norm_one_and_gradients_know():
    layer = adversarial.SpectralConv2D(6, 3, kernel_initializer="glorot_normal")
    x = tf.constant(np.random.default_rng(0).normal(0, 1, [2, 8, 8, 4]), tf.float32)
    layer(x)
    layer.kernel.assign(layer.kernel * 5)
    left = layer.left.numpy()
    layer(x, training=False)
    np.testing.assert_array_equal(layer.left, left)
    for _ in range(200):
        layer(x, training=True)
    sigma = np.linalg.svd(layer.kernel.numpy().reshape(-1, 6), compute_uv=False)[0]
    expected = tf.nn.conv2d(x, layer.kernel / sigma, 1, "VALID")
    np.testing.assert_allclose(layer(x), expected, rtol=1e-3, atol=1e-4)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(x)**3)
    gradient = tape.gradient(loss, layer.kernel)
    # The output does not depend on the kernel's length.
    along = tf.reduce_sum(gradient * layer.kernel) / tf.norm(gradient) / tf.norm(layer.kernel)
    assert abs(float(along)) < 1e-3 and float(tf.norm(gradient)) > 0


def test_each_image_is_judged_with_its_own_latents(trainer):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.uniform(0, 1, [3, 64, 64, 3]), tf.float32)
    y = tf.constant(rng.normal(0, 3, [3, 4, 4, 8]), tf.float32)
    together = trainer.discriminator((x, y))
    for i in range(3):
        alone = trainer.discriminator((x[i:i + 1], y[i:i + 1]))
        np.testing.assert_allclose(together[i:i + 1], alone, atol=1e-6)
    others = trainer.discriminator((x, tf.roll(y, 1, axis=0)))
    assert np.max(np.abs(together - others)) > 1e-5


def test_latents_lie_where_their_pixels_are(trainer):
    # The logit of a corner sees the latents of that corner.
    x, y = tf.zeros([1, 256, 256, 3]), np.zeros([1, 16, 16, 8], np.float32)
    y[:, 15, 0] = 9
    changed = np.abs(trainer.discriminator((x, y)) - trainer.discriminator((x, 0 * y)))[0, ..., 0]
    assert changed[-1, 0] > 0 and np.all(changed[:12] == 0) and np.all(changed[:, 20:] == 0)


def test_pairs_of_a_training_step(trainer, batch, monkeypatch):
    seen, judge = [], trainer.discriminator.call

    def call(inputs, training=False):
        seen.append((*inputs, training))
        return judge(inputs, training)

    monkeypatch.setattr(trainer.discriminator, "call", call)
    trainer.optimizer = tf.keras.optimizers.SGD(0.0)  # the codec stays what it is
    first, second = tf.split(batch, 2)
    measured = trainer.train_step(batch)
    (x, y, training_first), (x_hat, y_hat, training_second) = seen
    assert training_first and not training_second
    np.testing.assert_array_equal(x[:2], first)
    np.testing.assert_array_equal(y[:2], y[2:])
    # Reconstructions come with the rounded latents that they were made of, image by image.
    for originals, made, latents in ((first, x[2:], y[2:]), (second, x_hat, y_hat)):
        inferred = trainer.codec.infer(originals)["y"]
        assert 0 < np.max(np.abs(latents - inferred)) <= 0.5 + 1e-5
        for i in range(2):
            np.testing.assert_allclose(
                trainer.codec.to_image(latents[i:i + 1]), made[i:i + 1], atol=1e-5)
    logits = judge((x_hat, y_hat))
    assert float(measured["g_loss"]) == pytest.approx(float(adversarial.codec_loss(logits)))
    assert {"d_loss", "d_real", "d_fake"} < measured.keys()


def test_losses_by_hand():
    real, fake = tf.constant([[0.0, 2.0]]), tf.constant([[-1.0, 0.5]])

    def log_sigmoid(v):
        return -math.log1p(math.exp(-v))

    found = adversarial.discriminator_losses(real, fake)
    expected = (-(log_sigmoid(0) + log_sigmoid(2)) / 2
                - (log_sigmoid(1) + log_sigmoid(-0.5)) / 2)
    assert float(found["d_loss"]) == pytest.approx(expected)
    assert float(found["d_real"]) == pytest.approx((0.5 + math.exp(log_sigmoid(2))) / 2)
    assert float(found["d_fake"]) == pytest.approx(
        (math.exp(log_sigmoid(-1)) + math.exp(log_sigmoid(0.5))) / 2)
    assert float(adversarial.codec_loss(fake)) == pytest.approx(
        -(log_sigmoid(-1) + log_sigmoid(0.5)) / 2)


# --- Training ---------------------------------------------------------------------------------


def values(model):
    return [variable.numpy() for variable in model.variables]


def changed(before, model):
    return [not np.array_equal(a, b) for a, b in zip(before, values(model))]


def test_each_update_changes_its_own_side_alone(trainer, batch):
    codec, discriminator = values(trainer.codec), values(trainer.discriminator)
    trainer.update_discriminator(batch[:2])
    assert not any(changed(codec, trainer.codec))
    assert all(changed(discriminator, trainer.discriminator))
    discriminator = values(trainer.discriminator)
    measured = trainer.update_codec(batch[2:])
    assert not any(changed(discriminator, trainer.discriminator))
    still = [variable.name for variable, moved in zip(
        trainer.codec.variables, changed(codec, trainer.codec))
        if variable.trainable and not moved]
    assert not still
    assert float(measured["g_loss"]) > 0


def test_the_discriminators_loss_is_a_part_of_the_codecs(trainer, batch):
    start, ends = values(trainer.codec), []
    trainer.optimizer = tf.keras.optimizers.SGD(1e-3)
    for trainer._weight in (0.0, 100.0):
        for variable, value in zip(trainer.codec.variables, start):
            variable.assign(value)
        trainer.update_codec(batch[2:])
        ends.append(trainer.codec.synthesis.get_weights())
    assert max(np.max(np.abs(a - b)) for a, b in zip(*ends)) > 1e-6


@pytest.mark.slow
def test_a_step_compiles_with_xla(trainer, batch):
    step = tf.function(trainer.train_step, jit_compile=True, autograph=False)
    # Machine code of it, which takes a minute to make, is XLA's own business.
    assert "convolution" in step.experimental_get_compiler_ir(batch)(stage="hlo")


def test_the_codec_learns_from_the_discriminator(trainer, batch):
    gradients = []
    for weight in (0.0, 100.0):
        trainer._weight = weight
        with tf.GradientTape() as tape:
            generated = trainer.codec(batch[:2])
            loss, _ = trainer.additional_loss(
                batch[:2], generated.x_hat, tf.zeros([2, 4, 4, 8]))
        gradients.append(tape.gradient(loss, trainer.codec.synthesis.trainable_variables))
    assert all(np.all(g == 0) for g in gradients[0])
    assert any(np.max(np.abs(g)) > 0 for g in gradients[1])


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_stage_one_starts_from_a_hyperprior_and_stage_two_from_stage_one(
        tmp_path, lpips_network, capsys):
    config = tiny_config(regimes.stage1)
    arguments = config.to_dict()
    del arguments["model"]["likelihood"]
    tf.keras.utils.set_random_seed(1)
    hyperprior = export.build(mshyper.models.MeanScaleHyperprior, arguments)
    export.save(hyperprior, {**arguments, "package": "mshyper"}, tmp_path / "hyperprior")
    for name, stage, start, num_steps in (("one", regimes.stage1, "hyperprior", 2),
                                          ("two", regimes.stage2, "one", 1)):
        config = tiny_config(stage)
        config.train.update(warm_start=str(tmp_path / start), num_steps=num_steps)
        config.train.optimizer.learning_rate = 0.0
        training.run(HiFiC, config, tmp_path / name, adversarial.make_trainer)
        assert "fresh: nothing" in capsys.readouterr().out
        found = export.load(HiFiC, tmp_path / name / "model")
        for a, b in zip(found.trainable_variables, hyperprior.trainable_variables):
            np.testing.assert_array_equal(a, b)
    # Its schedules begin anew, and only stage two has a discriminator.
    checkpoints = [tf.train.load_checkpoint(str(tmp_path / name / "checkpoints"))
                   for name in ("one", "two")]
    names = [{key.split("/")[0] for key in checkpoint.get_variable_to_shape_map()}
             for checkpoint in checkpoints]
    assert "discriminator" in names[1] - names[0]
    assert [int(c.get_tensor("optimizer/_iterations/.ATTRIBUTES/VARIABLE_VALUE"))
            for c in checkpoints] == [2, 1]
    # What was trained for a rate knows the weight that this took.
    assert export.read_config(tmp_path / "one/model")["train"]["rate_weight"] > 0


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, lpips_network, without_graphs):
    config = tiny_config()
    config.data.validation = ""
    training.run(HiFiC, config, tmp_path / "whole", adversarial.make_trainer)
    end_interval = TrainingLoop.end_interval

    class Killed(Exception):
        pass

    def kill(self):
        end_interval(self)
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(TrainingLoop, "end_interval", kill)
        training.run(HiFiC, config, tmp_path / "parts", adversarial.make_trainer)
    training.run(HiFiC, config, tmp_path / "parts", adversarial.make_trainer)
    # The discriminator's gradient is not the same to the last bit in every run.
    whole, parts = ([json.loads(line) for line in (
        tmp_path / name / "metrics.jsonl").read_text().splitlines()] for name in ("whole", "parts"))
    assert [line["step"] for line in parts] == [1, 2]
    for line, expected in zip(parts, whole):
        assert line.pop("split") == expected.pop("split") == "train"
        assert line == pytest.approx(expected, rel=1e-4)
    one, two = (export.load(HiFiC, tmp_path / name / "model") for name in ("whole", "parts"))
    for a, b in zip(one.trainable_variables, two.trainable_variables):
        np.testing.assert_allclose(a, b, atol=1e-4)
    # So are all that steps to come depend on: moments, and what is opposed.
    one, two = (tf.train.load_checkpoint(str(tmp_path / name / "checkpoints"))
                for name in ("whole", "parts"))
    for key in one.get_variable_to_shape_map():
        if key.startswith(("optimizer/", "discriminator")) and key.endswith("VARIABLE_VALUE"):
            a, b = one.get_tensor(key), two.get_tensor(key)
            assert np.mean(np.abs(a - b)) <= 0.01 * np.mean(np.abs(a)), key


def test_crops_that_the_latents_do_not_tile_are_refused(tmp_path, lpips_network):
    config = tiny_config()
    config.data.patch_size = 72
    with pytest.raises(UserError, match="72 is not a multiple of the latents' stride 16"):
        training.run(HiFiC, config, tmp_path / "run", adversarial.make_trainer)
    assert not (tmp_path / "run").exists()
