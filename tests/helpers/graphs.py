"""How TensorFlow runs the graphs of tests."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf


def optimise(wanted: bool) -> None:
    """Whether TensorFlow rewrites graphs before it runs them, as it does in programs."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not wanted})


@contextlib.contextmanager
def optimised() -> Iterator[None]:
    """Optimises graphs for the time being."""
    optimise(True)
    yield
    optimise(False)
