"""States of runs: waiting, running, done, failed ..., as launches and their folders tell."""

import collections
import contextlib
import json
import os
import pathlib
import pickle
import platform
from collections.abc import Collection, Sequence

from common import result_tables, runs, slurm
from common.errors import UserError
from common.launching import Launch


def rows(path: str | os.PathLike, only: Collection[str] | None = None) -> list[result_tables.Row]:
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


def render(table: Sequence[result_tables.Row]) -> str:
    """The table of `rows` with, below, a line for each that failed or stopped."""
    here = os.getcwd() + os.sep
    table = [{**row, "folder": row["folder"].removeprefix(here)} for row in table]
    lines = [result_tables.render(table, columns=("wid", "overrides", "state", "folder"))]
    lines += [f"wid={row['wid']} {row['state']}: {row['cause']}"
              for row in table if row.get("cause")]
    return "\n".join(lines)


def is_under_way(row: result_tables.Row) -> bool:
    """Whether a run of the table of `rows` is still to end."""
    return row["state"].split()[0] in ("waiting", "pending", "running", "requeued")


def progress(folder: pathlib.Path) -> str:
    """The progress of a run, by its folder: "done", "at step 300 of 1000", "at image 3", ""."""
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
    for (host, on_slurm), jobs in ids.items():
        states = slurm.queue(jobs) if on_slurm else {
            job: "RUNNING" for job in jobs if _exists(host, job)}
        alive |= {(host, job): state for job, state in states.items()}
    return alive


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
