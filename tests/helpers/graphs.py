"""How TensorFlow runs the graphs of tests."""

import contextlib

import tensorflow as tf


def optimise(wanted: bool) -> None:
    """Whether TensorFlow rewrites graphs before it runs them, as it does in programs."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not wanted})


@contextlib.contextmanager
def of_programs():
    """Runs graphs as programs do, bit by bit."""
    optimise(True)
    try:
        yield
    finally:
        optimise(False)


@contextlib.contextmanager
def none():
    """Makes no graphs."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)
