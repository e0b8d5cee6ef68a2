"""Checkpoints that other code bases have trained, made into models of this one."""

import os

from convert import tensorflow_files, torch_files


def kind(path: str | os.PathLike) -> str:
    """What a file or folder holds, by its content.

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
