"""Options of sbatch, and answers of sbatch and squeue."""

import subprocess

import pytest
import submitit
from submitit.core.utils import FailedSubmissionError

import configs
from common import slurm
from common.errors import UserError


@pytest.fixture(autouse=True)
def srun(monkeypatch):
    """As if there were one, on machines without Slurm."""
    which = slurm.shutil.which
    monkeypatch.setattr(slurm.shutil, "which",
                        lambda name: "/bin/srun" if name == "srun" else which(name))


# --- Options of sbatch ----------------------------------------------------------------------------


def test_options_go_where_submitit_takes_them(monkeypatch):
    monkeypatch.setattr(configs, "SLURM_DEFAULTS", {"time": "2:00:00", "partition": "cpu"})
    monkeypatch.setattr(configs, "SLURM_SETUP", ["module load cuda"])
    parameters = slurm.parameters(
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
    assert slurm.parameters([f"time={text}"], "name")["time"] == minutes


@pytest.mark.parametrize("option, message", [
    ("=gpu", "key=value"), ("partition=", "key=value"), ("two words=1", "key=value"),
    ("time=soon", "days-hours"), ("time=1:2:3:4", "days-hours"), ("array=0-3", "launch uses it"),
    ("setup=module", "SLURM_SETUP"), ("open-mode=truncate", "launch uses it")])
def test_mistakes_in_options(option, message):
    with pytest.raises(UserError, match=message):
        slurm.parameters([option], "name")


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
        slurm._job_id(answer)


def test_the_queue_of_slurm(monkeypatch):
    def answer(code, out, errors=""):
        done = subprocess.CompletedProcess([], code, out, errors)
        monkeypatch.setattr(slurm.subprocess, "run", lambda *_, **__: done)
        return slurm.queue({"7_0", "7_1"})

    assert answer(0, "7_0 RUNNING\n7_1 PENDING\n") == {"7_0": "RUNNING", "7_1": "PENDING"}
    assert answer(0, "Welcome to c2, it is 7 o'clock\n  7_0 RUNNING \n") == {"7_0": "RUNNING"}
    assert answer(1, "", "slurm_load_jobs error: Invalid job id specified\n") == {}
    with pytest.raises(UserError, match="Unable to contact"):
        answer(1, "", "squeue: error: Unable to contact slurm controller\n")
