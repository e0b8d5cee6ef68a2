"""Stopping: what is saved when a signal, or Slurm, ends a process in the middle of a run.

Whoever does a run says how to save it (`saved_by`) and what must be done whole (`unstoppable`);
programs ask for it on signals (`stop_on_signals`), jobs of Slurm also before they are requeued.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator

from common.errors import UserError

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_savers = []
_busy = 0  # blocks of `unstoppable` that the process is in
_asked = None  # the signal that asks it to end
_stopped = False  # whether all is saved, and the process ends


@contextlib.contextmanager
def saved_by(save: Callable[[], str | None]) -> Iterator[None]:
    """Makes `save_all` call `save`, which saves what is done of a run, within the block.

    `save` may return how far the run is: "step 3 of 10".
    """
    _savers.append(save)
    try:
        yield
    finally:
        _savers.remove(save)


def save_all() -> list[str]:
    """Saves what is done of the runs of this process, which is about to end.

    Returns:
      How far they are, of those that say so.
    """
    return [place for place in [save() for save in _savers] if place]


def stop_on_signals(again: bool = True) -> None:
    """Makes Ctrl-C, SIGTERM and SIGHUP save what is done and end the process.

    Signals that are ignored, as by nohup, stay ignored.

    Args:
      again: let a second signal end it at once; else that changes nothing.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _ask if again else _ask_once)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """A block that a signal may end anywhere: errors that this causes are not reported.

    TensorFlow's contexts raise some when they are left in the middle of their own work.
    """
    try:
        yield
    except Exception:
        if _stopped and _asked:
            raise SystemExit(128 + _asked) from None
        raise


@contextlib.contextmanager
def unstoppable() -> Iterator[None]:
    """Delays requests to end the process until the block is done: half of it cannot be saved."""
    global _busy
    _busy += 1
    try:
        yield
    finally:
        _busy -= 1
    stop_if_asked()


def stop_if_asked() -> None:
    """Ends the process if a signal asked for it; Python drops its exception if it is in __del__."""
    global _stopped
    if _asked and not _busy:
        _stopped = True
        try:
            where = "".join(f" at {place}" for place in save_all())
            text = f"stopped{where}; the same command goes on"
        except UserError as error:
            text = f"error: {error}"
        # Not print, which may be what was interrupted.
        assert sys.__stderr__ is not None
        os.write(sys.__stderr__.fileno(), f"{text}\n".encode(errors="backslashreplace"))
        raise SystemExit(128 + _asked)


def _ask_once(number, _):
    if not _asked:
        _ask(number, _)


def _ask(number, _):
    global _asked
    _asked = number
    for each in _SIGNALS:
        if signal.getsignal(each) is _ask:
            signal.signal(each, signal.SIG_DFL)
    stop_if_asked()
