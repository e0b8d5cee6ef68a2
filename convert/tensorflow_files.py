"""Checkpoints of TensorFlow, of which only the arrays are read.

    objects     of tf.train.Checkpoint, and SavedModels: a graph of what holds what, by the names
                of attributes; nothing else of a SavedModel is loaded, for that could be code
    names       of tf.train.Saver (TensorFlow 1): arrays by name

A path is that of a checkpoint without suffix (ckpt-12), one of its files (ckpt-12.index), a folder
with checkpoints, of which its file `checkpoint` or the only one there counts, or a SavedModel.
"""

from __future__ import annotations

import functools
import glob
import os
import pathlib
import re
from typing import Any

from common.errors import UserError
from common.lazy import TrackableObjectGraph, checkpoints, tf
from convert.files import Array, beginning, described

_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


class Object:
    """An object in a checkpoint, which holds arrays and other objects. `objects` returns the root.

    Attributes:
      name: how it was reached, "/_analysis/layer_with_weights-0".
      array: a `files.Array`; None if this is not a variable.
    """

    def __init__(self, checkpoint: _Checkpoint, number: int = 0, name: str = ""):
        self._checkpoint, self._node = checkpoint, checkpoint.nodes[number]
        self.name = name
        keys = _keys(self._node)
        self.array: Any = checkpoint.array(keys[0]) if keys else None

    @functools.cached_property
    def children(self) -> dict[str, Object]:
        """Its objects by the names of attributes; numbers in names are sorted as numbers."""
        numbers = {child.local_name: child.node_id for child in self._node.children}
        return {name: Object(self._checkpoint, numbers[name], f"{self.name}/{name}")
                for name in sorted(numbers, key=_by_numbers)}

    @property
    def layers(self) -> list[Object]:
        """The layers with weights of a Keras model, in its order."""
        return [child for name, child in self.children.items()
                if name.startswith("layer_with_weights-")]

    def find(self, *names: str) -> Object:
        """The object that is reached from here by names of attributes.

        Raises:
          UserError: there is none, or nothing of such a name.
        """
        found = self
        for name in names:
            if name not in found.children:
                raise UserError(f"{self._checkpoint.path}: {found.name or 'the checkpoint'} has no "
                                f"{name}, but {', '.join(found.children) or 'nothing'}")
            found = found.children[name]
        return found


def objects(path: str | os.PathLike) -> Object:
    """The root of the objects in a checkpoint or a SavedModel. Optimizers' slots are left out.

    Raises:
      UserError: there is no checkpoint, it is damaged, or has names only.
    """
    checkpoint = _Checkpoint(path)
    if not checkpoint.has_objects:
        raise UserError(f"{path}: need a checkpoint of objects (tf.train.Checkpoint) or a "
                        "SavedModel; this has arrays by name only, as of tf.train.Saver")
    return Object(checkpoint)


def names(path: str | os.PathLike) -> dict[str, Array]:
    """The arrays in a checkpoint by name.

    Raises:
      UserError: there is no checkpoint, it is damaged, or has objects.
    """
    checkpoint = _Checkpoint(path)
    if checkpoint.has_objects:
        raise UserError(f"{path}: need a checkpoint of arrays by name (tf.train.Saver); this has "
                        "objects")
    return {key: checkpoint.array(key) for key in sorted(checkpoint.shapes)}


def has_objects(path: str | os.PathLike) -> bool:
    """Whether `objects` reads a checkpoint, and not `names`. Raises UserError if neither does."""
    return _Checkpoint(path).has_objects


def prefix(path: str | os.PathLike) -> pathlib.Path:
    """The path of a checkpoint without suffix, of whatever names it.

    Raises:
      UserError: there is no checkpoint, or there are several.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        found = path.with_name(re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", path.name))
        if _index(found).is_file():
            return found
        if any(found.parent.glob(f"{glob.escape(found.name)}.data-*")):
            raise UserError(f"{path}: {_index(found).name} is missing beside it")
        raise UserError(f"{path}: not a checkpoint of TensorFlow: {described(beginning(path))}")
    if is_saved_model(path):
        found = path / "variables" / "variables"
        if not _index(found).is_file():
            raise UserError(f"{path}: the SavedModel has no {found.relative_to(path)}.index")
        return found
    there = sorted((file.stem for file in path.glob("*.index")), key=_by_numbers)
    state = path / "checkpoint"
    if state.is_file():
        named = re.search(r'model_checkpoint_path: "(.*)"', state.read_text(errors="replace"))
        name = pathlib.PurePath(named[1]).name if named else None
        if name not in there:
            raise UserError(f"{path}: its file `checkpoint` names {name or 'none'}, and there "
                            f"{'are ' + ', '.join(there) if there else 'is none'}")
        return path / name
    if len(there) != 1:
        raise UserError(f"{path}: need one of the checkpoints there: {', '.join(there)}" if there
                        else f"{path}: there is no checkpoint of TensorFlow in the folder")
    return path / there[0]


def is_saved_model(path: str | os.PathLike) -> bool:
    """Whether a folder is a SavedModel."""
    return pathlib.Path(path, "saved_model.pb").is_file()


def _index(path):
    return path.with_name(f"{path.name}.index")


def _by_numbers(name):
    """A key that sorts layer-10 after layer-9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _keys(node):
    """The key of a variable's value, or none."""
    return [attribute.checkpoint_key for attribute in node.attributes
            if attribute.name == "VARIABLE_VALUE"]


class _Checkpoint:
    """A file in TensorFlow's reader.

    Attributes:
      path: what the user called it.
      shapes: of the arrays by key.
      has_objects: whether they belong to objects.
      nodes: those of the graph of objects.
    """

    def __init__(self, path):
        self.path = path
        found = prefix(path)
        self._reader = self._attempt(tf.train.load_checkpoint, str(found))
        self.shapes = self._attempt(self._reader.get_variable_to_shape_map)
        self.has_objects = _GRAPH in self.shapes

    @functools.cached_property
    def nodes(self):
        nodes = self._attempt(
            lambda: TrackableObjectGraph.FromString(self._reader.get_tensor(_GRAPH)).nodes)
        keys = {key for node in nodes for key in _keys(node)}
        if not nodes or not keys <= self.shapes.keys() or any(
                not 0 <= child.node_id < len(nodes) for node in nodes for child in node.children):
            raise UserError(f"{self.path}: the checkpoint is damaged (its objects are not there)")
        return nodes

    def array(self, key):
        """The array of a key."""
        return Array(tuple(self.shapes[key]),
                     functools.partial(self._attempt, self._reader.get_tensor, key))

    def _attempt(self, call, *arguments):
        """The result of a call to TensorFlow, whose errors become one line."""
        try:
            return call(*arguments)
        except Exception as error:  # anything, of damaged files
            raise UserError(f"{self.path}: the checkpoint is damaged or incomplete "
                            f"({checkpoints.reason(error)})") from None
