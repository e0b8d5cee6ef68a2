"""Trains a scale or mean-scale hyperprior; see common/training.py.

    python -m mshyper.train --config mshyper/configs/mbt2018.py --hid 2
"""

from common import training
from mshyper import bits_back, models

if __name__ == "__main__":
    training.main(models.Model, bits_back.Model)
