"""Sweeps: options of sbatch, copies of the code, jobs as pickles, states from crafted folders."""

import dataclasses
import json
import os
import pathlib
import pickle
import platform
import signal
import subprocess
import sys

import pytest
import submitit
from submitit.core.utils import FailedSubmissionError

import configs
from common import runs, sweeps
from common.errors import UserError
from tests import counting

CONFIG = str(pathlib.Path(__file__).parents[1] / "counting_config.py")


def make_job(folder, hid=0):
    command = ["tests.counting", "--config", CONFIG, f"--hid={hid}",
               f"--experiments_dir={folder / 'experiments'}"]
    return sweeps.Job("tests.counting", runs.read(counting.run, command), command)


# --- Names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wid, runname", [(0, "a"), (12, "two_layer-rd_lambda=1e-05"), (3, "")])
def test_names_of_folders_round_trip(wid, runname):
    assert runs.split_name(runs.folder_name(wid, runname)) == (wid, runname)


@pytest.mark.parametrize("name", ["wid=-small", "wid=1", "launches", "1-small", "wid=1.5-a"])
def test_folders_of_other_names(name):
    with pytest.raises(UserError, match="no folder of a run"):
        runs.split_name(name)


def test_a_run_is_what_the_command_line_says(monkeypatch):
    command = ["x", "--config", f"{CONFIG}:fast", "--hid", "2", "--config.train.fail_at=7"]
    run = runs.read(counting.run, command)
    assert run.overrides == {"train.num_steps": 2, "train.fail_at": -1}
    assert run.config.train.to_dict() == dict(num_steps=2, seconds=0.0, fail_at=7, last=2)
    assert str(run.workdir) == (
        "experiments/tests-counting_config-fast/"
        "wid=2-tests-counting_config-fast-num_steps=2-fail_at=7")
    named = dataclasses.replace(run, xid="mine")
    assert pickle.loads(pickle.dumps(named)).workdir.parent.name == "mine"
    # Within a job of Slurm the same command is the same run.
    workdir = run.workdir
    for job in "12", "13":
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", job)
        assert run.workdir == runs.read(counting.run, command).workdir == workdir


# --- Options of sbatch ----------------------------------------------------------------------------


def test_options_go_where_submitit_takes_them(monkeypatch):
    monkeypatch.setattr(configs, "SLURM_DEFAULTS", {"time": "2:00:00", "partition": "cpu"})
    monkeypatch.setattr(configs, "SLURM_SETUP", ["module load cuda"])
    parameters = sweeps.slurm_parameters(
        ["partition=gpu", "gpus-per-node=2", "mail-user=a@b.c", "exclusive", "reservation=x=y",
         "overcommit", "cpus_per_task=4"], "name")
    assert parameters == dict(
        time=120, partition="gpu", gpus_per_node=2, mail_user="a@b.c", exclusive=True,
        job_name="name", setup=["module load cuda"], cpus_per_task=4,
        srun_args=["--kill-on-bad-exit", "--cpus-per-task=4"],
        additional_parameters=dict(requeue=True, reservation="x=y", overcommit=True))


@pytest.mark.parametrize("text, minutes", [
    ("90", 90), ("90:30", 91), ("1:30:00", 90), ("2-0", 2880), ("1-1:30", 1530),
    ("0-00:00:30", 1)])
def test_time_limits(text, minutes):
    assert sweeps.slurm_parameters([f"time={text}"], "name")["time"] == minutes


@pytest.mark.parametrize("option, message", [
    ("=gpu", "key=value"), ("partition=", "key=value"), ("two words=1", "key=value"),
    ("time=soon", "days-hours"), ("time=1:2:3:4", "days-hours"), ("array=0-3", "launch uses it"),
    ("setup=module", "SLURM_SETUP"), ("open-mode=truncate", "launch uses it")])
def test_mistakes_in_options(option, message):
    with pytest.raises(UserError, match=message):
        sweeps.slurm_parameters([option], "name")


# --- Answers of sbatch and squeue -----------------------------------------------------------------


@pytest.mark.parametrize("answer", [
    "Submitted batch job 4711", "Submitted batch job 4711 on cluster c2", "4711", " 4711\n",
    "4711;c2", "\x1b[32mSubmitted batch job 4711\x1b[0m", "Job <4711> is submitted to queue <q1>.",
    "job_id=4711", "JobID: 4711", "Welcome to c2\n4711", "queued as 4711.", "job array 4711",
    "You have 3 jobs.\nSubmitted batch job 4711", "12 hours left of 100\n4711\n",
    "Begins when job 8 ends.\nSubmitted batch job 4711"])
def test_the_number_of_a_job_is_found_in_what_sbatch_prints(answer):
    executor = submitit.SlurmExecutor
    assert executor._get_job_id_from_submission_command(answer) == "4711"
    assert executor._get_job_id_from_submission_command(answer.encode()) == "4711"


@pytest.mark.parametrize("answer", ["", "accepted", "4 tasks on 2 nodes", "see /logs/4711", "v1.2"])
def test_no_number_is_made_up(answer):
    with pytest.raises(FailedSubmissionError, match=answer or "it says nothing"):
        sweeps._job_id(answer)


# --- Jobs -----------------------------------------------------------------------------------------


def test_the_copy_of_the_code_is_whole(tmp_path):
    sweeps.copy_code(tmp_path / "code")
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
    (tmp_path / "job").write_bytes(pickle.dumps(make_job(tmp_path)))
    subprocess.run(
        [sys.executable, "-c", "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'));"
         "assert 'tensorflow' not in sys.modules", str(tmp_path / "job")], check=True)


def test_a_job_runs_and_records_its_command(tmp_path, monkeypatch):
    job = make_job(tmp_path)
    monkeypatch.setattr(sys, "argv", ["submitit"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numbers.txt").write_text("1 2 3")
    job()
    assert sweeps.progress(job.run.workdir) == "done"
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
    job = make_job(tmp_path)
    job()
    row = sweeps.row(job, "11" if executor == "slurm" else None)
    assert pathlib.Path(row["folder"]).parent.name == experiment
    assert sweeps.progress(pathlib.Path(row["folder"])) == "done"


def test_a_users_mistake_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["submitit"])
    monkeypatch.setattr(sys, "tracebacklimit", 1000, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numbers.txt").touch()
    with pytest.raises(UserError, match="cannot count beyond 1") as failure:
        make_job(tmp_path, hid=1)()
    assert failure.value.__suppress_context__ and sys.tracebacklimit == 0


def test_a_job_to_be_requeued_saves_and_stays_the_same(tmp_path, capsys):
    job, saved = make_job(tmp_path), []
    with runs.saved_by(lambda: saved.append(1)):
        delayed = job.checkpoint()
    assert saved == [1] and delayed.function is job
    job.checkpoint()
    assert saved == [1], "the run is over"

    def fail():
        raise OSError("no space")

    with runs.saved_by(fail):
        assert job.checkpoint().function is job
    assert "no space" in capsys.readouterr().err


def test_a_job_that_is_to_be_killed_saves(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["submitit"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numbers.txt").touch()
    job, before = make_job(tmp_path), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(counting.time, "sleep", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    try:
        job()  # it goes on till it is killed
    finally:
        signal.signal(signal.SIGTERM, before)
    assert json.loads((job.run.workdir / "saved.json").read_text()) == 3


# --- States ---------------------------------------------------------------------------------------


@pytest.fixture
def launch(tmp_path):
    """A launch of the four runs of counting_config.py, none of which has begun."""
    launch = sweeps.Launch(tmp_path / "experiments/launches/20261121T120000Z-counting")
    (launch.folder / "jobs").mkdir(parents=True)
    launch.record = {"slurm": True, "host": platform.node(),
                     "runs": [sweeps.row(make_job(tmp_path, hid)) for hid in range(4)]}
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
    return [row["state"] for row in sweeps.rows(folder)]


def test_states_of_a_launch(launch, monkeypatch):
    queue = {"7_0": "PENDING", "7_1": "RUNNING", "7_2": "RUNNING", "7_3": "PENDING"}
    monkeypatch.setattr(sweeps, "_queue", lambda jobs: {
        job: state for job, state in queue.items() if job in jobs})
    assert states(launch.folder) == ["waiting"] * 4
    for wid in range(4):
        launch._note(wid, launch.folder / "jobs", f"7_{wid}")
    begin(launch, 1)
    begin(launch, 2, steps=4)
    begin(launch, 3, steps=5)
    assert states(launch.folder) == [
        "pending", "running", "running at step 4 of 10", "requeued at step 5 of 10"]
    assert all(map(sweeps.is_under_way, sweeps.rows(launch.folder)))

    queue.clear()
    begin(launch, 0, result=("success", None))
    begin(launch, 1, result=("error", "Traceback (most recent call last):\n  File x\nOSError: a\n"
                             "\nDuring handling ...:\n\nTraceback (most recent call last):\n"
                             "  File y\n    raise\nValueError: too\nmuch\n"))
    begin(launch, 3, result=("error", "common.errors.UserError: no data\n"))
    with open(f"{launch.record['runs'][2]['files']}_0_log.err", "w") as file:
        file.write("begins\nerror: JOB 9 CANCELLED DUE TO TIME LIMIT\n\n")
    assert states(launch.folder) == ["done", "failed", "stopped at step 4 of 10", "failed"]
    *table, first, second, third = sweeps.render(sweeps.rows(launch.folder)).splitlines()
    assert len(table) == 5 and "train.num_steps=3, train.fail_at=-1" in table[1]
    log = launch.folder / "jobs/7_1_0_log.err"
    assert first == f"wid=1 failed: ValueError: too; log: {log}"
    assert second.startswith(
        "wid=2 stopped at step 4 of 10: error: JOB 9 CANCELLED DUE TO TIME LIMIT; log: ")
    assert third.startswith("wid=3 failed: no data; log: ")
    assert not any(map(sweeps.is_under_way, sweeps.rows(launch.folder)))


def test_an_experiment_has_runs_of_several_launches_and_by_hand(launch, monkeypatch, tmp_path):
    monkeypatch.setattr(sweeps, "_queue", lambda jobs: {})
    begin(launch, 0, result=("error", "common.errors.UserError: no data\n"))
    begin(launch, 1, result=("success", None))
    again = sweeps.Launch(launch.folder.with_name("20261121T130000Z-counting"))
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
    assert [(row["wid"], row["state"]) for row in sweeps.rows(experiment)] == [
        (0, "done"), (1, "done"), (2, "waiting"), (3, "waiting"), (5, "at image 1"),
        (6, "empty"), (10, "at step 2 of 2")]
    (trained / "model").mkdir()
    (trained / "model/fingerprint").touch()
    assert sweeps.progress(trained) == "done"


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
        sweeps.rows(launch.folder)
    # Of what has ended by itself, the files tell.
    for row in launch.record["runs"][:2]:
        with open(f"{row['files']}_0_result.pkl", "wb") as file:
            pickle.dump(("success", None), file)
    assert states(launch.folder) == ["done", "done", "waiting", "waiting"]


def test_the_queue_of_slurm(monkeypatch):
    def answer(code, out, errors=""):
        done = subprocess.CompletedProcess([], code, out, errors)
        monkeypatch.setattr(sweeps.subprocess, "run", lambda *_, **__: done)
        return sweeps._queue({"7_0", "7_1"})

    assert answer(0, "7_0 RUNNING\n7_1 PENDING\n") == {"7_0": "RUNNING", "7_1": "PENDING"}
    assert answer(0, "Welcome to c2, it is 7 o'clock\n  7_0 RUNNING \n") == {"7_0": "RUNNING"}
    assert answer(1, "", "slurm_load_jobs error: Invalid job id specified\n") == {}
    with pytest.raises(UserError, match="Unable to contact"):
        answer(1, "", "squeue: error: Unable to contact slurm controller\n")


@pytest.mark.parametrize("content, message", [(None, "neither"), ("{", "cannot be read")])
def test_folders_without_states(tmp_path, content, message):
    if content:
        (tmp_path / "launch.json").write_text(content)
    with pytest.raises(UserError, match=message):
        sweeps.rows(tmp_path)
