"""Weights of exported models of format 1, which earlier versions wrote: a tf.train.Checkpoint.

Its keys, codec/<part>/..., are Python's attributes. Functions are those of common/weights.py.
"""

import os
import pathlib

import numpy as np
import tensorflow as tf

from common.errors import UserError
from common.weights import Parts

_ERRORS = (tf.errors.OpError, RuntimeError, AssertionError, IndexError, ValueError)


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays in the folder `path` by key. Raises UserError."""
    try:
        reader = tf.train.load_checkpoint(str(pathlib.Path(path) / "weights"))
        return {key: reader.get_tensor(key)
                for key in reader.get_variable_to_shape_map() if key.endswith("VARIABLE_VALUE")}
    except _ERRORS as error:
        raise UserError(f"{path}: its weights are damaged ({_line(error)})") from None


def restore(layers: Parts, path: str | os.PathLike, leave: tuple[str, ...] = ()) -> None:
    """Replaces the weights of `layers` by those that the folder `path` has. Raises UserError."""
    del leave  # scales by level, which these models have none of
    checkpoint = tf.train.Checkpoint(codec=tf.train.Checkpoint(**layers))
    try:
        checkpoint.read(str(pathlib.Path(path) / "weights")).assert_existing_objects_matched()
    except _ERRORS as error:
        raise UserError(f"{path}: its weights do not fit the model ({_line(error)})") from None


def _line(error) -> str:
    return str(error).strip().splitlines()[0]
