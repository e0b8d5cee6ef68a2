"""Measurements: of speed against other software, of cost, of training; see README.md."""

import common  # noqa: F401  (before TensorFlow, which it silences)
