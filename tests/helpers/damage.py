"""Damaged files."""

import numpy as np


def mutations(content, count, seed=0):
    """Damaged copies: bits and bytes changed, parts lost, doubled, moved or replaced by noise."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        damaged = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            start, length = (int(n) for n in rng.integers(0, [len(damaged) + 1, 24]))
            part = bytes(damaged[start:start + length])
            elsewhere = int(rng.integers(len(damaged) + 1))
            changed = (bytes(byte ^ 1 << rng.integers(8) for byte in part[:1]) + part[1:],
                       rng.bytes(len(part)), b"", part * 2, rng.bytes(length) + part,
                       bytes([rng.choice([0, 1, 0x7F, 0x80, 0xFF])]) * len(part),
                       bytes(damaged[elsewhere:elsewhere + length]))
            damaged[start:start + length] = changed[rng.integers(len(changed))]
        yield bytes(damaged)
