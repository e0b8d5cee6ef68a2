"""Trains a factorised prior; see common/training.py.

    python -m factorized.train --config factorized/configs/bls2017.py --hid 2
"""

from common import training
from factorized.models import Model

if __name__ == "__main__":
    training.main(Model)
