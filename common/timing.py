"""Seconds spent in the stages of coding, recorded only where somebody asks."""

import collections
import contextlib
import contextvars
import time
from collections.abc import Iterator

_record: contextvars.ContextVar[dict[str, float] | None] = contextvars.ContextVar(
    "record", default=None)


@contextlib.contextmanager
def recording() -> Iterator[dict[str, float]]:
    """Yields a dict that collects the seconds of every `stage` inside the block."""
    record: dict[str, float] = collections.defaultdict(float)
    token = _record.set(record)
    try:
        yield record
    finally:
        _record.reset(token)


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Adds the time of the block to stage `name`; does nothing outside of `recording`.

    On a GPU, work is queued: end a stage by fetching its result.
    """
    record = _record.get()
    if record is None:
        yield
        return
    start = time.perf_counter()
    yield
    record[name] += time.perf_counter() - start
