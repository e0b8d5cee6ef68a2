"""Commands that end with an error."""

import pytest

import codec


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
