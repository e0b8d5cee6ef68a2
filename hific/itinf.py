"""Refines the latents of images with HiFiC, by the loss of stage 1; see common/itinf.py.

    python -m hific.itinf --config hific/configs/itinf.py:sga \\
        --config.model=experiments/hific-stage2_low
"""

from common import programs


@programs.of("hific")
def run() -> programs.Program:
    """Refinement by a config."""
    from common import itinf
    from hific.mixture import HiFiCMixture
    from hific.models import HiFiC

    return itinf.program(HiFiC, HiFiCMixture)


if __name__ == "__main__":
    programs.main(run)
