"""launch.py on a real Slurm."""

import csv
import json
import pathlib
import subprocess
import time

import pytest

from common import images, launching, run_states
from tests.helpers.launches import COUNTING, launch, launch_here
from tests.helpers.tiny import TINY, TRAINING, photographs

# A config whose sweep has two runs, both of the tiny model.
CONFIG = '''
from common import recipes
from mshyper.configs import small


def get_config():
    return small.get_config()


def get_hyper():
    return [{"train.rd_lambda": value} for value in (0.01, 0.04)]
'''


def wait_for(condition, seconds=300):
    """Waits until `condition()` is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never was so"
        time.sleep(0.05)


def states(folder):
    return [row["state"] for row in run_states.rows(folder)]


def last_step(workdir):
    return run_states._last_step(workdir / "metrics.jsonl")


def preempt(job, started):
    """Asks a job to make room, and lets it begin again, which Slurm would delay by two minutes."""
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    wait_for(lambda: started() == "requeued")
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "numbers.txt").write_text("1 2 3")
    return tmp_path


@pytest.mark.slow
def test_a_failing_run_leaves_the_others_alone(slurm, folder):
    code, out, errors = launch(folder, *COUNTING, "--wait")
    assert code == 1, errors
    # Named for the job; each task of it has an entry of the sweep.
    launched, = (folder / "experiments/launches").iterdir()
    experiment, = {path for path in (folder / "experiments").iterdir() if path.name.isdigit()}
    assert {path.name.partition("-")[0] for path in experiment.iterdir()} == {
        f"wid={wid}" for wid in range(4)}
    assert states(experiment) == states(launched) == ["done", "failed", "done", "failed"]
    first, third = out.splitlines()[-2:]
    assert first == (f"wid=1 failed: cannot count beyond 1; log: {launched}/jobs/"
                     f"{experiment.name}_1_0_log.err")
    assert third.startswith("wid=3 failed: ")
    for workdir in experiment.iterdir():
        seen = json.loads((workdir / "seen.json").read_text())
        assert seen["code"] == f"{launched}/code/common/__init__.py"
        assert seen["numbers"] == "1 2 3"


@pytest.mark.slow
def test_jobs_are_requeued_or_stopped(slurm, folder):
    code, out, errors = launch(
        folder, *COUNTING, "--hids", "0", "2", "--xid", "mine", "--args",
        "--config.train.num_steps=100")
    assert code == 0, errors
    launched, = (folder / "experiments/launches").iterdir()
    rows = launching.Launch(launched).read().record["runs"]
    requeued, stopped = (pathlib.Path(row["folder"]) for row in rows)
    wait_for(lambda: min(last_step(requeued), last_step(stopped)) >= 3)
    assert [state.split()[0] for state in states(launched)] == ["running", "running"]
    subprocess.run(["scancel", rows[1]["job"]], check=True)
    preempt(rows[0]["job"], lambda: states(launched)[0].split()[0])
    assert json.loads((requeued / "saved.json").read_text()) >= 3
    wait_for(lambda: not any(map(run_states.is_under_way, run_states.rows(launched))))
    assert states(launched)[0] == "done"
    steps = [json.loads(line)["step"] for line in
             (requeued / "metrics.jsonl").read_text().splitlines()]
    assert steps == [*range(1, 101)]
    row = run_states.rows(launched)[1]
    assert row["state"].startswith("stopped at step") and "CANCELLED" in row["cause"]
    assert json.loads((stopped / "saved.json").read_text()) >= 3


@pytest.mark.slow
def test_what_slurm_refuses_is_one_line(slurm, folder):
    code, _, errors = launch(folder, *COUNTING, "--slurm", "partition=nowhere")
    assert code == 2 and "invalid partition" in errors
    assert len(errors.splitlines()) == 1 and errors.startswith("error: Slurm does not take")
    assert not [*(folder / "experiments/launches").iterdir()]


@pytest.mark.slow
def test_a_sweep_trains_resumes_and_gives_a_curve(slurm, folder, photo, capsys):
    (folder / "config.py").write_text(CONFIG)
    code, _, errors = launch_here(
        folder, capsys, *TRAINING[:3], "config.py", "--slurm", "cpus_per_task=1",
        "array_parallelism=2", "--xid", "mine", "--args", *TINY,
        f"--config.data.validation={photographs()}", "--config.train.num_steps=100",
        "--config.train.checkpoint_interval=50")
    assert code == 0, errors
    launched, = (folder / "experiments/launches").iterdir()
    rows = launching.Launch(launched).read().record["runs"]
    requeued, other = (pathlib.Path(row["folder"]) for row in rows)
    # In mid-training, one of them is told to make room.
    wait_for(lambda: last_step(requeued) >= 10)
    preempt(rows[0]["job"], lambda: states(launched)[0].split()[0])
    steps = [int(path.stem.rpartition("-")[2]) for path in
             (requeued / "checkpoints").glob("step-*.index")]
    assert steps and all(0 < step < 100 for step in steps)
    wait_for(lambda: not any(map(run_states.is_under_way, run_states.rows(launched))))
    assert states(launched) == ["done"] * 2
    logged = [[(line["step"], line["split"]) for line in
               map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())]
              for workdir in (requeued, other)]
    assert logged[0] == logged[1] and len(logged[0]) == 22

    images.write(folder / "photo.png", photo[100:164, 200:296])
    (folder / "experiments/mine/wid=2-half/checkpoints").mkdir(parents=True)
    code, out, errors = launch_here(
        folder, capsys, "--main", "evaluate", "--wait", "--slurm", "array_parallelism=2", "--args",
        "--runs", "experiments/mine", "--dataset", "photo.png")
    assert code == 0, errors
    assert "wid=2-half has no exported model yet" in errors
    assert [line.split()[-2] for line in out.splitlines()[-3:]] == ["done"] * 3
    results = folder / "results/photo.png"
    with open(results / "curves.csv") as file:
        rows = [*csv.DictReader(file)]
    assert [row["run"] for row in rows] == [requeued.name, other.name]
    assert {row["curve"] for row in rows} == {"mine"}
    assert len(json.loads((results / "mine.json").read_text())["results"]["bpp"]) == 2
    assert (results / "curves.png").exists()
