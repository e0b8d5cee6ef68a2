"""What is saved when a signal ends a process."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
ENDING = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background may ignore it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup does
from common import stopping
stopping.stop_on_signals(again=sys.argv[2:] != ["once"])
with stopping.saved_by(lambda: print("saved", flush=True) or "step 3 of 10"):
    with stopping.unstoppable():
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


def test_a_second_signal_may_change_nothing():
    with subprocess.Popen([sys.executable, "-c", ENDING, "1", "once"], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            process.send_signal(number)
            time.sleep(0.1)
        out, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert out == "not half\nsaved\n" and errors.startswith("stopped at step 3 of 10")


def test_what_nohup_ignores_stays_ignored():
    code = ("import signal, os; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
            "from common import stopping; stopping.stop_on_signals()\n"
            "os.kill(os.getpid(), signal.SIGHUP); print('alive')")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True,
                          check=False, env={**os.environ})
    assert done.stdout == "alive\n"


@pytest.mark.parametrize("stopped, code, last", [(True, 143, "stopped; "), (False, 1, "RuntimeE")])
def test_errors_on_the_way_out_are_not_shown(stopped, code, last):
    program = ("import os, signal, sys\n"
               "from common import stopping\n"
               "stopping.stop_on_signals()\n"
               "with stopping.stoppable():\n"
               "    try:\n"
               "        if int(sys.argv[1]): os.kill(os.getpid(), signal.SIGTERM)\n"
               "    finally:\n"
               "        raise RuntimeError('contexts are not nested')\n")
    done = subprocess.run([sys.executable, "-c", program, str(int(stopped))], cwd=ROOT, text=True,
                          capture_output=True, check=False)
    assert done.returncode == code
    assert done.stderr.splitlines()[-1].startswith(last)
