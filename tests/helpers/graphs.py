"""How TensorFlow runs the graphs of tests."""

import tensorflow as tf


def optimise(wanted: bool) -> None:
    """Whether TensorFlow rewrites graphs before it runs them, as it does in programs."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not wanted})
