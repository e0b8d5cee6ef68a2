"""Trains HiFiC; see hific/regimes.py and common/training.py.

    python -m hific.train --config hific/configs/stage1_low.py
"""

from common import programs


@programs.of("hific")
def run() -> programs.Program:
    """Training of a config."""
    from common import training
    from hific import adversarial
    from hific.mixture import HiFiCMixture
    from hific.models import HiFiC

    return training.program(HiFiC, HiFiCMixture, make_trainer=adversarial.make_trainer)


if __name__ == "__main__":
    programs.main(run)
