"""Refines the latents of images with a joint autoregressive prior; see common/itinf.py.

    python -m joint_ar.itinf --config joint_ar/configs/itinf.py:sga
"""

from common import runs


@runs.program("joint_ar")
def run():
    """Inference by a config."""
    from common import itinf
    from joint_ar.models import JointAutoregressive

    return itinf.program(JointAutoregressive)


if __name__ == "__main__":
    runs.main(run)
