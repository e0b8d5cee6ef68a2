"""Modules that all packages of the zoo share, one for each topic."""

import os

# TensorFlow reads this at import and is silent about missing accelerators from level 3 on.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
