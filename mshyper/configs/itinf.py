"""Refinement with a scale or mean-scale hyperprior, for each image of a data set.

    python -m mshyper.itinf --config mshyper/configs/itinf.py:sga \\
        --config.model=experiments/mshyper-mbt2018 --hid 2
"""

from common import itinf, zoo

get_hyper = itinf.get_hyper


def get_config(method="sga"):
    return itinf.get_config(method, zoo.DEFAULT)
