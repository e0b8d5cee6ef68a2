"""The precision that transforms compute in: float32, or bfloat16 where the device is fast at it.

Processors from about 2023 on multiply bfloat16 matrices in hardware (Intel's AMX, AVX512-BF16 of
Intel and AMD), and so do NVIDIA's GPUs from Ampere on; others emulate it, slowly. Weights are in
float32 in either precision, and so are values that are rounded, rates and losses. Integer
networks (common/integer_networks.py), which encoder and decoder must agree on, know nothing of it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
from collections.abc import Iterator

from absl import logging

from common import arguments
from common.lazy import tf

CHOICES = ("auto", "float32", "bfloat16")

# Keras's names. Its policy of bfloat16 keeps the weights in float32.
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}

_CPU_FLAGS = ("amx_bf16", "avx512_bf16")
_CPUINFO = pathlib.Path("/proc/cpuinfo")


def choose(name: str) -> str:
    """The precision that `name` stands for on this machine: "float32" or "bfloat16".

    Args:
      name: one of `CHOICES`, or Keras's mixed_bfloat16. "auto" is bfloat16 where all devices have
        it in hardware. To ask for bfloat16 elsewhere logs a warning.

    Raises:
      UserError: it is none of them.
    """
    chosen = "bfloat16" if name == _POLICIES["bfloat16"] else name
    if chosen not in CHOICES:
        raise arguments.unknown("precision", name, CHOICES)
    if chosen == "auto":
        return "bfloat16" if hardware() else "float32"
    if chosen == "bfloat16" and not hardware():
        logging.warning("this device has no bfloat16 in hardware: expect it to take two times as "
                        "long as float32 on a processor with AVX-512, ten times and more on others")
    return chosen


def hardware() -> str | None:
    """The hardware that multiplies bfloat16 matrices here, e.g. "avx512_bf16", or None."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return _of_cpu()
    capabilities = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in gpus]
    if min(capabilities) < (8, 0):
        return None
    return "compute capability {}.{}".format(*min(capabilities))


@functools.cache
def _of_cpu():
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0":  # then TensorFlow's own kernels run
        return None
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:  # not Linux
        return None
    flags = {flag for line in lines if line.startswith("flags") for flag in line.split()}
    return next((flag for flag in _CPU_FLAGS if flag in flags), None)


@contextlib.contextmanager
def policy(precision: str) -> Iterator[None]:
    """Keras layers made within compute in `precision`, as `choose` returns it."""
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(_POLICIES[precision])
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)
