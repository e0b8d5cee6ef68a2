"""Launching: copies of the code, and jobs as pickles."""

import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys

import pytest

from common import launching, run_states, runs, stopping
from common.errors import UserError
from tests.helpers import counting


def test_the_copy_of_the_code_is_whole(tmp_path):
    launching.copy_code(tmp_path / "code")
    names = {path.name for path in (tmp_path / "code").iterdir()}
    assert {"configs.py", "evaluate.py", "common", "mshyper", "COMMIT"} <= names
    assert not names & {"zoo", ".git", ".venv", "data", "experiments"}
    assert (tmp_path / "code/mshyper/configs/small.py").exists()
    assert not [*(tmp_path / "code").rglob("__pycache__")]
    # It knows its commit, wherever it lies.
    found = subprocess.run(
        [sys.executable, "-c", "from common import runs; print(runs.__file__, runs.git_commit())"],
        cwd=tmp_path / "code", capture_output=True, text=True, check=True).stdout.split()
    assert found == [str(tmp_path / "code/common/runs.py"), str(runs.git_commit())]


def test_a_job_is_unpickled_without_tensorflow(tmp_path):
    (tmp_path / "job").write_bytes(pickle.dumps(counting.make_job(tmp_path)))
    subprocess.run(
        [sys.executable, "-c", "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'));"
         "assert 'tensorflow' not in sys.modules", str(tmp_path / "job")], check=True)


def test_a_job_runs_and_records_its_command(tmp_path, monkeypatch):
    job = counting.make_job(tmp_path)
    monkeypatch.setattr(sys, "argv", ["submitit"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numbers.txt").write_text("1 2 3")
    job()
    assert run_states.progress(job.run.workdir) == "done"
    info = json.loads((job.run.workdir / "run_info.json").read_text())
    assert info["command"] == job.command


@pytest.mark.parametrize("executor, experiment", [
    ("slurm", "11"), ("local", "tests-counting_config")])
def test_only_an_experiment_that_slurm_does_is_named_for_the_job(
        tmp_path, monkeypatch, executor, experiment):
    monkeypatch.setattr(sys, "argv", ["submitit"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numbers.txt").touch()
    for name, value in {"SUBMITIT_EXECUTOR": executor, "SLURM_JOB_ID": "12", "SLURM_PROCID": "0",
                        "SLURM_ARRAY_JOB_ID": "11", "SLURM_ARRAY_TASK_ID": "0"}.items():
        monkeypatch.setenv(name, value)
    job = counting.make_job(tmp_path)
    job()
    row = launching.row(job, "11" if executor == "slurm" else None)
    assert pathlib.Path(row["folder"]).parent.name == experiment
    assert run_states.progress(pathlib.Path(row["folder"])) == "done"


def test_a_users_mistake_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["submitit"])
    monkeypatch.setattr(sys, "tracebacklimit", 1000, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numbers.txt").touch()
    with pytest.raises(UserError, match="cannot count beyond 1") as failure:
        counting.make_job(tmp_path, hid=1)()
    assert failure.value.__suppress_context__ and sys.tracebacklimit == 0


def test_a_job_to_be_requeued_saves_and_stays_the_same(tmp_path, capsys):
    job, saved = counting.make_job(tmp_path), []
    with stopping.saved_by(lambda: saved.append(1)):
        delayed = job.checkpoint()
    assert saved == [1] and delayed.function is job
    job.checkpoint()
    assert saved == [1], "the run is over"

    def fail():
        raise OSError("no space")

    with stopping.saved_by(fail):
        assert job.checkpoint().function is job
    assert "no space" in capsys.readouterr().err


def test_a_job_that_is_to_be_killed_saves(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["submitit"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numbers.txt").touch()
    job, before = counting.make_job(tmp_path), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(counting.time, "sleep", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    try:
        job()  # it goes on till it is killed
    finally:
        signal.signal(signal.SIGTERM, before)
    assert json.loads((job.run.workdir / "saved.json").read_text()) == 3
