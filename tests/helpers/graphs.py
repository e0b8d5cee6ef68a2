"""How TensorFlow runs the graphs of tests."""

import contextlib

import tensorflow as tf

from common import tiles

_in_graph = tiles._in_graph


def as_in_programs(wanted: bool) -> None:
    """Whether TensorFlow rewrites graphs before it runs them, and codecs make them of transforms.

    Training and refinement make theirs in any case.
    """
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not wanted})
    tiles._in_graph = _in_graph if wanted else lambda transform, x: transform(x, training=False)


@contextlib.contextmanager
def of_programs():
    """Makes and runs graphs as programs do, bit by bit."""
    as_in_programs(True)
    try:
        yield
    finally:
        as_in_programs(False)


@contextlib.contextmanager
def none():
    """Makes no graphs."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)
