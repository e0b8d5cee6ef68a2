"""Sweeps: one run for each entry of a config's get_hyper(), on Slurm or as processes here.

    python -m launch --main mshyper.train --config mshyper/configs/two_layer_syn.py \\
        --slurm partition=gpu gpus_per_node=1 --args --config.train.num_steps=100000
    python -m launch --main evaluate --args --model experiments/1234 --dataset kodak
    python -m launch --status experiments/1234

The same command again goes on with what was stopped, if the experiment has the same name: name it
with --xid on Slurm, where it is called by the number of the job otherwise.
"""

import argparse
import datetime
import importlib
import os
import pathlib
import shlex
import shutil
import sys
import time

import configs
from common import config_files, launch_jobs, launching, programs, run_states, slurm
from common.cli import report
from common.errors import UserError
from common.lazy import data

_OWN_FLAGS = ("config", "hid", "experiments_dir", "xid")
_POLL_SECONDS = 5


def _parse(argv):
    parser = argparse.ArgumentParser(
        prog="python -m launch", description="Many runs, on Slurm or as processes here.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--main", metavar="MODULE",
                      help="<package>.train, <package>.itinf or evaluate")
    what.add_argument("--status", metavar="FOLDER",
                      help="print what has become of an experiment, or of a launch")
    parser.add_argument("--config", help="config file, and after a colon the recipe or method")
    parser.add_argument("--hids", type=int, nargs="+", metavar="HID",
                        help="entries of get_hyper() (default: all)")
    parser.add_argument("--slurm", nargs="+", default=[], metavar="KEY=VALUE",
                        help="options of sbatch; those of all jobs are in configs.py")
    parser.add_argument("--local", type=int, metavar="N",
                        help="run processes of this machine, at most N at a time")
    parser.add_argument("--experiments_dir", default=str(configs.EXPERIMENTS_DIR),
                        help="where runs live (default: %(default)s)")
    parser.add_argument("--xid", help="name of the experiment; by default the number of the Slurm "
                        "job, or for processes of this machine package, config and recipe")
    parser.add_argument("--force", action="store_true",
                        help="launch runs even if they may be under way or lack their data")
    parser.add_argument("--dry_run", action="store_true", help="print what would be done")
    parser.add_argument("--wait", action="store_true", help="wait for Slurm to end all jobs")
    parser.add_argument("--args", nargs=argparse.REMAINDER, default=[],
                        help="all that follows is for MODULE")
    args = parser.parse_args(argv)
    if args.local is not None and args.local < 1:
        raise UserError(f"--local {args.local}: need how many to run at a time")
    if args.local and args.slurm:
        raise UserError("--local and --slurm exclude each other")
    args.experiments_dir = os.path.abspath(args.experiments_dir)
    return args


def _import(main):
    """The module of this name, which has a `run` to launch."""
    try:
        module = importlib.import_module(main)
    except (ImportError, ValueError) as error:
        if isinstance(error, ImportError) and not f"{main}.".startswith(f"{error.name}."):
            raise  # of what the module imports
        raise UserError(f"--main {main}: there is no such module; it is called like "
                        "mshyper.train") from None
    if not isinstance(vars(module).get("run"), programs.Program) and main != "evaluate":
        raise UserError(f"--main {main}: it has no run to launch; <package>.train, "
                        "<package>.itinf and evaluate have one")
    return module


def _runs(args, program) -> list[launch_jobs.Job]:
    """A job for each entry of get_hyper()."""
    if not args.config:
        raise UserError("--config: need the config file of the sweep")
    for arg in args.args:
        name = arg.lstrip("-").partition("=")[0]
        if arg.startswith("-") and name in _OWN_FLAGS:
            raise UserError(f"--args {arg}: launch has --{name.replace('hid', 'hids')} itself")
    hids = args.hids
    if hids is None:
        hids = range(len(config_files.load(args.config.partition(":")[0]).get_hyper()))
    if len(set(hids)) < len(hids):
        raise UserError(f"--hids {' '.join(map(str, hids))}: each run can be launched once")
    jobs = []
    for hid in hids:
        command = [args.main, "--config", args.config, f"--hid={hid}", *args.args,
                   f"--experiments_dir={args.experiments_dir}"]
        command += [f"--xid={args.xid}"] if args.xid else []
        jobs.append(launch_jobs.Job(args.main, programs.read(program, command), command))
    if not jobs:
        raise UserError(f"{args.config}: its get_hyper() has no entries")
    return jobs


def _require_idle(jobs, new):
    """Two processes at one run would spoil it.

    Args:
      jobs: the runs.
      new: whether they are of a new experiment. Then what was launched, but may be nowhere, counts.
    """
    wanted = {str(job.run.workdir) for job in jobs}
    try:
        rows = run_states.rows(jobs[0].run.workdir.parent, wanted)
    except UserError as error:
        if new:
            return
        raise UserError("these runs were launched before, and whether they are under way cannot be "
                        f"told: {error}. If they are not, give --force") from None
    for row in rows:
        if row["state"] == "unknown":
            raise UserError(f"{row['folder']} was launched before, and may be under way: "
                            f"{row['cause']}. If it is not (squeue --me), give --force")
        # Those that are waiting may be left of a launch that was stopped.
        if not new and row["state"] != "waiting" and run_states.is_under_way(row):
            raise UserError(f"{row['folder']} is {row['state']}: stop it first, or choose another "
                            "--xid")


def _evaluations(args, evaluate) -> list[launch_jobs.Job]:
    """A job for each model, and a last one that makes curves of what they measured."""
    if args.config or args.hids or args.xid:
        raise UserError("--config, --hids and --xid are not for evaluate; name runs with "
                        "--args --model")
    options = evaluate.parse(args.args)

    def job(wid, overrides, folder, argv, collect):
        run = launch_jobs.Evaluation(overrides, wid, folder.absolute(), (argv, collect))
        return launch_jobs.Job(args.main, run, [args.main, *argv])

    folder, jobs = evaluate.output_folder(options), []
    for curve, models in evaluate.find_runs(options.model, keep_going=True).items():
        for model in models:
            jobs.append(job(len(jobs), {"run": evaluate.run_name(model)}, folder / curve,
                            [*args.args, "--model", str(model)], False))
    collect = [*args.args, "--skip_existing", "--keep_going"]
    return [*jobs, job(len(jobs), {"curves": "all"}, folder, collect, True)]


def _dry_run(launch, jobs, parameters):
    if parameters is None:
        for job in jobs:
            print("python -m", shlex.join(job.command))
    else:
        print(launch.script(len(jobs), parameters))
    print(run_states.render([{**launching.row(job, parameters and "<job>"), "state": "not launched"}
                         for job in jobs]))


def _wait(folder):
    while True:
        try:
            if not any(map(run_states.is_under_way, run_states.rows(folder))):
                return
        except UserError as error:  # Slurm is busy, or begins anew
            print(f"{error}; asking again", file=sys.stderr)
        time.sleep(_POLL_SECONDS)


def _show(folder) -> bool:
    """Prints the table of a launch or an experiment; returns whether nothing failed."""
    rows = run_states.rows(folder)
    print(run_states.render(rows))
    return not any(row["cause"] for row in rows)


@report
def main(argv: list[str]) -> None:
    """The command line."""
    args = _parse(argv)
    if args.status:
        sys.exit(not _show(args.status))
    at_once = args.local
    if not at_once and not shutil.which("sbatch"):
        if args.slurm:
            raise UserError("--slurm: there is no sbatch here; --local N runs processes of this "
                            "machine")
        print("there is no sbatch here: processes of this machine, one at a time")
        at_once = 1
    module = _import(args.main)
    evaluating = args.main == "evaluate"
    jobs = _evaluations(args, module) if evaluating else _runs(args, module.run)
    last = jobs.pop() if evaluating else None
    name = "evaluate" if evaluating else jobs[0].run.name  # type: ignore[union-attr]
    now = datetime.datetime.now(datetime.UTC)
    launch = launching.Launch(
        pathlib.Path(args.experiments_dir, "launches", f"{now:%Y%m%dT%H%M%SZ}-{name}"))
    parameters = None if at_once else slurm.parameters(args.slurm, name)
    if args.dry_run:
        _dry_run(launch, jobs, parameters)
        return
    if evaluating:
        data.find(module.parse(args.args).dataset)
    elif not args.force:
        for job in jobs:
            module.run.check(*job.run.arguments)
        _require_idle(jobs, new=not at_once and not args.xid)  # named for the job
    launch.create([*jobs, last] if last and not at_once else jobs, on_slurm=not at_once)
    print(f"launch: {launch.folder}")
    if parameters is not None:
        launch.submit(jobs, last, parameters)
        if args.wait:
            _wait(launch.folder)
        try:
            sys.exit(not _show(launch.folder))
        except UserError as error:  # all is submitted nevertheless
            ids = sorted({row["job"].partition("_")[0] for row in launch.record["runs"]})
            print(f"submitted as {', '.join(ids)}; {error}")
            return
    try:
        launch.run_here(jobs, at_once)
    finally:
        well = _show(launch.folder)
    if last:
        module.run(*last.run.arguments)
    sys.exit(not well)


if __name__ == "__main__":
    main(sys.argv[1:])
