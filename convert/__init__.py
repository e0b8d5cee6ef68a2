"""Importing trained models of other code bases: `python -m convert CHECKPOINT --output FOLDER`.

A reader for each kind of file (torch_files, tensorflow_files) needs none of their frameworks and
runs nothing that a file contains; a module for each code base knows its names, shapes and
conventions, and describes the model as an `imported.Imported`.

Nothing is verified against released files, none of which come with this project: names and shapes
are those of the code bases' sources, and of checkpoints that this code wrote with random weights.
"""

from __future__ import annotations

import glob
import hashlib
import os
import pathlib

from common.errors import UserError
from common.lazy import export
from convert import (
    compressai,
    hific_pytorch,
    improving_inference,
    shallow_ntc,
    tensorflow_compression,
    tensorflow_files,
    torch_files,
)
from convert.imported import Imported

# Code base, its models, what they become, where its files are.
KNOWN = (
    ("CompressAI (InterDigital)",
     "bmshj2018-factorized (and -relu), bmshj2018-hyperprior, mbt2018-mean, mbt2018, "
     "cheng2020-anchor, cheng2020-attn",
     "factorized, mshyper, joint_ar; lambda by the quality in the file's name",
     "<architecture>-<quality>-<hash>.pth.tar in the cache of PyTorch's hub, or what "
     "examples/train.py saves"),
    ("mandt-lab/shallow-ntc (Yang & Mandt 2023)",
     "bls2017, mbt2018, jpegl, two_layer_syn, two_layer_syn2",
     "factorized, mshyper; lambda from its config.json",
     "a run's folder, with config.json and train/checkpoints/"),
    ("Justin-Tan/high-fidelity-generative-compression",
     "low, med, high; also with instance norm or latent mixtures",
     "hific; lambda from the file's arguments",
     "hific_low.pt, hific_med.pt, hific_hi.pt"),
    ("mandt-lab/improving-inference-for-neural-image-compression (Yang et al. 2020)",
     "mbt2018, mbt2018_bb",
     "mshyper, and its bits-back model; lambda by the folder's name (-lmbda=...)",
     "<model>-num_filters=N-lmbda=L/model.ckpt-<step>.index"),
    ("tensorflow/compression, models/",
     "bls2017, bmshj2018",
     "factorized, mshyper; lambda is to be given",
     "the folder that `train` saves, with saved_model.pb"),
)

# Modules that know checkpoints, by their kind. Each has `recognises` and `read`.
_READERS = {
    "torch": (compressai, hific_pytorch),
    "tensorflow objects": (shallow_ntc, tensorflow_compression),
    "SavedModel": (tensorflow_compression,),
    "tensorflow names": (improving_inference,),
}


def read(path: str | os.PathLike) -> Imported:
    """The model in a checkpoint.

    Args:
      path: a file of PyTorch; a checkpoint of TensorFlow by its prefix, its .index file or its
        folder; the folder of a SavedModel, or of a run of shallow-ntc.

    Raises:
      UserError: there is none, it is damaged, or it is of an architecture that is not known.
    """
    checkpoint = _checkpoint(path)
    found = kind(checkpoint)
    load = {"torch": torch_files.load, "tensorflow names": tensorflow_files.names}.get(
        found, tensorflow_files.objects)
    content = load(checkpoint)
    for reader in _READERS[found]:
        if reader.recognises(content):
            try:
                return reader.read(content, str(path))
            except UserError as error:
                raise UserError(f"{path}: {error}") from None
    raise UserError(f"{path}: a checkpoint of an architecture that is not known; "
                    "`python -m convert --list` says which are")


def kind(path: str | os.PathLike) -> str:
    """The kind of a checkpoint, by the content of the file or folder.

    Returns:
      "torch", which `torch_files.load` reads; "tensorflow objects" or "SavedModel", both of which
      `tensorflow_files.objects` reads; "tensorflow names", which `tensorflow_files.names` reads.

    Raises:
      UserError: none of these, or it cannot be read.
    """
    if tensorflow_files.is_saved_model(path):
        return "SavedModel"
    if os.path.isfile(path) and torch_files.is_torch(path):
        return "torch"
    return "tensorflow objects" if tensorflow_files.has_objects(path) else "tensorflow names"


def _checkpoint(path):
    """Where a run of shallow-ntc keeps its checkpoints, or else the path itself."""
    folder = pathlib.Path(path, "train", "checkpoints")
    return folder if folder.is_dir() else pathlib.Path(path)


def _files(path):
    """The files that a checkpoint consists of."""
    checkpoint = _checkpoint(path)
    if kind(checkpoint) == "torch":
        return [checkpoint]
    prefix = tensorflow_files.prefix(checkpoint)
    return sorted(prefix.parent.glob(f"{glob.escape(prefix.name)}.*"))


def save(imported: Imported, source: str | os.PathLike, output: str | os.PathLike) -> str:
    """Exports an imported model to the folder `output`, or nothing; its fingerprint.

    Args:
      imported: the model, with its lambda.
      source: where it came from, of which config.json keeps the name and the SHA-256.
      output: the folder.

    Raises:
      UserError: its weights do not fit or have no integer form, or it cannot be written.
    """
    digest = hashlib.sha256()
    for part in (parts := _files(source)):
        with open(part, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    config = dict(
        package=imported.package, module=imported.module, model=imported.model,
        train=dict(distortion="mse", rd_lambda=imported.rd_lambda) | imported.train,
        source=dict(model=imported.name, file=parts[0].name, sha256=digest.hexdigest()))
    return export.save(imported.build(), config, output)
