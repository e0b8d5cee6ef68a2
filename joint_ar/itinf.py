"""Refines the latents of images with a joint autoregressive prior; see common/itinf.py.

    python -m joint_ar.itinf --config joint_ar/configs/itinf.py:sga
"""

from common import programs


@programs.of("joint_ar")
def run() -> programs.Program:
    """Refinement by a config."""
    from common import itinf
    from joint_ar.models import JointAutoregressive

    return itinf.program(JointAutoregressive)


if __name__ == "__main__":
    programs.main(run)
