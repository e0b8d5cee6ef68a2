"""Trains a scale or mean-scale hyperprior; see common/training.py."""

from common import training
from mshyper.models import Model

if __name__ == "__main__":
    training.main(Model)
