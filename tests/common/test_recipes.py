"""Recipes, and that every config takes one."""

import importlib
import json
import pathlib

import pytest
import tensorflow as tf

from common import optimizers, quantizers, recipes, schedules
from common.errors import UserError

CONFIGS = sorted(path for path in pathlib.Path(__file__).parents[2].glob("*/configs/*.py")
                 if path.stem != "itinf")


def learning_rate(config):
    return schedules.learning_rate(
        config.train.schedule, config.train.optimizer.learning_rate, config.train.num_steps)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_all_that_a_recipe_names_exists(name):
    config = recipes.build(name)
    optimizers.build(config.train.optimizer, learning_rate(config))
    quantizers.for_training(config.train.quantizer, tf.constant([1, 2]), 0, 1)
    schedules.rd_lambda(0, 0.01, 1, **config.train.rd_lambda_warmup)
    assert set(config.train) == set(recipes.yang2023().train), "all runs record the same keys"


@pytest.mark.parametrize("name, steps, at", [
    ("yang2023", 1_800_000, {0: 1e-4 / 36_000, 36_000: 1e-4, 1_500_000: 1e-5}),
    ("yang2020", 2_000_000, {0: 1e-4, 1_999_999: 1e-4}),
    ("yang2020_keras", 1_000_000, {0: 1e-4}),
    ("advdnic", 400_000, {0: 1e-4, 960: 0.97e-4}),
    ("hific", 1_000_000, {0: 1e-4, 499_999: 1e-4, 500_000: 1e-5}),
])
def test_learning_rates(name, steps, at):
    config = recipes.build(name)
    assert config.train.num_steps == steps
    rate = learning_rate(config)
    assert {step: float(rate(step)) for step in at} == pytest.approx(at, rel=1e-3)


def test_hific_begins_with_half_the_distortion():
    config = recipes.hific()

    def at(step, value):
        return float(schedules.rd_lambda(
            step, value, config.train.num_steps, **config.train.rd_lambda_warmup))

    assert [at(49_999, 8.0), at(50_000, 8.0), at(0, 0.001)] == pytest.approx([4.0, 8.0, 0.0005])


def test_advdnics_learning_rate_follows_the_batch():
    config = recipes.advdnic()
    config.data.batch_size = 16
    config.lock()
    assert config.train.optimizer.learning_rate == pytest.approx(4e-4)
    assert json.loads(json.dumps(config.to_dict()))["train"]["optimizer"][
        "learning_rate"] == pytest.approx(4e-4)
    config.train.optimizer.learning_rate = 3e-5  # what the command line says goes before
    assert config.train.optimizer.learning_rate == 3e-5


@pytest.mark.parametrize("name, message", [
    ("yang23", "did you mean 'yang2023'"), ("published", "known: yang2023, .*cpu")])
def test_an_unknown_recipe_is_a_user_error(name, message):
    with pytest.raises(UserError, match=message):
        recipes.build(name)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_every_config_takes_a_recipe(path):
    module = importlib.import_module(f"{path.parts[-3]}.configs.{path.stem}")
    default = module.get_config()
    config = module.get_config("advdnic")
    assert config.model.to_dict() == default.model.to_dict()
    assert config.train.optimizer.beta_2 == 0.997
    # Those of advDNIC have it of themselves.
    assert path.stem.startswith("advdnic") or "beta_2" not in default.train.optimizer
    for overrides in module.get_hyper():
        config.copy_and_resolve_references().update_from_flattened_dict(overrides)
