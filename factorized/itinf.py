"""Refines the latents of images with a factorised prior; see common/itinf.py.

    python -m factorized.itinf --config factorized/configs/itinf.py:sga \\
        --config.model=experiments/factorized-bls2017 --hid 2
"""

from common import programs


@programs.of("factorized")
def run() -> programs.Program:
    """Refinement by a config."""
    from common import itinf
    from factorized.models import FactorizedPrior

    return itinf.program(FactorizedPrior)


if __name__ == "__main__":
    programs.main(run)
