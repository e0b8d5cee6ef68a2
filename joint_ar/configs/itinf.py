"""Iterative inference with a joint autoregressive prior, for each image of a data set.

    python -m joint_ar.itinf --config joint_ar/configs/itinf.py:sga \\
        --config.model=experiments/mbt2018 --hid 2
"""

from common import itinf

get_hyper = itinf.get_hyper
get_runname = itinf.get_runname


def get_config(method="sga"):
    return itinf.get_config(method, "joint_ar-small-2")
