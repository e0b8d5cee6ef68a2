"""What a step of training does besides its loss; whole trainings are in tests/integration."""

import numpy as np
import pytest
import tensorflow as tf

from common import quantizers, training
from mshyper.models import MeanScaleHyperprior
from tests.helpers.tiny import shallow_config, tiny_config


@pytest.fixture(scope="module")
def x():
    return tf.random.stateless_uniform([2, 32, 32, 3], [1, 2])


def build(**train):
    """A trainer of a small model that a step leaves as it is."""
    config = shallow_config()
    config.train.optimizer = dict(cls="SGD", learning_rate=0.0)
    config.train.update(train)
    trainer, _ = training.build(MeanScaleHyperprior, config)
    return trainer


def test_noise_is_of_the_step_and_of_the_seed(x, monkeypatch):
    trainer, seen, build_quantizer = build(num_steps=10), [], quantizers.for_training
    monkeypatch.setattr(
        quantizers, "for_training", lambda config, key, step, num_steps: seen.append(
            (tuple(key.numpy()), int(step), num_steps)) or build_quantizer(
                config, key, step, num_steps))
    rates = [float(trainer.update_codec(x)["bpp"]) for _ in range(2)]
    trainer.optimizer.iterations.assign(0)
    trainer._seed += 1
    rates.append(float(trainer.update_codec(x)["bpp"]))
    trainer.optimizer.iterations.assign(0)
    rates.append(float(trainer.update_codec(x)["bpp"]))
    keys, steps, lengths = zip(*seen)
    assert len({*keys[:3]}) == len({*rates[:3]}) == 3
    assert keys[2] == keys[3] and rates[2] == rates[3]
    assert steps == (0, 1, 0, 0) and {*lengths} == {10}


def test_lambda_is_another_while_it_warms_up(x):
    trainer = build(rd_lambda=0.005, num_steps=4, rd_lambda_warmup=dict(
        factor=10.0, until=0.5, at_most=0.01))
    for expected in (0.05, 0.05, 0.005, 0.005):
        measured = {name: float(value) for name, value in trainer.update_codec(x).items()}
        assert measured["rd_lambda"] == pytest.approx(expected)
        assert measured["rd_loss"] == pytest.approx(
            measured["bpp"] + expected * measured["mse"], rel=1e-5)


def test_grids_of_the_average_and_of_what_is_trained_are_centred():
    trainer = build(ema_decay=0.5)
    assert trainer.result is not trainer.codec
    before = [codec.z_prior.offset.numpy() for codec in (trainer.codec, trainer.result)]
    for codec in (trainer.codec, trainer.result):
        for weight in codec.z_prior.trainable_variables:
            weight.assign_add(tf.random.stateless_normal(weight.shape, [3, 4]))
    trainer.update_offsets()
    for codec, offset in zip((trainer.codec, trainer.result), before):
        assert np.any(np.abs(codec.z_prior.offset - offset) > 0.01)


def test_statistics_of_batch_normalisation_are_those_of_training(x):
    config = tiny_config()
    config.train.ema_decay = 0.999
    config.model.analysis = dict(cls="AdvDNICMod3Analysis", channels=12)
    trainer, _ = training.build(MeanScaleHyperprior, config)

    def statistics(codec):
        return [variable.numpy() for variable in codec.variables if "moving_" in variable.name]

    before = statistics(trainer.codec)
    trainer.update_codec(tf.concat([x, x], axis=1))
    after, exported = statistics(trainer.codec), statistics(trainer.result)
    assert before and all(np.any(old != new) for old, new in zip(before, after))
    for own, value in zip(exported, after):
        np.testing.assert_array_equal(own, value)
