"""Jobs of a launch (common/launching.py): pickled where it is made, and run wherever they begin.

A process can be told to stop as soon as submitit has unpickled its job, which imports this module;
hence nothing here imports TensorFlow, which takes seconds (common/lazy.py).
"""

import dataclasses
import importlib
import os
import pathlib
import signal
import sys
import traceback
from typing import Any

import submitit
from absl import logging

from common import runs, slurm, stopping
from common.errors import UserError


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
            run = named_for(run, submitit.JobEnvironment().job_id)
        sys.argv = self.command  # for run_info.json
        logging.set_verbosity(logging.WARNING)
        if os.environ.get("SUBMITIT_EXECUTOR") == "local":
            stopping.stop_on_signals(again=False)  # one may come from several processes
        else:
            # Before Slurm kills a job: by scancel, or to requeue it itself at preemption, where it
            # is not set to send submitit's signal.
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


def named_for(run: runs.Run | Evaluation, job_id: str) -> runs.Run | Evaluation:
    """A run in a job of Slurm; without an xid of its own it takes the number of the job.

    Only a launch does so. What is run by hand, in whatever job, is named as everywhere.
    """
    if isinstance(run, runs.Run) and run.xid is None:
        return dataclasses.replace(run, xid=slurm.array(job_id))
    return run


def _save():
    try:
        stopping.save_all()
    except Exception:  # the job goes on even so: the checkpoint before is there
        traceback.print_exc()
