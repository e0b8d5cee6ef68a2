"""Trains a factorised prior; see common/training.py.

    python -m factorized.train --config factorized/configs/bls2017.py --hid 2
"""

from common import programs


@programs.of("factorized")
def run() -> programs.Program:
    """Training of a config."""
    from common import training
    from factorized.models import FactorizedPrior

    return training.program(FactorizedPrior)


if __name__ == "__main__":
    programs.main(run)
