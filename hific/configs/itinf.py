"""Refinement with HiFiC, for each image of a data set.

    python -m hific.itinf --config hific/configs/itinf.py:sga \\
        --config.model=experiments/hific-stage2_low
"""

from common import itinf

get_hyper = itinf.get_hyper


def get_config(method="sga"):
    return itinf.get_config(method, "hific")
