"""Refinement with a factorised prior, for each image of a data set.

    python -m factorized.itinf --config factorized/configs/itinf.py:sga \\
        --config.model=experiments/factorized-bls2017 --hid 2
"""

from common import itinf

get_hyper = itinf.get_hyper


def get_config(method="sga"):
    return itinf.get_config(method, None)
