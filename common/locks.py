"""Locks: a run's folder belongs to one process at a time, also where several machines share it.

The file `lock` in it says to which. The process removes it when it ends; one that was killed leaves
it behind, and the next process takes the folder over if it can tell that the other is gone:

    on the same machine     no process has that number, or the one that has it began at another time
    on another machine      the file, which its process touches every `HEARTBEAT` seconds, has not
                            been touched for `STALE` seconds; or it is of this same Slurm job,
                            before that was requeued
"""

import contextlib
import datetime
import json
import os
import pathlib
import platform
import threading
import uuid
from collections.abc import Iterator

from common.errors import FolderTaken, UserError

NAME = "lock"
HEARTBEAT, STALE = 20.0, 180.0  # seconds
_PROC = pathlib.Path("/proc")


class Lock:
    """The lock of a folder, to be had from `held`.

    Args:
      path: the file.

    Raises:
      FolderTaken: another process holds it.
      OSError: it cannot be written.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._text = json.dumps(_this_process())
        self._ended = threading.Event()
        self._lost = False
        while not self._create():
            self._remove_stale()
        threading.Thread(target=self._beat, daemon=True).start()

    def require(self) -> None:
        """Raises UserError if another process has taken the folder over.

        That can happen if this process, or its machine, has stood still for long.
        """
        if self._lost:
            raise UserError(f"{self._path} is not this process's any more: it was removed, or "
                            "another process took the folder over, as this one seemed dead; what "
                            "it did since its last checkpoint is not kept")

    def release(self) -> None:
        """Lets others have the folder."""
        self._ended.set()
        with contextlib.suppress(OSError):
            if self._path.read_text() == self._text:
                self._path.unlink()

    def _create(self):
        try:
            with open(self._path, "x") as file:
                file.write(self._text)
        except FileExistsError:
            return False
        return True

    def _remove_stale(self):
        aside = self._path.with_name(f"{NAME}.{uuid.uuid4().hex}")
        try:
            text = self._path.read_text(errors="replace")
            if _is_alive(holder := _parse(text), self._path, aside):
                raise FolderTaken(_described(holder, self._path))
            os.rename(self._path, aside)
            if aside.read_text(errors="replace") != text:  # another process took it over just now
                os.rename(aside, self._path)
            else:
                aside.unlink()
        except FileNotFoundError:  # its process has ended just now
            pass

    def _beat(self):
        while not self._ended.wait(HEARTBEAT):
            try:
                if self._path.read_text(errors="replace") != self._text:
                    self._lost = True
                    return
                os.utime(self._path)
            except FileNotFoundError:
                self._lost = not self._ended.is_set()
                return
            except OSError:  # a file server that does not answer may do so again
                pass


@contextlib.contextmanager
def held(folder: str | os.PathLike) -> Iterator[Lock]:
    """Holds the lock of a folder. A missing folder is created, and removed if it stays empty.

    Raises:
      FolderTaken: another process holds it; the message says which.
    """
    folder = pathlib.Path(folder)
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = Lock(folder / NAME)
        try:
            yield lock
        finally:
            lock.release()
    finally:
        with contextlib.suppress(OSError):
            for each in missing:
                each.rmdir()


def _this_process() -> dict:
    return {
        "host": platform.node(),
        "machine": _machine(),
        "pid": os.getpid(),
        "began": _began(os.getpid()),
        "job": _job(),
        "restarts": int(os.environ.get("SLURM_RESTART_COUNT", 0)),
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "number": uuid.uuid4().hex,
    }


def _machine() -> str:
    """A name for the processes that see each other's numbers: the boot, and the namespace."""
    try:
        return " ".join([(_PROC / "sys/kernel/random/boot_id").read_text().strip(),
                         os.readlink(_PROC / "self/ns/pid")])
    except OSError:  # not Linux
        return platform.node()


def _began(pid: int) -> str | None:
    """When a process of this machine began, in the kernel's ticks; None if there is none."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]  # a zombie has ended
    except FileNotFoundError:
        if (_PROC / "self").exists():
            return None
    try:  # not Linux
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:  # it is another user's
        pass
    return "unknown"


def _job() -> str | None:
    names = ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")
    if all(name in os.environ for name in names):
        return "_".join(os.environ[name] for name in names)
    return os.environ.get("SLURM_JOB_ID")


def _parse(text: str) -> dict:
    """The content of a lock; nothing if its process is still writing it, or it is damaged."""
    try:
        holder = json.loads(text)
        return {**holder, "pid": int(holder["pid"]), "restarts": int(holder["restarts"])}
    except (ValueError, TypeError, KeyError):
        return {}


def _is_alive(holder: dict, path: pathlib.Path, probe: pathlib.Path) -> bool:
    """Whether the process that holds the lock `path` may still work. `probe` is a path beside."""
    this = _this_process()
    if holder and holder.get("machine") == this["machine"]:
        return _began(holder["pid"]) == holder.get("began")
    if holder.get("job") and holder["job"] == this["job"] and (
            holder["restarts"] < this["restarts"]):
        return False
    probe.touch()  # for the time as the file server has it
    try:
        return probe.stat().st_mtime - path.stat().st_mtime < STALE
    finally:
        probe.unlink()


def _described(holder: dict, path: pathlib.Path) -> str:
    who = "a process that does not say who it is"
    if holder:
        job = f", Slurm job {holder['job']}" if holder.get("job") else ""
        who = f"process {holder['pid']} on {holder.get('host')}{job}, since {holder.get('since')}"
    later = "" if holder.get("machine") == _machine() else (
        f" (should it be dead, the same command works {STALE / 60:g} minutes after its end)")
    return (f"{path.parent} is in use by {who}: wait for it, stop it, or choose another "
            f"folder{later}")
