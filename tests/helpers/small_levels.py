"""Levels of small models, and what is coded at them."""

from tests.helpers import small_mixture, small_models

COUNT = 21
LEVELS = dict(count=COUNT, rd_lambda=(0.0015, 0.06))


def photograph(height=128, width=192):
    return small_models.picture(small_mixture.photograph(), height, width)
