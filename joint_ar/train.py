"""Trains a joint autoregressive and hierarchical prior; see common/training.py.

    python -m joint_ar.train --config joint_ar/configs/mbt2018.py --hid 2
"""

from common import programs


@programs.of("joint_ar")
def run() -> programs.Program:
    """Training of a config."""
    from common import training
    from joint_ar.models import JointAutoregressive

    return training.program(JointAutoregressive)


if __name__ == "__main__":
    programs.main(run)
