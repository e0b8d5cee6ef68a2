"""Commands that end with an error."""

import pytest

import codec
from common import programs
from common.errors import UserError


def fails(arguments, capsys, *words):
    """Asserts one clear line and exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as failure:
        codec.main([str(argument) for argument in arguments])
    assert failure.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    for word in words:
        assert word in lines[0]


def refuses(program, experiments_dir, message, *arguments):
    """Asserts that a package's train.py or itinf.py, run here, raises a UserError with `message`.

    That such an error is one line and exit code 2 is tested by a program of its own.
    """
    with pytest.raises(UserError, match=message):
        run = programs.read(program, ["x", *arguments, "--experiments_dir", str(experiments_dir)])
        program(*run.arguments)
