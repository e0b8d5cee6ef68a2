"""Locks of folders: one process at a time, and what is left of dead ones is no obstacle."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from common import locks
from common.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
HOLD = "import sys, time; from common import locks\n" \
       "with locks.held(sys.argv[1]): print('held', flush=True); time.sleep(60)"


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock of tmp_path / "run"."""
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture
def elsewhere(tmp_path):
    """Writes the lock of a process of another machine, touched `age` seconds ago."""
    def write(age=0.0, **facts):
        (tmp_path / "run").mkdir(exist_ok=True)
        path = tmp_path / "run" / locks.NAME
        path.write_text(json.dumps({**locks._this_process(), "host": "node7", "machine": "other",
                                    **facts}))
        os.utime(path, (time.time() - age,) * 2)
        return path

    return write


def test_a_folder_is_one_processs_at_a_time(other, tmp_path):
    with (pytest.raises(UserError, match=rf"in use by process {other.pid} on .*another folder"),
          locks.held(tmp_path / "run")):
        pass
    assert (tmp_path / "run" / locks.NAME).exists()
    with locks.held(tmp_path / "another"):
        pass


def test_a_process_that_was_killed_holds_nothing(other, tmp_path):
    other.kill()
    # Not waited for: it is a zombie, as in a container whose first process does not wait.
    deadline = time.monotonic() + 10
    while locks._began(other.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    with locks.held(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / locks.NAME).read_text())["pid"] == os.getpid()
    assert not [*(tmp_path / "run").iterdir()]


def test_another_process_may_have_its_number_by_now(elsewhere, tmp_path):
    elsewhere(machine=locks._machine(), pid=os.getpid(), began="1")
    with locks.held(tmp_path / "run"):
        pass


def test_another_machines_process_lives_as_long_as_it_touches_the_lock(elsewhere, tmp_path):
    elsewhere(age=locks.STALE / 2, pid=2**22, job="12_3")
    with (pytest.raises(UserError, match="on node7, Slurm job 12_3.* 3 minutes after"),
          locks.held(tmp_path / "run")):
        pass
    elsewhere(age=locks.STALE + 5)
    with locks.held(tmp_path / "run"):
        pass


@pytest.mark.parametrize("job, restarts, free", [
    ("12_3", "1", True), ("12_3", "0", False), ("12_4", "1", False)])
def test_a_requeued_job_goes_on_in_its_own_folder(
        elsewhere, tmp_path, monkeypatch, job, restarts, free):
    elsewhere(job="12_3", restarts=0)
    array, _, task = job.partition("_")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", array)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    if free:
        with locks.held(tmp_path / "run"):
            pass
    else:
        with pytest.raises(UserError, match="node7"), locks.held(tmp_path / "run"):
            pass


@pytest.mark.parametrize("text", ["", "{", "null", '{"pid": "x"}'])
def test_a_lock_that_says_nothing_counts_until_it_is_old(tmp_path, text):
    path = tmp_path / locks.NAME
    path.write_text(text)
    with pytest.raises(UserError, match="does not say who it is"), locks.held(tmp_path):
        pass
    os.utime(path, (0, 0))
    with locks.held(tmp_path):
        pass
    assert not path.exists()


def test_who_holds_a_lock_touches_it_and_notices_its_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT", 0.02)
    path = tmp_path / locks.NAME

    def wait(condition):
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with locks.held(tmp_path) as lock:
        os.utime(path, (0, 0))
        wait(lambda: path.stat().st_mtime > 0)
        lock.require()
        path.write_text("another's")
        wait(lambda: lock._lost)
        with pytest.raises(UserError, match="took the folder over"):
            lock.require()
    assert path.read_text() == "another's"


def test_folders_go_again_if_nothing_is_put_into_them(tmp_path):
    with pytest.raises(RuntimeError), locks.held(tmp_path / "a/b"):
        raise RuntimeError
    assert not [*tmp_path.iterdir()]
    with locks.held(tmp_path / "a/b"):
        (tmp_path / "a/b/file").touch()
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["file"]
