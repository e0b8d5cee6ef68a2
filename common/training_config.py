"""The sections data and train of a config: what they may say, and overrides of components.

The entries themselves are in common/recipes.py.
"""

import ast
import math
import re
from collections.abc import Iterable

import tensorflow as tf
from ml_collections import config_dict

from common import arguments, data, objectives, overrides, recipes, weights
from common.errors import UserError

# Keys of components: of their class, or of its arguments, which the config need not have.
_COMPONENT = re.compile(r"train\.(optimizer|schedule|quantizer|rate_control)\.(\w+)")
_OF_ALL_OPTIMIZERS = ("learning_rate", "global_clipnorm", "weight_decay")


def check(config: config_dict.ConfigDict, replicas: int) -> None:
    """Raises UserError if sections data and train do not fit a training on so many devices."""
    for section, keys in (("data", ("patch_size", "batch_size", "crops_per_image")),
                          ("train", ("num_steps", "log_interval", "checkpoint_interval"))):
        for key in keys:
            if config[section][key] < 1:
                raise UserError(f"{section}.{key} is {config[section][key]}; need at least 1")
    if not 0 <= config.train.ema_decay < 1:
        raise UserError(f"train.ema_decay is {config.train.ema_decay}; need 0 (off) to below 1")
    if config.train.export_dtype not in weights.DTYPES:
        raise arguments.unknown("train.export_dtype", config.train.export_dtype, weights.DTYPES)
    profiled = config.train.profile_steps
    if profiled and (len(profiled) != 2 or not 1 <= profiled[0] <= profiled[1]):
        raise UserError(f"train.profile_steps is {tuple(profiled)}; need the first and the last, "
                        "as 10,20")
    if not config.model.get("levels") and config.train.rd_lambda is None:
        raise UserError("train.rd_lambda is None, as for models with model.levels, which this one "
                        "has not; give the lambda to train for")
    if config.model.get("levels") and config.train.rate_target is not None:
        raise UserError("train.rate_target is for models of one rate; those with model.levels have "
                        "a range of them")
    if config.seed < 0:
        raise UserError(f"seed is {config.seed}; need at least 0")
    if config.data.batch_size % (config.data.crops_per_image * replicas):
        raise UserError(
            f"data.batch_size {config.data.batch_size} is not a multiple of data.crops_per_image "
            f"{config.data.crops_per_image}" + f" times {replicas} devices" * (replicas > 1))


def check_distortion(config: config_dict.ConfigDict, validation: list[data.Source]) -> None:
    """Raises UserError if crops, or images for validation, are too small for the distortion."""
    if not 0 <= config.train.lpips_weight < math.inf:
        raise UserError(f"train.lpips_weight is {config.train.lpips_weight}; need 0 or more")
    objective = objectives.of_training(config.train)
    sides = {"data.patch_size": config.data.patch_size}
    sides |= {f"validation image {source.name}": min(source.size()) for source in validation}
    for name, side in sides.items():
        objective.check_side(side, name)
    if config.train.distortion != "ms_ssim":
        return
    levels = config.model.get("levels")
    rd_lambda = min(levels.rd_lambda) if levels else config.train.rd_lambda
    if rd_lambda < min(recipes.MS_SSIM_LAMBDAS) / 10:
        raise UserError(f"rd_lambda {rd_lambda:g} is one for MSE: nothing would "
                        "be left of the image; for MS-SSIM, CompressAI has "
                        f"{min(recipes.MS_SSIM_LAMBDAS):g} to {max(recipes.MS_SSIM_LAMBDAS):g}")


def jit_compile(setting: str) -> bool:
    """Whether XLA is to compile, as train.jit_compile says: "auto", "on" or "off".

    Raises:
      UserError: it says something else.
    """
    if setting not in ("auto", "on", "off"):
        raise arguments.unknown("train.jit_compile", setting, ("auto", "on", "off"))
    # On CPUs, XLA's convolutions are several times slower than oneDNN's.
    return setting == "on" or setting == "auto" and bool(tf.config.list_physical_devices("GPU"))


def override(config: config_dict.ConfigDict, given: Iterable[tuple[str, str | None]]) -> None:
    """Sets the entries of a config that a command line gives, as `overrides.apply_all` does.

    The sections of config.train that each name a class, train.optimizer and so on, also take
    arguments that are not there yet; an argument that the class does not take is an error when it
    is built. If the class changes, the arguments of the one before are dropped, except for those
    that all optimisers take.

    Args:
      config: the config to change.
      given: keys and values, as from `overrides.take`.

    Raises:
      UserError: as `overrides.apply`.
    """
    components, others = [], []
    for key, value in given:
        match = _COMPONENT.fullmatch(key)
        if match:
            components.append((*match.groups(), value))
        else:
            others.append((key, value))
    overrides.apply_all(config, others)
    if "train" not in config:  # `training.program` says what to do
        return
    for section, key, value in sorted(components, key=lambda component: component[1] != "cls"):
        component = config.train[section]
        with config.unlocked(), component.ignore_type():
            if key == "cls" and value != component.cls:
                for other in set(component) - {"cls", *_OF_ALL_OPTIMIZERS}:
                    del component[other]
            try:
                component[key] = True if value is None else ast.literal_eval(value)
            except (ValueError, SyntaxError):  # a name without quotes
                component[key] = value
