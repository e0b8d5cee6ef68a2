"""A model of format 1, exported by the last version that wrote such."""

import pathlib

import mshyper.models
from common import export

FOLDER = pathlib.Path(__file__).parents[1] / "common" / "format1"


def load():
    return export.load(mshyper.models.MeanScaleHyperprior, FOLDER)


def export_again(path):
    """Exports it to the folder `path`, in the format of today."""
    export.save(load(), export.read_config(FOLDER), path)
