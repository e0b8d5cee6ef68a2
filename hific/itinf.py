"""Refines the latents of images with HiFiC, by the loss of stage 1; see common/itinf.py.

    python -m hific.itinf --config hific/configs/itinf.py:sga --config.model=experiments/stage2_low
"""

from common import itinf
from hific import mixture, models

if __name__ == "__main__":
    itinf.main(models.Model, mixture.Model)
