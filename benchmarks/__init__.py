"""Measurements: of speed against other software, of cost, of training; see README.md."""

from common import cli  # noqa: F401  (before TensorFlow, which it silences)
