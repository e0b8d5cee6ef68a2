"""Trains HiFiC; see hific/regimes.py and common/training.py.

    python -m hific.train --config hific/configs/stage1_low.py
"""

from common import runs, training
from hific import adversarial, mixture, models

run = training.program(models.Model, mixture.Model, make_trainer=adversarial.trainer)

if __name__ == "__main__":
    runs.main(run)
