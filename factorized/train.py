"""Trains a factorised prior; see common/training.py."""

from common import training
from factorized.models import Model

if __name__ == "__main__":
    training.main(Model)
