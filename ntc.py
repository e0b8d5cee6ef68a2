"""The zoo from Python: what the commands are made of, under one name.

    import ntc

    model = ntc.load("mshyper")                     # of the zoo, or the folder of a run or model
    file = model.compress("photo.png", quality=40)  # or an array, or Pillow's image; gives bytes
    image = ntc.decompress(file)                    # uint8 [height, width, 3]; finds the model
    y = ntc.decode(file).latents["y"]               # float32 [1, h, w, channels]

Whatever a user can mend is an `ntc.UserError`. Models may be loaded more than once, each time a new
one, and used from several threads: coding leaves a model as it is. `decompress` and `decode` keep
the last four models that they found. Models do not survive a fork, for TensorFlow's threads do not;
start processes by "spawn" and load in each.
"""

from __future__ import annotations

import os
import pathlib

import numpy as np

from common.container import Container
from common.errors import UserError
from common.images import MAX_PIXELS
from common.lazy import Codec, coding
from common.zoo import load, load_for

__version__ = "0.9.0"

__all__ = ["MAX_PIXELS", "UserError", "decode", "decompress", "load"]


def decompress(file: bytes | str | os.PathLike, model: Codec | None = None,
               max_pixels: int = MAX_PIXELS, precision: str = "float32") -> np.ndarray:
    """The image in a .ntc file, uint8 [height, width, 3].

    Args:
      file: its bytes, or its path.
      model: the one that wrote the file; by default it is found in the zoo by fingerprint.
      max_pixels: files that claim a larger image are refused.
      precision: as of `load`, where no `model` is given.

    Raises:
      UserError: the file is missing, damaged, of another model, or of none of the zoo.
    """
    content = _content(file)
    model = model or _model_of(content, max_pixels, precision)
    return coding.decompress(model, content, max_pixels)


def decode(file: bytes | str | os.PathLike, model: Codec | None = None,
           max_pixels: int = MAX_PIXELS) -> coding.Decoded:
    """The latents in a .ntc file, with the image's size: see `common.coding.Decoded`.

    Args and errors as of `decompress`.
    """
    content = _content(file)
    return coding.decode(model or _model_of(content, max_pixels), content, max_pixels)


def _content(file):
    if isinstance(file, bytes | bytearray):
        return bytes(file)
    try:
        return pathlib.Path(file).read_bytes()
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None


def _model_of(content, max_pixels, precision="float32"):
    return load_for(Container.unpack(content, max_pixels), precision)
