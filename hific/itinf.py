"""Refines the latents of images with HiFiC, by the loss of stage 1; see common/itinf.py.

    python -m hific.itinf --config hific/configs/itinf.py:sga \\
        --config.model=experiments/hific-stage2_low
"""

from common import itinf, runs
from hific.mixture import HiFiCMixture
from hific.models import HiFiC

run = itinf.program(HiFiC, HiFiCMixture)

if __name__ == "__main__":
    runs.main(run)
