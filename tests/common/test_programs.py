"""Command lines of runs, config files, and the runs that they ask for."""

import dataclasses
import pathlib
import pickle
import subprocess
import sys

import pytest
from ml_collections import config_dict

from common import programs, runs
from common.errors import UserError
from tests.helpers import counting

ROOT = pathlib.Path(__file__).parents[2]
SMALL = str(ROOT / "mshyper/configs/small.py")
PROGRAM = programs.Program("mshyper", lambda config, workdir: None)


def read(*arguments):
    return programs.read(PROGRAM, ["mshyper.train", *arguments])


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
    (["--config", str(ROOT / "README.md")], "not a config file, which ends in .py"),
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
def test_mistakes_in_a_config_file(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    path = pathlib.Path("mine.py")
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
    run = programs.read(counting.run, command)
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
        assert run.workdir == programs.read(counting.run, command).workdir == workdir


def test_of_another_runs_folder_the_command_says_how_to_get_one(tmp_path):
    def work(config, workdir):
        runs.claim(workdir, config.to_dict(), begun=(workdir / "config.json").exists())

    program = programs.Program("mshyper", work)
    program(config_dict.ConfigDict({"seed": 0}), tmp_path)
    with pytest.raises(UserError, match="choose another folder; another --xid is another folder"):
        program(config_dict.ConfigDict({"seed": 1}), tmp_path)


@pytest.mark.parametrize("flag", ["--help", "--helpshort", "--helpfull"])
def test_help_is_no_failure(flag):
    done = subprocess.run([sys.executable, "-m", "tests.helpers.counting", flag], cwd=ROOT,
                          text=True, capture_output=True, check=False)
    assert done.returncode == 0 and not done.stderr
    assert all(f"--{name}:" in done.stdout for name in ("config", "hid", "xid"))
