"""`python -m launch` as users run it."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

import launch as program

ROOT = pathlib.Path(__file__).parents[2]
COUNTING = ["--main", "tests.helpers.counting",
            "--config", str(ROOT / "tests/helpers/counting_config.py")]
EXPERIMENT = "tests-counting_config"


def launch(folder, *arguments):
    """Exit code, what it printed, and its errors; `launch` is run in `folder`."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "launch", *arguments], cwd=folder, text=True,
        capture_output=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return done.returncode, done.stdout, done.stderr


def launch_here(folder, capsys, *arguments):
    """The same in this process, which has imported TensorFlow already."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PYTHONPATH", str(ROOT))
        try:
            program.main([*arguments])
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return code, *capsys.readouterr()


def launches(folder):
    return sorted((folder / "experiments/launches").iterdir())
