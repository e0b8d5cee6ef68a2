"""Command lines of runs, their folders, and what ends them."""

import dataclasses
import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time

import pytest

from common import runs
from common.errors import UserError
from tests import counting

ROOT = pathlib.Path(__file__).parents[2]
SMALL = str(ROOT / "mshyper/configs/small.py")
PROGRAM = runs.Program("mshyper", lambda config, workdir: None)


def read(*arguments):
    return runs.read(PROGRAM, ["mshyper.train", *arguments])


# --- Command lines ------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, message", [
    (["--config", SMALL, "--config.trian.num_steps=3"],
     "the config has no key trian; did you mean train.num_steps?"),
    (["--config", SMALL, "--config.train.num_step=3"],
     "no key train.num_step; did you mean train.num_steps?"),
    (["--config", SMALL, "--config.num_steps=3"], "did you mean train.num_steps?"),
    (["--config", SMALL, "--config.zzz=3"], "no key zzz; it has data, model, seed, train"),
    (["--config", SMALL, "--config.seed.x=3"], "no key seed; "),
    (["--config", SMALL, "--config.train.num_steps=1e3"], "num_steps=1e3: need a whole number"),
    (["--config", SMALL, "--config.train.num_steps=None"], "need a whole number"),
    (["--config", SMALL, "--config.train.rd_lambda=low"], "rd_lambda=low: need a number"),
    (["--config", SMALL, "--config.data.flip=maybe"], "flip=maybe: need true or false"),
    (["--config", SMALL, "--config.train.rd_lambda"], "need a number for it, as --config.train"),
    (["--config", SMALL, "--config.model.analysis.channels=(8"], r"values in brackets"),
    (["--config", SMALL, "--config.data={}"], "data is a section of the config; give an entry"),
    (["--config.data.train=x"], "--config is missing: --config <package>/configs/<paper>.py"),
    (["--config=", "--xid=x"], "--config is missing"),
    ([], "--config is missing"),
    (["--config", SMALL, "--hid=x"], "flag --hid=x: need a whole number"),
    (["--config", SMALL, "--hdi=1"], "there is no flag --hdi; did you mean --hid?"),
    (["--config", SMALL, "x"], "'x' belongs to no flag"),
    (["--config", "nowhere.py"], "no config file nowhere.py"),
    (["--config", str(ROOT / "README.md")], "no config file, which ends in .py"),
    (["--config", str(ROOT / "common/recipes.py")], r"has no get_config\(\)"),
    (["--config", f"{SMALL}:advdnc"], "did you mean 'advdnic'"),
])
def test_mistakes_on_the_command_line(arguments, message):
    with pytest.raises(UserError, match=message) as failure:
        read(*arguments)
    assert "\\n" not in str(failure.value) and "\n" not in str(failure.value)


@pytest.mark.parametrize("text, message", [
    ("import nothing_of_this_name\n", "line 1: ModuleNotFoundError"),
    ("def get_config():\n    return x\n", "line 2: NameError: name 'x'"),
    ("def get_config(:\n", "line 1: SyntaxError"),
    ("def get_config():\n    pass\n", "AttributeError"),
    ("from common.recipes import cpu\n\n\ndef get_config():\n    return cpu()\n",
     r":advdnic: its get_config\(\) takes no recipe"),
    ("from common.recipes import cpu\n\n\ndef get_config(recipe):\n    return cpu()\n\n\n"
     "def get_hyper():\n    return [{'train.lambda': 1.0}]\n", r"entry 0 of get_hyper\(\)"),
])
def test_mistakes_in_a_config_file(tmp_path, text, message):
    path = tmp_path / "mine.py"
    path.write_text(text)
    recipe = ":advdnic" * ("takes no" in message or "entry" in message)
    with pytest.raises(UserError, match=message):
        read("--config", f"{path}{recipe}", *["--hid=0"] * ("entry" in message))


def test_of_flags_that_are_given_twice_the_last_wins():
    run = read("--config", str(ROOT / "mshyper/configs/mbt2018.py"), "--config.seed=1",
               "--config.data.flip", "--config.data.flip=0", "--config.train.rd_lambda", "1",
               "--xid=a", "--config", SMALL, "--config.seed", "-2", "--xid=b", "--config.seed=3",
               "--noconfig.data.flip", "--config.data.flip")
    assert run.xid == "b" and run.name == "mshyper-small" and run.config.seed == 3
    assert run.config.data.flip is True and run.config.train.rd_lambda == 1.0
    assert read("--noconfig.data.flip", "--config", SMALL).config.data.flip is False


def test_values_have_the_types_of_the_entries():
    config = read("--config", SMALL, "--config.model.analysis.channels=(8, 8, 8, 12)",
                  "--config.train.rd_lambda=1", "--config.train.rate_target=0.5",
                  "--config.data.train=*.png", "--config.train.warm_start=a").config
    assert config.model.analysis.channels == (8, 8, 8, 12)
    assert isinstance(config.train.rd_lambda, float) and config.train.rate_target == 0.5
    assert config.data.train == "*.png" and config.train.warm_start == "a"


def test_a_run_is_what_the_command_line_says(monkeypatch):
    command = ["x", "--config", f"{counting.CONFIG}:fast", "--hid", "2", "--config.train.fail_at=7"]
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


@pytest.mark.parametrize("flag", ["--help", "--helpshort", "--helpfull"])
def test_help_is_no_failure(flag):
    done = subprocess.run([sys.executable, "-m", "tests.counting", flag], cwd=ROOT, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 0 and not done.stderr
    assert all(f"--{name}:" in done.stdout for name in ("config", "hid", "xid"))


# --- Folders ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wid, runname", [(0, "a"), (12, "two_layer-rd_lambda=1e-05"), (3, "")])
def test_names_of_folders_round_trip(wid, runname):
    assert runs.split_name(runs.folder_name(wid, runname)) == (wid, runname)


@pytest.mark.parametrize("name", ["wid=-small", "wid=1", "launches", "1-small", "wid=1.5-a"])
def test_folders_of_other_names(name):
    with pytest.raises(UserError, match="no folder of a run"):
        runs.split_name(name)


def test_a_folder_is_that_of_one_config(tmp_path):
    config = {"seed": 0, "package": "mshyper", "train": {"rd_lambda": 0.01, "log_interval": 5}}
    assert runs.claim(tmp_path, config, begun=False, precision="float32") == {}
    assert runs.claim(tmp_path, config, begun=True) == {}
    # Of a later version, which has a key more and does not use it.
    assert runs.claim(tmp_path, {**config, "data": {"by_size": False}}, begun=True) == {}
    with pytest.raises(UserError, match="data.by_size: None there, True here"):
        runs.claim(tmp_path, {**config, "data": {"by_size": True}}, begun=True)
    other = {"seed": 0, "package": "joint_ar", "train": {"rd_lambda": 0.5, "log_interval": 9}}
    with pytest.raises(UserError, match=r"\(package, train.rd_lambda differ; package: mshyper "
                                        r"there, joint_ar here; .* another --xid, or think") as e:
        runs.claim(tmp_path, other, begun=True, may_change=["train.log_interval"],
                   advice=", or think")
    assert "remove" not in str(e.value)
    assert json.loads((tmp_path / "config.json").read_text()) == config


def test_what_changes_is_written_down(tmp_path):
    config = {"seed": 0, "train": {"log_interval": 5}}
    runs.claim(tmp_path, config, begun=False, precision="float32")
    for step, interval in ((7, 9), (8, None)):
        wanted = {"seed": 0, "train": {} if interval is None else {"log_interval": interval}}
        changes = runs.claim(tmp_path, wanted, begun=True, may_change=["train.log_interval"])
        assert json.loads((tmp_path / "config.json").read_text()) == config, "not before it is so"
        runs.record_changes(tmp_path, wanted, changes, step=step)
        config = json.loads((tmp_path / "config.json").read_text())
        assert config == wanted
    assert runs.fact(tmp_path, "precision") == "float32"
    first, second = runs.fact(tmp_path, "changes")
    assert first["step"] == 7 and first["config"] == {
        "train.log_interval": {"before": 5, "after": 9}}
    assert second["config"] == {"train.log_interval": {"before": 9, "after": None}}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff"])
def test_a_damaged_record_is_no_permission(tmp_path, text):
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    (tmp_path / "run_info.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        runs.claim(tmp_path, {"seed": 0}, begun=True)
    assert runs.fact(tmp_path, "precision") is None


# --- Ends ---------------------------------------------------------------------------------------

ENDING = """
import sys, time
from common import runs
runs.stop_on_signals()
with runs.saved_by(lambda: print("saved", flush=True) or "step 3 of 10"):
    with runs.unstoppable():
        print("begun", flush=True)
        time.sleep(float(sys.argv[1]))
        print("not half", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("busy", [0, 0.5])
def test_a_signal_saves_and_ends(number, busy):
    with subprocess.Popen([sys.executable, "-c", ENDING, str(busy)], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == "begun\n"
        if not busy:
            assert process.stdout.readline() == "not half\n"
            time.sleep(0.1)
        process.send_signal(number)
        out, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert out == "not half\n" * bool(busy) + "saved\n"
    assert errors == "stopped at step 3 of 10; the same command goes on\n"


def test_a_second_signal_ends_at_once():
    with subprocess.Popen([sys.executable, "-c", ENDING, "60"], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT and not out and not errors


def test_what_nohup_ignores_stays_ignored():
    code = ("import signal, os; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
            "from common import runs; runs.stop_on_signals()\n"
            "os.kill(os.getpid(), signal.SIGHUP); print('alive')")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True,
                          check=False, env={**os.environ})
    assert done.stdout == "alive\n"
