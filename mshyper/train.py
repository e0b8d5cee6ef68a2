"""Trains a scale or mean-scale hyperprior; see common/training.py.

    python -m mshyper.train --config mshyper/configs/mbt2018.py --hid 2
"""

from common import runs, training
from mshyper import bits_back, models

run = training.program(models.Model, bits_back.Model)

if __name__ == "__main__":
    runs.main(run)
