"""Sweeps: runs as jobs of Slurm or as processes of this machine, their code, and their states.

A launch (launch.py) has a folder <experiments_dir>/launches/<UTC time>-<name>/:

    code/        a copy of the code, made at submission, from which the jobs import
    jobs/        submitit's: pickled jobs, what they print, how they ended
    launch.json  what was launched, and for each run its folder and its job

Jobs run in the folder that the launch was made in, so that relative paths mean what they meant
there. A process can be told to stop as soon as submitit has unpickled its job, which imports this
module; hence nothing here imports TensorFlow, which takes seconds (common/lazy.py).
"""

import collections
import contextlib
import dataclasses
import importlib
import io
import json
import math
import os
import pathlib
import pickle
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Collection, Sequence
from typing import Any

import submitit
from absl import logging
from submitit.core.utils import FailedJobError, FailedSubmissionError

import configs
from common import runs, tables
from common.errors import UserError
from common.files import write_json

_ROOT = pathlib.Path(__file__).resolve().parents[1]
# Options of sbatch that are submitit's or launch.py's own.
_RESERVED = ("additional_parameters", "array", "error", "open_mode", "output", "setup", "signal",
             "srun_args", "stderr_to_stdout", "teardown", "use_srun")
# What the code reads of the environment, as configs.py has it here.
_FOLDERS = ("DATA_DIR", "EXPERIMENTS_DIR", "ZOO_DIR", "LPIPS_WEIGHTS", "INCEPTION_WEIGHTS")
_MAX_TIMEOUTS = 1000  # after which a job is not requeued any more
_YEAR = 365 * 24 * 60  # in minutes


# --- Jobs ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A run of `evaluate`, with the attributes of a `runs.Run` that a launch reads.

    Attributes:
      overrides: what tells it from the other evaluations of the launch.
      wid: its number.
      workdir: where results go.
      arguments: of `evaluate.run`.
    """

    overrides: dict[str, Any]
    wid: int
    workdir: pathlib.Path
    arguments: tuple


@dataclasses.dataclass(frozen=True)
class Job:
    """A run, to be pickled.

    Attributes:
      main: name of the module whose `run` does the work: "mshyper.train".
      run: what is to be run.
      command: the command line after `python -m` that does the same.
    """

    main: str
    run: runs.Run | Evaluation
    command: list[str]

    def __call__(self) -> None:
        run = self.run
        if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
            run = _named_for(run, submitit.JobEnvironment().job_id)
        sys.argv = self.command  # for run_info.json
        logging.set_verbosity(logging.WARNING)
        # Before Slurm kills a job: by scancel, or to requeue it itself at preemption, where it is
        # not set to send submitit's signal.
        signal.signal(signal.SIGTERM, lambda *_: _save())
        try:
            importlib.import_module(self.main).run(*run.arguments)
        except UserError as error:
            sys.tracebacklimit = 0  # all of it is in the message
            raise UserError(str(error)) from None

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Saves what is done; submitit calls this when Slurm asks the job to make room."""
        _save()
        return submitit.helpers.DelayedSubmission(self)


def _save():
    try:
        runs.save_all()
    except Exception:  # the job goes on even so: the checkpoint before is there
        traceback.print_exc()


# --- Launching ----------------------------------------------------------------------------------


class Launch:
    """A launch, as its folder has it.

    Args:
      folder: the folder.

    Attributes:
      folder: the same.
      record: launch.json.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder).absolute()
        self.record = {}

    def create(self, jobs: Sequence[Job], slurm: bool) -> None:
        """Creates the folder, with a copy of the code.

        Raises:
          UserError: it is there already.
        """
        try:
            self.folder.mkdir(parents=True)
        except FileExistsError:
            raise UserError(f"{self.folder} exists: another launch began in this second; repeat "
                            "the command") from None
        copy_code(self.folder / "code")
        self.record = {
            "command": sys.argv,
            "folder": os.getcwd(),
            "git": runs.git_commit(),
            "slurm": slurm,
            "host": platform.node(),
            "runs": [row(job) for job in jobs],
        }
        self._write()

    def read(self) -> "Launch":
        """Reads launch.json. Raises UserError if it cannot be read."""
        path = self.folder / "launch.json"
        try:
            self.record = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error})") from None
        return self

    def run_here(self, jobs: Sequence[Job], at_once: int) -> None:
        """Runs jobs as processes, at most `at_once` at a time, and waits until all have ended.

        An interrupt ends those that are running.
        """
        waiting = collections.deque(enumerate(jobs))
        running = []
        # SIGTERM comes from `kill` and from Slurm, when this process is itself a job. SIGINT may be
        # ignored here, by a shell that began this in the background; jobs would inherit that, and
        # it is what submitit ends them with.
        for interrupt in (signal.SIGTERM, signal.SIGINT):
            signal.signal(interrupt, signal.default_int_handler)
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    number, job = waiting.popleft()
                    running.append(self._start(number, job))
                running = [process for process in running if not process.done()]
                time.sleep(0.1)
        except KeyboardInterrupt:
            for process in running:
                process.cancel()
            while not all(process.done() for process in running):
                time.sleep(0.1)
            raise

    def _start(self, number, job):
        folder = self.folder / "jobs" / str(number)  # ids of processes may come again
        executor = submitit.LocalExecutor(folder, _MAX_TIMEOUTS, python=self._python(slurm=False))
        executor.update_parameters(timeout_min=_YEAR)
        with _errors_in(folder / "submitit.err"):
            process = executor.submit(job)
        self._note(number, folder, process.job_id)
        return process

    def submit(self, jobs: Sequence[Job], last: Job | None, parameters: dict[str, Any]) -> None:
        """Gives jobs to Slurm, as an array.

        Args:
          jobs: those of `create`, but for `last`.
          last: the last of them, if it is to begin when the others have ended, in whatever way.
          parameters: as from `slurm_parameters`.

        Raises:
          UserError: Slurm does not take them, or sbatch does not say what they are called.
        """
        numbers = range(len(jobs))
        try:
            self._sbatch(numbers, jobs, parameters)
            if last:
                array = _array(self.record["runs"][0]["job"])
                self._sbatch([len(jobs)], [last], parameters | {"dependency": f"afterany:{array}"})
        except (FailedJobError, OSError) as error:
            for job in {_array(row["job"]) for row in self.record["runs"] if row["job"]}:
                subprocess.run(["scancel", job], check=False)  # it is the last that is not taken
            shutil.rmtree(self.folder)
            raise UserError(f"Slurm does not take the job: {error}") from None

    def _sbatch(self, numbers, jobs, parameters):
        """Submits the jobs of these rows as one, and notes what they are called."""
        # Whatever happens from here on, Slurm may have them.
        self._note_unseen(numbers, "launch was stopped before it had the number of the job")
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # it has what the exception has
                submitted = self._executor(parameters).submit_array(jobs)
        except FailedSubmissionError as error:
            self._note_unseen(numbers, str(error))
            raise UserError(
                f"{error}; if the job is queued (squeue --me), cancel it, as it would not find its "
                f"work. {self.folder} has what was submitted") from None
        for number, job, given in zip(numbers, submitted, jobs):
            self.record["runs"][number] = row(given, _array(job.job_id))
            self._note(number, self.folder / "jobs", job.job_id)

    def _note_unseen(self, numbers, why):
        for number in numbers:
            self.record["runs"][number]["unseen"] = why
        self._write()

    def script(self, count: int, parameters: dict[str, Any]) -> str:
        """The script that `submit` gives to sbatch, for an array of `count` jobs."""
        executor = self._executor(parameters)
        if count > 1:
            executor.parameters["map_count"] = count  # as submitit does
        return executor._make_submission_file_text(executor._submitit_command_str, "")

    def _executor(self, parameters):
        executor = submitit.SlurmExecutor(
            self.folder / "jobs", _MAX_TIMEOUTS, python=self._python(slurm=True))
        executor.update_parameters(**parameters)
        return executor

    def _python(self, slurm):
        """The command for a Python that imports from the copy of the code."""
        path = [str(self.folder / "code"), *filter(None, [os.environ.get("PYTHONPATH")])]
        # Without PYTHONSAFEPATH, it would prefer the folder that it runs in.
        variables = {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(path)}
        variables |= {f"NTC_{name}": os.path.abspath(getattr(configs, name)) for name in _FOLDERS}
        options = []
        if not slurm:  # submitit would hide the GPUs from processes of this machine
            name = "CUDA_VISIBLE_DEVICES"
            if name in os.environ:
                variables[name] = os.environ[name]
            else:
                options = ["-u", name]
        return shlex.join(["env", *options, *(f"{name}={value}" for name, value
                                              in variables.items()), sys.executable])

    def _note(self, number, folder, job_id):
        self.record["runs"][number] |= {"job": job_id, "files": str(folder / job_id)}
        self._write()

    def _write(self):
        write_json(self.folder / "launch.json", self.record)


@contextlib.contextmanager
def _errors_in(path):
    """Processes that begin within print errors into a file: submitit's tell of each interrupt."""
    own = os.dup(2)
    with open(path, "a") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(own, 2)
        os.close(own)


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


def _array(job_id):
    """The number of the Slurm job that a job, "12_3" or "12", is of."""
    return job_id.partition("_")[0]


def _named_for(run, job_id):
    """A run that Slurm does: it is of the experiment that is called like the job, if of no other.

    Only a launch does so. What is run by hand, in whatever job, is named as everywhere.
    """
    if isinstance(run, runs.Run) and run.xid is None:
        return dataclasses.replace(run, xid=_array(job_id))
    return run


def row(job: Job, array: str | None = None) -> dict[str, Any]:
    """The entry of a job in launch.json, before it has begun.

    Args:
      job: the job.
      array: id of the Slurm job, if it is of one.
    """
    run = _named_for(job.run, array) if array else job.run
    overrides = ", ".join(f"{key}={value}" for key, value in run.overrides.items())
    return {"wid": run.wid, "overrides": overrides, "folder": str(run.workdir),
            "command": job.command, "job": None, "files": None}


def copy_code(folder: pathlib.Path) -> None:
    """Copies the modules and packages in the root of the project, and the number of its commit."""
    folder.mkdir()
    for path in sorted(_ROOT.iterdir()):
        if path.suffix == ".py":
            shutil.copy(path, folder)
        elif (path / "__init__.py").exists():
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / runs.COMMIT_FILE).write_text(f"{runs.git_commit() or ''}\n")


def slurm_parameters(options: Sequence[str], name: str) -> dict[str, Any]:
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
            raise UserError(f"--slurm {option}: need options of sbatch as key=value, for example "
                            "--slurm partition=gpu time=8:00:00")
        given[match[1].replace("-", "_")] = True if match[2] is None else match[2]
    reserved = sorted(given.keys() & {*_RESERVED})
    if reserved:
        raise UserError(f"--slurm {reserved[0]} cannot be given: launch uses it itself (commands "
                        "to begin jobs with are SLURM_SETUP of configs.py)")
    given = {"job_name": name, **configs.SLURM_DEFAULTS, **given}
    if not shutil.which("srun"):
        raise UserError("there is no srun here, with which jobs begin, only sbatch")
    given = {key: int(value) if str(value).isdigit() else value for key, value in given.items()}
    given["time"] = _minutes(given["time"])
    known = submitit.SlurmExecutor._valid_parameters()
    parameters = {key: value for key, value in given.items() if key in known}
    # Where the cluster's default is not to requeue, submitit could not.
    parameters["additional_parameters"] = {
        "requeue": True, **{key: value for key, value in given.items() if key not in known}}
    # Of several tasks, none can go on without the others.
    srun_args = ["--kill-on-bad-exit"]
    if "cpus_per_task" in given:  # srun does not take it over from sbatch since Slurm 22.05
        srun_args.append(f"--cpus-per-task={given['cpus_per_task']}")
    return parameters | {"setup": configs.SLURM_SETUP or None, "srun_args": srun_args}


def _minutes(text):
    """Minutes of a time limit as sbatch takes it: 90, 90:00, 1:30:00, 0-1, 0-1:30 or 0-1:30:00."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(text))
    if not match:
        raise UserError(f"--slurm time={text}: need minutes, hours:minutes:seconds or "
                        "days-hours:minutes:seconds")
    days, *numbers = match.groups()
    numbers = [int(number) for number in numbers if number]
    if days is None and len(numbers) < 3:
        numbers.insert(0, 0)
    hours, minutes, seconds, *_ = [*numbers, 0, 0]
    return math.ceil((int(days or 0) * 24 + hours) * 60 + minutes + seconds / 60)


# --- States -------------------------------------------------------------------------------------


def rows(path: str | os.PathLike, only: Collection[str] | None = None) -> list[tables.Row]:
    """The runs of a launch or of an experiment, and what has become of them.

    Args:
      path: folder of a launch, or <experiments_dir>/<xid>.
      only: folders of the runs to ask about, of which there may be none; by default all.

    Returns:
      For each run wid, overrides, state, folder, and cause: why it failed or stopped, and the file
      with what it printed, else "". The state is one of waiting, pending, running, requeued, done,
      failed (with an error), stopped (by other means) and unknown (submitted, but sbatch did not
      say as what); with how far it has come, if it is under way.

    Raises:
      UserError: there are none, or Slurm does not answer.
    """
    path = pathlib.Path(os.path.abspath(path))
    if (path / "launch.json").exists():
        launches = [Launch(path).read()]
    else:
        launches = [Launch(each.parent).read()
                    for each in sorted(path.parent.glob("launches/*/launch.json"))]
    # Of several launches of a run, the last counts.
    launched = {(row["wid"], row["folder"]): (launch, row)
                for launch in launches for row in launch.record["runs"]
                if launch.folder == path or pathlib.Path(row["folder"]).parent == path}
    by_hand = [folder for folder in path.glob("wid=*")
               if (_wid(folder), str(folder)) not in launched]
    if only is not None:
        launched = {key: pair for key, pair in launched.items() if key[1] in only}
        by_hand = [folder for folder in by_hand if str(folder) in only]
    elif not launched and not by_hand:
        raise UserError(f"{path} is neither the folder of a launch nor that of an experiment with "
                        "runs wid=<n>-<name>")
    alive = _alive(launched.values())
    found = [_launched(launch, row, alive) for launch, row in launched.values()]
    found += [{"wid": _wid(folder), "overrides": "", "state": progress(folder) or "empty",
               "folder": str(folder), "cause": ""} for folder in by_hand]
    return sorted(found, key=lambda row: row["wid"])


def render(table: Sequence[tables.Row]) -> str:
    """The table of `rows` with, below, a line for each that failed or stopped."""
    here = os.getcwd() + os.sep
    table = [{**row, "folder": row["folder"].removeprefix(here)} for row in table]
    lines = [tables.render(table, columns=("wid", "overrides", "state", "folder"))]
    lines += [f"wid={row['wid']} {row['state']}: {row['cause']}"
              for row in table if row.get("cause")]
    return "\n".join(lines)


def is_under_way(row: tables.Row) -> bool:
    """Whether a run of the table of `rows` is still to end."""
    return row["state"].split()[0] in ("waiting", "pending", "running", "requeued")


def progress(folder: pathlib.Path) -> str:
    """How far a run has come, by its folder: "done", "at step 300 of 1000", "at image 3", ""."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return ""
    if "train" not in config:
        images = len([*folder.glob("*/result.json")])
        return "done" if (folder / "results.json").exists() else f"at image {images}"
    step, last = _last_step(folder / "metrics.jsonl"), config["train"]["num_steps"]
    if step >= last and (folder / "model" / "fingerprint").exists():
        return "done"
    return f"at step {step} of {last}"


def _last_step(path):
    lines = path.read_text().splitlines() if path.exists() else []
    for line in reversed(lines):
        try:
            return json.loads(line)["step"]
        except ValueError:  # half-written
            continue
    return 0


def _wid(folder):
    return runs.split_name(folder.name)[0]


def _launched(launch, row, alive):
    state, cause = _state(launch, row, alive)
    come = progress(pathlib.Path(row["folder"]))
    if state in ("running", "requeued", "stopped") and come.startswith("at"):
        state = f"{state} {come}"
    return {
        "wid": row["wid"],
        "overrides": row["overrides"],
        "state": state,
        "folder": row["folder"],
        "cause": f"{cause}; log: {_log(row)}" if cause and row["files"] else cause,
    }


def _state(launch, row, alive):
    if row["job"] is None:
        return ("unknown", row["unseen"]) if row.get("unseen") else ("waiting", "")
    begun = pathlib.Path(_log(row)).exists()
    queued = alive.get((launch.record["host"], row["job"]))
    if queued == "PENDING":
        return "requeued" if begun else "pending", ""
    if queued:
        return "running", ""
    results = _results(row)
    errors = [text for outcome, text in results if outcome == "error"]
    if errors:
        return "failed", _reason(errors[0])
    if results:
        return "done", ""
    return "stopped", _last_line(_log(row))


def _results(row):
    """Results of a job's tasks that have ended, (outcome, text) each."""
    files = pathlib.Path(row["files"])
    with contextlib.suppress(OSError):  # NFS looks anew after this
        files.parent.chmod(files.parent.stat().st_mode)
    return [pickle.loads(path.read_bytes())
            for path in sorted(files.parent.glob(f"{files.name}_*_result.pkl"))]


def _log(row):
    return f"{row['files']}_0_log.err"


def _reason(trace):
    """The line of a traceback that names the error."""
    lines = trace.rpartition("Traceback (most recent call last):\n")[2].splitlines()
    line = next((line for line in lines if not line.startswith(" ")), "no reason given")
    return line.removeprefix(f"{UserError.__module__}.{UserError.__name__}: ")


_OF_THE_END = ("submitit ", "srun: Job step aborted", "srun: forcing job termination")


def _last_line(path):
    """The last line printed that says why a job ended.

    That submitit got a signal, and that srun waits for the end, does not.
    """
    path = pathlib.Path(path)
    lines = path.read_text(errors="replace").split("\n") if path.exists() else []
    return next((line.strip() for line in reversed(lines)
                 if line.strip() and not line.startswith(_OF_THE_END)), "it printed no error")


def _alive(pairs):
    """The state, by host and id, of all jobs of launches that have not ended."""
    ids = collections.defaultdict(set)
    for launch, row in pairs:
        # The id of a process that has ended may be another's by now.
        if row["job"] is not None and (launch.record["slurm"] or not _results(row)):
            ids[launch.record["host"], launch.record["slurm"]].add(row["job"])
    alive = {}
    for (host, slurm), jobs in ids.items():
        states = _queue(jobs) if slurm else {job: "RUNNING" for job in jobs if _exists(host, job)}
        alive |= {(host, job): state for job, state in states.items()}
    return alive


def _queue(jobs):
    arrays = ",".join(sorted(set(map(_array, jobs))))
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


def _exists(host, process):
    if host != platform.node():
        raise UserError(f"the runs are processes of {host}: ask there")
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        return True
    return True
