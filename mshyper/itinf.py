"""Refines the latents of images with a scale or mean-scale hyperprior; see common/itinf.py.

    python -m mshyper.itinf --config mshyper/configs/itinf.py:sga
"""

from common import itinf, runs
from mshyper.models import MeanScaleHyperprior

run = itinf.program(MeanScaleHyperprior)

if __name__ == "__main__":
    runs.main(run)
