"""Refinement with a joint autoregressive prior, for each image of a data set.

    python -m joint_ar.itinf --config joint_ar/configs/itinf.py:sga \\
        --config.model=experiments/joint_ar-mbt2018 --hid 2
"""

from common import itinf

get_hyper = itinf.get_hyper


def get_config(method="sga"):
    return itinf.get_config(method, "joint_ar")
