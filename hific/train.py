"""Trains HiFiC; see hific/regimes.py and common/training.py.

    python -m hific.train --config hific/configs/stage1_low.py
"""

from common import training
from hific import adversarial, mixture, models

if __name__ == "__main__":
    training.main(models.Model, mixture.Model, make_trainer=adversarial.trainer)
