"""One clear line for what a user can mend."""

import errno
import os
import pathlib
import subprocess
import sys

import pytest
import tensorflow as tf

from common.cli import report
from common.errors import UserError


def fail(error):
    @report
    def main():
        raise error

    main()


@pytest.mark.parametrize("error, message", [
    (UserError("wrong\n  twice"), "wrong twice"),
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.txt"), "a.txt: No space left on device"),
    (tf.errors.ResourceExhaustedError(None, None, "/x/step-3; No space left on device"),
     "/x/step-3; No space left on device"),
    (tf.errors.PermissionDeniedError(None, None, "/x/events; Permission denied"),
     "/x/events; Permission denied"),
    (tf.errors.UnknownError(None, None, "/x/events; Read-only file system\nmore"),
     "/x/events; Read-only file system"),
])
def test_what_a_user_can_mend_is_one_line(error, message, capsys):
    with pytest.raises(SystemExit) as failure:
        fail(error)
    assert failure.value.code == 2
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize("error", [
    tf.errors.InvalidArgumentError(None, None, "shapes [1] and [2] do not match"),
    ValueError("/x; No space left on device")])
def test_mistakes_of_ours_are_not_hidden(error):
    with pytest.raises(type(error)):
        fail(error)


def test_a_reader_that_has_seen_enough_is_no_error():
    code = ("import sys; from common import cli; "
            "cli.report(lambda: [print(i) for i in range(100_000)])()")
    done = subprocess.run(f'{sys.executable} -c "{code}" | head -n 1', shell=True,
                          capture_output=True, text=True, check=False,
                          cwd=pathlib.Path(__file__).parents[2])
    assert done.stdout == "0\n" and done.stderr == ""
