"""Launching: runs as jobs of Slurm or as processes of this machine, and copies of the code.

A launch (launch.py) has a folder <experiments_dir>/launches/<UTC time>-<name>/:

    code/        a copy of the code, made at submission, from which the jobs import
    jobs/        submitit's: pickled jobs, what they print, how they ended
    launch.json  what was launched, and for each run its folder and its job

Jobs (common/launch_jobs.py) run in the folder that the launch was made in, so that relative paths
mean what they meant there.
"""

import collections
import contextlib
import io
import json
import os
import pathlib
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

import configs
from common import runs, slurm
from common.errors import UserError
from common.files import write_json
from common.launch_jobs import Job, named_for

_ROOT = pathlib.Path(__file__).resolve().parents[1]
# What the code reads of the environment, as configs.py has it here.
_FOLDERS = ("DATA_DIR", "EXPERIMENTS_DIR", "ZOO_DIR", "LPIPS_WEIGHTS", "INCEPTION_WEIGHTS")
_MAX_TIMEOUTS = 1000  # after which a job is not requeued any more
_YEAR = 365 * 24 * 60  # in minutes


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

    def create(self, jobs: Sequence[Job], on_slurm: bool) -> None:
        """Creates the folder, with a copy of the code.

        Args:
          jobs: what is launched.
          on_slurm: as jobs of Slurm, else as processes of this machine.

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
            "slurm": on_slurm,
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

        An interrupt has those that are running save what is done, and waits for that; a second one
        does not wait.
        """
        waiting = collections.deque(enumerate(jobs))
        running = []
        # SIGTERM comes from `kill` and from Slurm, when this process is itself a job.
        for interrupt in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(interrupt) != signal.SIG_IGN:
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
                if not process.done():
                    os.kill(int(process.job_id), signal.SIGTERM)  # which it hands on
            while not all(process.done() for process in running):
                time.sleep(0.1)
            raise

    def _start(self, number, job):
        folder = self.folder / "jobs" / str(number)  # ids of processes may come again
        executor = submitit.LocalExecutor(
            folder, _MAX_TIMEOUTS, python=self._python(on_slurm=False))
        executor.update_parameters(timeout_min=_YEAR)
        with _errors_in(folder / "submitit.err"), _spared_interrupts():
            process = executor.submit(job)
        self._note(number, folder, process.job_id)
        return process

    def submit(self, jobs: Sequence[Job], last: Job | None, parameters: dict[str, Any]) -> None:
        """Gives jobs to Slurm, as an array.

        Args:
          jobs: those of `create`, but for `last`.
          last: the last of them, if it is to begin when the others have ended, in whatever way.
          parameters: as from `slurm.parameters`.

        Raises:
          UserError: Slurm does not take them, or sbatch does not say what they are called.
        """
        numbers = range(len(jobs))
        try:
            self._sbatch(numbers, jobs, parameters)
            if last:
                array = slurm.array(self.record["runs"][0]["job"])
                self._sbatch([len(jobs)], [last], parameters | {"dependency": f"afterany:{array}"})
        except (FailedJobError, OSError) as error:
            for job in {slurm.array(row["job"]) for row in self.record["runs"] if row["job"]}:
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
            self.record["runs"][number] = row(given, slurm.array(job.job_id))
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
            self.folder / "jobs", _MAX_TIMEOUTS, python=self._python(on_slurm=True))
        executor.update_parameters(**parameters)
        return executor

    def _python(self, on_slurm):
        """The command for a Python that imports from the copy of the code."""
        path = [str(self.folder / "code"), *filter(None, [os.environ.get("PYTHONPATH")])]
        # Without PYTHONSAFEPATH, it would prefer the folder that it runs in.
        variables = {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(path)}
        variables |= {f"NTC_{name}": os.path.abspath(getattr(configs, name)) for name in _FOLDERS}
        options = []
        if not on_slurm:  # submitit would hide the GPUs from processes of this machine
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


@contextlib.contextmanager
def _spared_interrupts():
    """Keeps SIGINT from processes that begin within.

    A terminal sends it to all of a launch, and those of submitit then kill their job after a
    second, whether it is saved or not.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def row(job: Job, array: str | None = None) -> dict[str, Any]:
    """The entry of a job in launch.json, before it has begun.

    Args:
      job: the job.
      array: id of the Slurm job, if it is of one.
    """
    run = named_for(job.run, array) if array else job.run
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
