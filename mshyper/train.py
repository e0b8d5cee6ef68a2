"""Trains a scale or mean-scale hyperprior; see common/training.py.

    python -m mshyper.train --config mshyper/configs/mbt2018.py --hid 2
"""

from common import programs


@programs.of("mshyper")
def run() -> programs.Program:
    """Training of a config."""
    from common import training
    from mshyper.bits_back import BitsBackHyperprior
    from mshyper.models import MeanScaleHyperprior

    return training.program(MeanScaleHyperprior, BitsBackHyperprior)


if __name__ == "__main__":
    programs.main(run)
