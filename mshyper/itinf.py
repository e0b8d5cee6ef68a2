"""Refines the latents of images with a scale or mean-scale hyperprior; see common/itinf.py.

    python -m mshyper.itinf --config mshyper/configs/itinf.py:sga
"""

from common import programs


@programs.of("mshyper")
def run() -> programs.Program:
    """Refinement by a config."""
    from common import itinf
    from mshyper.models import MeanScaleHyperprior

    return itinf.program(MeanScaleHyperprior)


if __name__ == "__main__":
    programs.main(run)
