"""The tiny model with levels: its config."""

from common import recipes
from tests.helpers.tiny import tiny_config

COUNT = 41
LOW, HIGH = 0.0003, 0.01  # what so small a model can tell apart


def levels_config(build=tiny_config, **levels):
    config = build()
    recipes.add_levels(config)
    config.model.levels.update(count=COUNT, rd_lambda=(LOW, HIGH))
    config.model.levels.update(levels)
    return config
