"""`ntc`: which module a command is, and with what arguments."""

import pathlib
import runpy
import sys
import tomllib

import pytest

import ntc
from common import commands, zoo

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def run(monkeypatch):
    """Calls the command; returns the module that it would run, and its `sys.argv` without name."""
    def call(*arguments):
        ran = []
        monkeypatch.setattr(runpy, "run_module", lambda module, **_: ran.append(module))
        monkeypatch.setattr(sys, "argv", ["ntc", *arguments])
        commands.main()
        return *ran, sys.argv[1:]

    return call


@pytest.mark.parametrize("arguments, module, expected", [
    (("compress", "--model", "m", "a.png"), "codec", ["compress", "--model", "m", "a.png"]),
    (("inspect", "a.png"), "codec", ["inspect", "a.png"]),
    (("train", "mshyper/configs/mbt2018.py:advdnic", "--hid", "2"), "mshyper.train",
     ["--config", "mshyper/configs/mbt2018.py:advdnic", "--hid", "2"]),
    (("train", "/elsewhere/joint_ar/configs/mine.py"), "joint_ar.train",
     ["--config", "/elsewhere/joint_ar/configs/mine.py"]),
    (("refine", "factorized/configs/itinf.py:sga"), "factorized.itinf",
     ["--config", "factorized/configs/itinf.py:sga"]),
    (("convert", "--list"), "convert", ["--list"]),
    (("evaluate",), "evaluate", []),
])
def test_commands_are_modules(run, arguments, module, expected):
    assert run(*arguments) == (module, expected)


def test_version(run, capsys):
    assert run("--version") == (["--version"],)
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert capsys.readouterr().out == f"ntc-zoo {ntc.__version__}\n"
    assert f"\n## {ntc.__version__} " in changes


@pytest.mark.parametrize("arguments, message", [
    (("comprss",), "did you mean 'compress'?"), (("train",), "takes a config first"),
    (("train", "--hid", "2"), "takes a config first"), (("refine", "x.py"), "not 'x.py'")])
def test_mistakes_are_one_line(run, arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        run(*arguments)
    assert error.value.code == 2
    line, = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_help_names_the_commands(run, capsys):
    run()
    assert "ntc compress" in capsys.readouterr().out


def test_what_is_installed_is_what_there_is():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    modules = settings["tool"]["setuptools"]["py-modules"]
    assert {*modules} == {path.stem for path in ROOT.glob("*.py")}
    packages = settings["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {f"{module.partition('.')[0]}*" for module in zoo.CODECS} <= {*packages}
    module, _, function = settings["project"]["scripts"]["ntc"].partition(":")
    assert module == "common.commands" and function == "main"
