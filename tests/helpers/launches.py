"""`python -m launch` as users run it."""

import os
import pathlib
import subprocess
import sys

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


def launches(folder):
    return sorted((folder / "experiments/launches").iterdir())
