"""States of runs, from crafted folders of launches."""

import json
import os
import pickle
import platform
import subprocess

import pytest

from common import launching, run_states, slurm
from common.errors import UserError
from tests.helpers import counting


@pytest.fixture
def launch(tmp_path):
    """A launch of the four runs of counting_config.py, none of which has begun."""
    launch = launching.Launch(tmp_path / "experiments/launches/20261121T120000Z-counting")
    (launch.folder / "jobs").mkdir(parents=True)
    launch.record = {"slurm": True, "host": platform.node(),
                     "runs": [launching.row(counting.make_job(tmp_path, hid)) for hid in range(4)]}
    launch._write()
    return launch


def begin(launch, wid, steps=None, result=None, errors=""):
    """Crafts what a job leaves: its id, step and half a line of metrics, result and log."""
    launch._note(wid, launch.folder / "jobs", f"7_{wid}")
    files = launch.record["runs"][wid]["files"]
    with open(f"{files}_0_log.err", "w") as file:
        file.write(errors)
    if result:
        with open(f"{files}_0_result.pkl", "wb") as file:
            pickle.dump(result, file)
    if steps is not None:
        folder = launch.record["runs"][wid]["folder"]
        os.makedirs(folder)
        with open(f"{folder}/config.json", "w") as file:
            json.dump({"train": {"num_steps": 10}}, file)
        with open(f"{folder}/metrics.jsonl", "w") as file:
            file.write("".join(f'{{"step": {i + 1}}}\n' for i in range(steps)) + '{"step": 1')


def states(folder):
    return [row["state"] for row in run_states.rows(folder)]


def test_states_of_a_launch(launch, monkeypatch):
    queue = {"7_0": "PENDING", "7_1": "RUNNING", "7_2": "RUNNING", "7_3": "PENDING"}
    monkeypatch.setattr(slurm, "queue", lambda jobs: {
        job: state for job, state in queue.items() if job in jobs})
    assert states(launch.folder) == ["waiting"] * 4
    for wid in range(4):
        launch._note(wid, launch.folder / "jobs", f"7_{wid}")
    begin(launch, 1)
    begin(launch, 2, steps=4)
    begin(launch, 3, steps=5)
    assert states(launch.folder) == [
        "pending", "running", "running at step 4 of 10", "requeued at step 5 of 10"]
    assert all(map(run_states.is_under_way, run_states.rows(launch.folder)))

    queue.clear()
    begin(launch, 0, result=("success", None))
    begin(launch, 1, result=("error", "Traceback (most recent call last):\n  File x\nOSError: a\n"
                             "\nDuring handling ...:\n\nTraceback (most recent call last):\n"
                             "  File y\n    raise\nValueError: too\nmuch\n"))
    begin(launch, 3, result=("error", "common.errors.UserError: no data\n"))
    with open(f"{launch.record['runs'][2]['files']}_0_log.err", "w") as file:
        file.write("begins\nerror: JOB 9 CANCELLED DUE TO TIME LIMIT\n\n")
    assert states(launch.folder) == ["done", "failed", "stopped at step 4 of 10", "failed"]
    *table, first, second, third = run_states.render(run_states.rows(launch.folder)).splitlines()
    assert len(table) == 5 and "train.num_steps=3, train.fail_at=-1" in table[1]
    log = launch.folder / "jobs/7_1_0_log.err"
    assert first == f"wid=1 failed: ValueError: too; log: {log}"
    assert second.startswith(
        "wid=2 stopped at step 4 of 10: error: JOB 9 CANCELLED DUE TO TIME LIMIT; log: ")
    assert third.startswith("wid=3 failed: no data; log: ")
    assert not any(map(run_states.is_under_way, run_states.rows(launch.folder)))


def test_an_experiment_has_runs_of_several_launches_and_by_hand(launch, monkeypatch, tmp_path):
    monkeypatch.setattr(slurm, "queue", lambda jobs: {})
    begin(launch, 0, result=("error", "common.errors.UserError: no data\n"))
    begin(launch, 1, result=("success", None))
    again = launching.Launch(launch.folder.with_name("20261121T130000Z-counting"))
    (again.folder / "jobs").mkdir(parents=True)
    again.record = {**launch.record, "runs": launch.record["runs"][:1]}
    begin(again, 0, steps=10, result=("success", None))
    experiment = tmp_path / "experiments/tests-counting_config"
    for wid, name in (5, "refined"), (6, "new"), (10, "trained"):
        (experiment / f"wid={wid}-{name}").mkdir()
    (experiment / "wid=5-refined/config.json").write_text('{"itinf": {}}')
    (experiment / "wid=5-refined/a").mkdir()
    (experiment / "wid=5-refined/a/result.json").touch()
    trained = experiment / "wid=10-trained"
    (trained / "config.json").write_text('{"train": {"num_steps": 2}}')
    (trained / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    assert [(row["wid"], row["state"]) for row in run_states.rows(experiment)] == [
        (0, "done"), (1, "done"), (2, "waiting"), (3, "waiting"), (5, "at image 1"),
        (6, "empty"), (10, "at step 2 of 2")]
    (trained / "model").mkdir()
    (trained / "model/fingerprint").touch()
    assert run_states.progress(trained) == "done"


def test_processes_of_this_machine(launch):
    launch.record["slurm"] = False
    launch._note(0, launch.folder / "jobs", str(os.getpid()))
    ended = subprocess.Popen(["true"])
    ended.wait()
    launch._note(1, launch.folder / "jobs", str(ended.pid))
    assert states(launch.folder) == ["running", "stopped", "waiting", "waiting"]
    launch.record["host"] = "another"
    launch._write()
    with pytest.raises(UserError, match="processes of another: ask there"):
        run_states.rows(launch.folder)
    # Of what has ended by itself, the files tell.
    for row in launch.record["runs"][:2]:
        with open(f"{row['files']}_0_result.pkl", "wb") as file:
            pickle.dump(("success", None), file)
    assert states(launch.folder) == ["done", "done", "waiting", "waiting"]


@pytest.mark.parametrize("content, message", [(None, "neither"), ("{", "cannot be read")])
def test_folders_without_states(tmp_path, content, message):
    if content:
        (tmp_path / "launch.json").write_text(content)
    with pytest.raises(UserError, match=message):
        run_states.rows(tmp_path)
