"""Finished runs, compared."""

import json

import numpy as np
import pytest
import tensorflow as tf

_TOLERANCE = 2e-5  # a step of the optimiser is 1e-3 and more


def assert_alike(workdir, other, tolerance=_TOLERANCE):
    """Metrics and weights are the same; those of codec and average within `tolerance`, and what
    follows from their rate."""
    ours, theirs = (
        [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (workdir, other))
    assert [line["step"] for line in ours] == [2, 4, 4]
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys() and a["split"] == b["split"]
        for key in a.keys() - {"split"}:
            assert a[key] == pytest.approx(b[key], rel=2e-4), key
    readers = [tf.train.load_checkpoint(str(path / "checkpoints")) for path in (workdir, other)]
    weights = [key for key in readers[0].get_variable_to_shape_map()
               if key.startswith(("codec/", "result/", "discriminator/", "rate_control/"))
               and key.endswith("VARIABLE_VALUE")]
    assert weights
    for key in weights:
        a, b = (reader.get_tensor(key) for reader in readers)
        codecs = key.startswith(("codec/", "result/", "rate_control/"))
        assert np.mean(np.abs(a - b)) < (tolerance if codecs else _TOLERANCE), key
