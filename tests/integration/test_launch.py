"""launch.py with processes of this machine: runs, folders, stopping and resuming, errors."""

import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

import configs
import evaluate
import launch
from common import export, images, programs, run_states
from mshyper import train
from tests.helpers import graphs
from tests.helpers.launches import COUNTING, EXPERIMENT, ROOT, launch_here, launches
from tests.helpers.tiny import TINY, TRAINING

NAMES = [f"wid={wid}-{EXPERIMENT}-num_steps={steps}-fail_at={fail_at}"
         for wid, (steps, fail_at) in enumerate([(3, -1), (3, 1), (2, -1), (2, 1)])]


@pytest.fixture
def folder(tmp_path):
    """Where users are: with data, and with a folder named like a package of ours."""
    (tmp_path / "numbers.txt").write_text("1 2 3")
    (tmp_path / "common").mkdir()
    (tmp_path / "common/__init__.py").write_text("raise ImportError('not this one')")
    return tmp_path


def start(folder, *arguments):
    """Starts `launch`, from another folder than that of the code."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "launch", *arguments], cwd=folder, env=environment,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0)


def run(folder, *arguments):
    """Its exit code, what it printed, and the lines of its errors."""
    with start(folder, *arguments) as process:
        out, errors = process.communicate(timeout=900)
    return process.returncode, out, errors


def wait_for(condition, process, seconds=300):
    """Waits until `condition()` is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, "it never was so"
        time.sleep(0.02)


def processes_of(launch_folder):
    """Ids of the processes that run the jobs of a launch (and not of those that watch them)."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode()
        except OSError:  # it has ended
            continue
        if "submitit.core._submit" in command and str(launch_folder) in command:
            found.append(int(path.parent.name))
    return found


def last_step(workdir):
    return run_states._last_step(workdir / "metrics.jsonl")


# --- Processes of this machine --------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep(folder, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("NTC_ZOO_DIR", "my zoo")
    code, out, errors = run(folder, *COUNTING, "--local", "2")
    assert code == 1 and not errors
    # The failing runs leave the others alone and are named.
    first, header, *table, one, three = out.splitlines()
    found, = launches(folder)
    assert first == f"launch: {found}"
    assert [line.split()[0] for line in table] == list("0123")
    assert [line.split()[-2] for line in table] == ["done", "failed", "done", "failed"]
    assert table[0].split()[-1] == f"experiments/{EXPERIMENT}/{NAMES[0]}"
    assert one.startswith(f"wid=1 failed: cannot count beyond 1; log: {found}/jobs/1/")
    log = pathlib.Path(one.rpartition(" ")[2]).read_text()
    assert "UserError: cannot count beyond 1" in log and "Traceback" not in log
    # Jobs import from the copy of the code, and read data where the user is.
    experiment = folder / f"experiments/{EXPERIMENT}"
    assert sorted(path.name for path in experiment.iterdir()) == NAMES
    for name in NAMES:
        seen = json.loads((experiment / name / "seen.json").read_text())
        assert seen == {"code": f"{found}/code/common/__init__.py", "numbers": "1 2 3",
                        "data": str(configs.DATA_DIR), "zoo": f"{folder}/my zoo", "gpus": "3"}
    # The state can be asked again.
    for path in found, experiment:
        code, again, _ = run(folder, "--status", path)
        assert code == 1 and again.splitlines() == [header, *table, one, three]


def test_a_sweep_is_what_one_gets_by_hand(folder, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    arguments = ["--config.train.num_steps=1", "--config.train.seconds=0"]
    code, out, _ = run(folder, *COUNTING, "--hids", "2", "0", "--xid", "mine", "--local", "1",
                       "--experiments_dir", "elsewhere", "--args", *arguments)
    assert code == 0 and [line[0] for line in out.splitlines()[2:]] == ["0", "2"]
    launched, by_hand = folder / "elsewhere/mine", folder / "elsewhere/hand"
    assert {path.name[:5] for path in launched.iterdir()} == {"wid=0", "wid=2"}
    for workdir in launched.iterdir():
        assert json.loads((workdir / "seen.json").read_text())["gpus"] is None, "all of them"
        command = json.loads((workdir / "run_info.json").read_text())["command"]
        assert command[0] == "tests.helpers.counting"
        command = [arg.replace("=mine", "=hand") for arg in command]
        subprocess.run([sys.executable, "-P", "-m", *command], cwd=folder, check=True,
                       env={**os.environ, "PYTHONPATH": str(ROOT)})
        for name in ("config.json", "metrics.jsonl"):
            assert (workdir / name).read_text() == (by_hand / workdir.name / name).read_text()


def test_at_most_n_at_once(folder):
    process = start(folder, *COUNTING, "--local", "2", "--args", "--config.train.fail_at=-1",
                    "--config.train.num_steps=5")
    most = 0
    while process.poll() is None:
        most = max(most, len(processes_of(folder)))
        time.sleep(0.02)
    process.communicate()
    assert process.returncode == 0 and most == 2


@pytest.mark.slow
def test_an_interrupt_stops_all_and_the_same_command_goes_on(folder):
    command = [*COUNTING, "--local", "2", "--hids", "0", "1", "2", "--args",
               "--config.train.fail_at=-1", "--config.train.num_steps=40"]
    process = start(folder, *command)
    # Folders are named for the steps that the command line asks for.
    experiment = folder / f"experiments/{EXPERIMENT}"
    wait_for(lambda: len([*experiment.glob("wid=*/metrics.jsonl")]) == 2, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and not errors
    assert not processes_of(folder)
    states = [line.split(" at step ")[0].split()[-1] for line in out.splitlines()[2:5]]
    assert states[:2] == ["stopped", "stopped"] and "waiting" in out.splitlines()[4]
    assert len([*experiment.glob("wid=*/saved.json")]) == 2

    code, _, _ = run(folder, *command)
    assert code == 0 and len(launches(folder)) == 2
    for workdir in experiment.iterdir():
        assert [json.loads(line)["step"] for line in
                (workdir / "metrics.jsonl").read_text().splitlines()] == [*range(1, 41)]


def test_a_run_that_is_under_way_is_not_begun_again(folder):
    command = [*COUNTING, "--local", "1", "--hids", "0", "--args", "--config.train.num_steps=100"]
    process = start(folder, *command)
    workdir = folder / f"experiments/{EXPERIMENT}/{NAMES[0].replace('=3', '=100')}"
    wait_for(lambda: last_step(workdir) >= 1, process)
    code, out, errors = run(folder, *command)
    assert code == 2 and not out
    assert errors.startswith(f"error: {workdir} is running at step ")
    assert len(errors.splitlines()) == 1 and len(launches(folder)) == 1
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def test_a_process_that_is_asked_to_make_room_saves_and_goes_on(folder):
    process = start(folder, *COUNTING, "--local", "1", "--hids", "0", "--args",
                    "--config.train.num_steps=30")
    workdir = folder / f"experiments/{EXPERIMENT}/{NAMES[0].replace('=3', '=30')}"
    wait_for(lambda: last_step(workdir) >= 3, process)
    os.kill(*processes_of(folder), signal.SIGUSR2)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "done" in out
    assert json.loads((workdir / "saved.json").read_text()) >= 3
    steps = [json.loads(line)["step"] for line in
             (workdir / "metrics.jsonl").read_text().splitlines()]
    assert steps == [*range(1, 31)]


# --- What it would do -----------------------------------------------------------------------------


@pytest.fixture
def no_slurm(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.fixture
def some_slurm(monkeypatch, tmp_path):
    """Programs that are called like those of Slurm."""
    for name in ("sbatch", "srun"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def test_a_dry_run_of_processes(tmp_path, monkeypatch, capsys, no_slurm):
    monkeypatch.chdir(tmp_path)
    launch.main([*COUNTING, "--hids", "3", "1", "--dry_run", "--args", "--config.seed=1"])
    first, *commands, _, three, one = capsys.readouterr().out.splitlines()
    assert first == "there is no sbatch here: processes of this machine, one at a time"
    assert commands == [
        f"python -m tests.helpers.counting --config {COUNTING[3]} --hid={hid} --config.seed=1 "
        f"--experiments_dir={tmp_path}/experiments" for hid in (3, 1)]
    assert three.split() == ["3", "train.num_steps=2,", "train.fail_at=1", "not", "launched",
                             f"experiments/{EXPERIMENT}/{NAMES[3]}-seed=1"]
    assert not [*tmp_path.iterdir()]


def test_a_dry_run_of_slurm(tmp_path, capsys, some_slurm):
    experiments = tmp_path / "experiments"
    launch.main([*COUNTING, "--slurm", "partition=gpu", "array_parallelism=2", "reservation=x",
                 "--dry_run", "--experiments_dir", str(experiments)])
    out = capsys.readouterr().out
    for line in ("#SBATCH --array=0-3%2", "#SBATCH --partition=gpu", "#SBATCH --reservation=x",
                 "#SBATCH --requeue", "#SBATCH --time=1440",
                 "#SBATCH --job-name=tests-counting_config"):
        assert line in out.splitlines()
    assert f"{experiments}/<job>/{NAMES[2]}" in out
    assert not experiments.exists()


@pytest.mark.parametrize("config, expected", [
    # Of a product, the entries of the last list follow each other.
    ("mshyper/configs/two_layer_syn2.py", [
        f"model.synthesis.channels=({hidden}, 3)" for hidden in (24, 48) for _ in range(4)]),
    # Two lists go together.
    ("joint_ar/configs/mbt2018.py", [
        f"train.rd_lambda={value}, model.analysis.channels=(192, 192, 192, {channels})"
        for value, channels in ((0.08, 320), (0.02, 192), (0.005, 192), (0.00125, 192),
                                (0.04, 320), (0.01, 192), (0.0025, 192))]),
])
def test_order_of_sweeps(config, expected, capsys, no_slurm):
    launch.main(["--main", f"{config.split('/')[0]}.train", "--config", config, "--dry_run"])
    table = capsys.readouterr().out.splitlines()[-len(expected):]
    for wid, (line, overrides) in enumerate(zip(table, expected)):
        assert line.startswith(f"{wid} ") and overrides in line


# --- Mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, message", [
    (["--main", "nowhere.train", "--config", "x"], "no such module"),
    (["--main", "mshyper/train.py", "--config", "x"], "called like mshyper.train"),
    (["--main", "", "--config", "x"], "no such module"),
    (["--main", "configs", "--config", "x"], "no run to launch"),
    (["--main", "codec", "--config", "x"], "no run to launch"),
    (COUNTING[:2], "need the config file"),
    ([*COUNTING[:3], "nowhere.py"], "no config file nowhere.py"),
    ([*COUNTING[:3], "common/recipes.py"], r"no get_hyper()"),
    ([*COUNTING, "--hids", "0", "4"], "entries 0 to 3"),
    ([*COUNTING, "--hids", "-1"], "entries 0 to 3"),
    ([*COUNTING, "--hids", "2", "2"], "launched once"),
    ([*COUNTING, "--local", "0"], "--local 0"),
    ([*COUNTING, "--local", "1", "--slurm", "time=1"], "exclude each other"),
    ([*COUNTING, "--slurm", "time=1"], "no sbatch here"),
    ([*COUNTING, "--args", "--config.train.num_step=1"], "no key"),
    ([*COUNTING, "--args", "--config.train.num_steps=many"], "num_steps"),
    ([*COUNTING, "--args", "--xid=a"], "launch has --xid itself"),
    ([*COUNTING, "--args", "--hid", "1"], "launch has --hids itself"),
    (["--main", "evaluate", "--config", "x", "--args", "--runs", "y"], "not for evaluate"),
    (["--main", "evaluate", "--args", "--runs", "nowhere"], "nothing to evaluate in nowhere"),
    (["--status", "nowhere"], "neither the folder of a launch"),
])
def test_mistakes(arguments, message, capsys, no_slurm, tmp_path):
    options = [] if "--status" in arguments else ["--experiments_dir", str(tmp_path)]
    with pytest.raises(SystemExit) as failure:
        launch.main([*options, *arguments])
    assert failure.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1] and lines[-1].startswith("error: ")
    assert not [*tmp_path.iterdir()]


def test_an_empty_sweep(tmp_path, capsys, no_slurm):
    config = tmp_path / "config.py"
    config.write_text(pathlib.Path(COUNTING[3]).read_text() + "\n\nget_hyper = list\n")
    with pytest.raises(SystemExit):
        launch.main([*COUNTING[:3], str(config)])
    assert "its get_hyper() has no entries" in capsys.readouterr().err


def test_runs_that_cannot_be_evaluated_have_a_line_each(tmp_path, capsys):
    experiment = tmp_path / "mine"
    for name in ("wid=0-good/model", "wid=1-half/checkpoints", "wid=2-none"):
        (experiment / name).mkdir(parents=True)
    (experiment / "wid=0-good/model/fingerprint").touch()
    names = [str(experiment), str(tmp_path / "nowhere")]
    assert evaluate.find_runs(names, keep_going=True) == {
        "mine": [experiment / "wid=0-good/model"]}
    half, none, nowhere = capsys.readouterr().err.splitlines()
    assert half.startswith("left out: ") and "wid=1-half has no exported model yet" in half
    assert "no model" in none and "wid=2-none" in none
    assert "no model" in nowhere


# --- Real training --------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path, capsys):
    steps = ["--config.train.num_steps=120", "--config.train.checkpoint_interval=40",
             "--config.data.validation="]
    command = [*TRAINING, "--hids", "0", "--local", "1", "--experiments_dir", str(tmp_path),
               "--xid", "parts", "--args", *TINY, *steps]
    parts = tmp_path / "parts/wid=0-mshyper-small-rd_lambda=0.0025"

    def kill():
        end = time.monotonic() + 300
        while last_step(parts) < 50 and time.monotonic() < end:
            time.sleep(0.02)
        os.kill(*processes_of(tmp_path), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    code, out, _ = launch_here(ROOT, capsys, *command)
    killer.join()
    assert code == 1 and "stopped at step" in out
    code, out, _ = launch_here(ROOT, capsys, *command)
    assert code == 0, out
    uninterrupted = programs.read(train.run, [
        "x", *TRAINING[2:], *TINY, *steps, "--hid", "0", "--experiments_dir", str(tmp_path)])
    with graphs.of_programs():
        train.run(*uninterrupted.arguments)
    whole = uninterrupted.workdir
    assert (whole / "metrics.jsonl").read_text() == (parts / "metrics.jsonl").read_text()
    assert export.fingerprint(whole / "model") == export.fingerprint(parts / "model")


@pytest.mark.slow
def test_evaluation_of_a_sweep(folder, tiny_run, photo, capsys):
    images.write(folder / "photo.png", photo[100:164, 200:296])
    experiment = folder / "experiments/mine"
    for name in ("wid=0-a", "wid=1-b", "wid=2-damaged"):
        shutil.copytree(tiny_run / "model", experiment / name / "model")
    (experiment / "wid=2-damaged/model/weights.safetensors").unlink()
    (experiment / "wid=3-half/checkpoints").mkdir(parents=True)
    code, out, errors = launch_here(
        folder, capsys, "--main", "evaluate", "--local", "2", "--args", "--runs",
        "experiments/mine", "--dataset", "photo.png")
    assert code == 1, errors
    assert "wid=3-half has no exported model yet" in errors
    table = out.splitlines()[2:]
    assert [line.split()[-2] for line in table[:3]] == ["done", "done", "failed"]
    assert table[3].startswith("wid=2 failed: ") and "wid=2-damaged" in table[3]
    with open(folder / "results/photo.png/curves.csv") as file:
        assert [row["run"] for row in csv.DictReader(file)] == ["wid=0-a", "wid=1-b"]
    assert (folder / "results/photo.png/curves.png").exists()
