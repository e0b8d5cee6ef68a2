"""Slurm: options of sbatch, and what sbatch and squeue answer."""

import math
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from typing import Any

import submitit
from submitit.core.utils import FailedSubmissionError

import configs
from common.errors import UserError

# Options of sbatch that are submitit's or launch.py's own.
_RESERVED = ("additional_parameters", "array", "error", "open_mode", "output", "setup", "signal",
             "srun_args", "stderr_to_stdout", "teardown", "use_srun")


def parameters(options: Sequence[str], name: str) -> dict[str, Any]:
    """Parameters of submitit for options of sbatch; configs.SLURM_DEFAULTS has the others.

    Args:
      options: "key=value", or "key" for one that takes no value.
      name: of the jobs, if the options have none.

    Raises:
      UserError: a mistake in the options.
    """
    given = {}
    for option in options:
        match = re.fullmatch(r"([a-z][\w-]*)(?:=(.+))?", option, re.IGNORECASE)
        if not match:
            raise UserError(f"'{option}' is not an option of sbatch as key=value, for example "
                            "partition=gpu time=8:00:00")
        given[match[1].replace("-", "_")] = True if match[2] is None else match[2]
    reserved = sorted(given.keys() & {*_RESERVED})
    if reserved:
        raise UserError(f"option {reserved[0]} cannot be given: launch uses it itself (commands "
                        "to begin jobs with are SLURM_SETUP of configs.py)")
    given = {"job_name": name, **configs.SLURM_DEFAULTS, **given}
    if not shutil.which("srun"):
        raise UserError("there is no srun here, with which jobs begin, only sbatch")
    given = {key: int(value) if str(value).isdigit() else value for key, value in given.items()}
    given["time"] = _minutes(given["time"])
    known = submitit.SlurmExecutor._valid_parameters()
    taken = {key: value for key, value in given.items() if key in known}
    # Where the cluster's default is not to requeue, submitit could not.
    taken["additional_parameters"] = {
        "requeue": True, **{key: value for key, value in given.items() if key not in known}}
    # Of several tasks, none can go on without the others.
    srun_args = ["--kill-on-bad-exit"]
    if "cpus_per_task" in given:  # srun does not take it over from sbatch since Slurm 22.05
        srun_args.append(f"--cpus-per-task={given['cpus_per_task']}")
    return taken | {"setup": configs.SLURM_SETUP or None, "srun_args": srun_args}


def _minutes(text):
    """Minutes of a time limit as sbatch takes it: 90, 90:00, 1:30:00, 0-1, 0-1:30 or 0-1:30:00."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(text))
    if not match:
        raise UserError(f"option time={text}: need minutes, hours:minutes:seconds or "
                        "days-hours:minutes:seconds")
    days, *numbers = match.groups()
    numbers = [int(number) for number in numbers if number]
    if days is None and len(numbers) < 3:
        numbers.insert(0, 0)
    hours, minutes, seconds, *_ = [*numbers, 0, 0]
    return math.ceil((int(days or 0) * 24 + hours) * 60 + minutes + seconds / 60)


def _job_id(answer: str | bytes) -> str:
    """The number of a job in what sbatch, or a site's own wrapper of it, printed.

    That is what follows "job", or else a line that is nothing but a number (to which `--parsable`
    adds a cluster's name), or the only number.

    Raises:
      FailedSubmissionError: there is none, or it could be any of several.
    """
    text = answer if isinstance(answer, str) else answer.decode(errors="replace")
    text = re.sub(r"\x1b\[[\d;]*m", "", text)  # colours
    found = next(filter(None, (set(re.findall(pattern, text)) for pattern in _JOB_IDS)), ())
    if len(found) != 1:
        said = " ".join(text.split())
        raise FailedSubmissionError(
            f"sbatch does not say what the job is called, it says {said or 'nothing'}")
    return found.pop()


# Where it stands, the first of these that is there.
_JOB_IDS = (r"(?i)submitted batch job (\d+)",
            r"(?i)\bjob[ _-]?(?:id|array|number)?[^\w\n]{0,4}(\d+)\b",
            r"(?m)^\s*(\d+)(?:;\S*)?\s*$",
            r"(?<![\w.:/-])(\d+)(?![\w:/-]|\.\d)")
# Not in a subclass: for an array, submitit makes an executor of its own class.
submitit.SlurmExecutor._get_job_id_from_submission_command = staticmethod(_job_id)


def array(job_id: str) -> str:
    """The number of the Slurm job that a job, "12_3" or "12", is of."""
    return job_id.partition("_")[0]


def queue(jobs: Iterable[str]) -> dict[str, str]:
    """The states of jobs that are in Slurm's queue, by job: "PENDING", "RUNNING" and others.

    Args:
      jobs: "12_3" or "12" each.

    Raises:
      UserError: Slurm does not answer.
    """
    arrays = ",".join(sorted(set(map(array, jobs))))
    try:
        done = subprocess.run(
            ["squeue", "--noheader", "--array", "--format=%i %T", f"--jobs={arrays}"],
            capture_output=True, text=True, check=False)
    except OSError:
        raise UserError("there is no squeue here: ask where Slurm is") from None
    if done.returncode and "Invalid job id" not in done.stderr:  # of jobs that ended long ago
        raise UserError(f"squeue failed: {done.stderr.strip()}")
    # Wrappers of squeue may print more.
    return dict(re.findall(r"(?m)^\s*(\d+(?:_\d+)?)\s+([A-Z_]+)\s*$", done.stdout))
