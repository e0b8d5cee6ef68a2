"""Inputs and outputs of a command line: one rule, and what is refused does not stop the rest."""

import argparse
import io
import os
import pathlib
import sys

import pytest

from common import file_jobs
from common.cli import report
from common.errors import UserError

INPUTS, OUTPUTS = (".png", ".jpg"), (".ntc",)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with files in it and in photos/ and photos/more/, and empty/."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "photos/c.png", "photos/d.png", "photos/more/c.png",
                 "photos/more/e.png", "old.ntc"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "empty").mkdir()
    return tmp_path


def parse(*arguments):
    parser = argparse.ArgumentParser()
    file_jobs.add_output(parser, "beside")
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--recursive", action="store_true")
    parser.add_argument("--force", action="store_true")
    return parser.parse_args(list(arguments))


def plan(*arguments, **settings):
    """Pairs as strings, and how many failed."""
    planned = file_jobs.plan(parse(*arguments), INPUTS, ".ntc", OUTPUTS, **settings)
    return {str(source): str(target) for source, target in planned.pairs}, planned.failed


@pytest.mark.parametrize("arguments, expected", [
    # Without an output, beside the inputs.
    ("a.png", {"a.png": "a.ntc"}),
    ("a.png b.png", {"a.png": "a.ntc", "b.png": "b.ntc"}),
    ("a.png b.png a.png ./a.png", {"a.png": "a.ntc", "b.png": "b.ntc"}),
    ("photos", {"photos/c.png": "photos/c.ntc", "photos/d.png": "photos/d.ntc"}),
    ("a.png none.png", {"a.png": "a.ntc", "none.png": "none.ntc"}),
    # A file.
    ("a.png x.ntc", {"a.png": "x.ntc"}),
    ("a.png -o x.ntc", {"a.png": "x.ntc"}),
    ("a.png -o X.NTC", {"a.png": "X.NTC"}),
    ("--output x.ntc a.png", {"a.png": "x.ntc"}),
    # A folder: there is one, the name has no suffix or ends in a slash.
    ("a.png empty", {"a.png": "empty/a.ntc"}),
    ("a.png photos", {"a.png": "photos/a.ntc"}),
    ("photos empty", {"photos/c.png": "empty/c.ntc", "photos/d.png": "empty/d.ntc"}),
    ("a.png b.png empty", {"a.png": "empty/a.ntc", "b.png": "empty/b.ntc"}),
    ("a.png name", {"a.png": "name/a.ntc"}),
    ("a.png some/where", {"a.png": "some/where/a.ntc"}),
    ("a.png v1.5/", {"a.png": "v1.5/a.ntc"}),
    ("a.png -o empty", {"a.png": "empty/a.ntc"}),
    ("a.png -o photos", {"a.png": "photos/a.ntc"}),
    ("a.png b.png -o new", {"a.png": "new/a.ntc", "b.png": "new/b.ntc"}),
    ("a.png --output_dir new", {"a.png": "new/a.ntc"}),
    ("a.png --output_dir x.ntc", {"a.png": "x.ntc/a.ntc"}),
    ("photos -o new", {"photos/c.png": "new/c.ntc", "photos/d.png": "new/d.ntc"}),
    ("photos new", {"photos/c.png": "new/c.ntc", "photos/d.png": "new/d.ntc"}),
    ("a.png photos -o new", {"a.png": "new/a.ntc", "photos/c.png": "new/c.ntc",
                             "photos/d.png": "new/d.ntc"}),
    ("photos --recursive -o new", {
        "photos/c.png": "new/c.ntc", "photos/d.png": "new/d.ntc",
        "photos/more/c.png": "new/more/c.ntc", "photos/more/e.png": "new/more/e.ntc"}),
    ("photos/more --recursive", {"photos/more/c.png": "photos/more/c.ntc",
                                 "photos/more/e.png": "photos/more/e.ntc"}),
    ("a.png -o ~", {"a.png": "~/a.ntc"}),  # a shell would have replaced it
    # Pipes and devices.
    ("-", {"-": "-"}), ("a.png -", {"a.png": "-"}), ("- x.ntc", {"-": "x.ntc"}),
    ("a.png -o -", {"a.png": "-"}), ("- -o x.ntc", {"-": "x.ntc"}),
    ("a.png /dev/null", {"a.png": "/dev/null"}),
    ("a.png -o /dev/null", {"a.png": "/dev/null"}),
    ("/dev/null x.ntc", {"/dev/null": "x.ntc"}),
    # Overwritten.
    ("a.png old.ntc --force", {"a.png": "old.ntc"}),
])
def test_the_rule(folder, arguments, expected, capsys):
    assert plan(*arguments.split()) == (expected, 0)
    assert "error" not in capsys.readouterr().err
    assert not any((folder / name).exists() for name in ("new", "name", "some", "~")), \
        "nothing is made before there is something to write"


def test_a_folder_of_inputs_that_is_the_output_is_said(folder, capsys):
    plan("a.png", "photos")
    assert capsys.readouterr().err == "photos is where outputs go; what is in it is left out\n"


def test_names_that_begin_with_a_dash(folder):
    for name in ("-x.png", "-"):
        (folder / name).touch()
    assert plan("--", "-x.png") == ({"-x.png": "-x.ntc"}, 0)
    assert plan("--", "-x.png", "-y.ntc") == ({"-x.png": "-y.ntc"}, 0)
    assert plan("./-") == ({str(folder / "-"): str(folder / "-.ntc")}, 0)


@pytest.mark.parametrize("arguments, words", [
    ("a.png x.gif", ["x.gif", ".ntc"]), ("a.png -o x.v2", ["x.v2", ".ntc", "/"]),
    ("a.png b.png -o x.ntc", ["x.ntc", "2 inputs", "folder", "x/"]),
    ("photos x.ntc", ["x.ntc", "2 inputs"]), ("a.png b.png x.ntc", ["2 inputs"]),
    ("- a.png", ["standard input"]), ("a.png b.png -", ["standard input"]),
    ("- -o empty", ["--output"]), ("- new", ["--output"]),
])
def test_paths_that_do_not_go_together(folder, arguments, words):
    with pytest.raises(UserError) as failure:
        plan(*arguments.split())
    assert all(word in str(failure.value) for word in words)


def test_empty_names(folder):
    for arguments in (["", "x.ntc"], ["a.png", ""], ["a.png", "-o", ""]):
        with pytest.raises(UserError, match="empty"):
            plan(*arguments)


def test_no_pipes_where_there_are_none(folder):
    for arguments in (["-"], ["a.png", "-"]):
        with pytest.raises(UserError, match="other commands"):
            plan(*arguments, pipes=False)


def refused(capsys, *arguments, **settings):
    """The lines about what is refused, where nothing is left."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as failure:
        plan(*arguments, **settings)
    assert failure.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    return lines


def test_what_exists_is_refused_and_the_rest_is_done(folder, capsys):
    line, = refused(capsys, "a.png", "old.ntc")
    assert "old.ntc exists already; --force" in line
    (folder / "a.ntc").touch()
    assert plan("a.png", "b.png") == ({"b.png": "b.ntc"}, 1)
    assert "error: a.ntc exists" in capsys.readouterr().err
    (folder / "b.ntc").touch()
    line, = refused(capsys, "a.png", "b.png")
    assert "a.ntc and 1 more" in line


def test_two_inputs_for_one_output_are_refused_and_the_rest_is_done(folder, capsys):
    (folder / "a.jpg").touch()
    pairs, failed = plan("a.png", "b.png", "a.jpg")
    assert pairs == {"b.png": "b.ntc"} and failed == 2
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith("error: a.png, a.jpg: ") and "a.ntc" in line
    pairs, failed = plan("photos", "photos/more", "-o", "out")
    assert pairs.keys() == {"photos/d.png", "photos/more/e.png"} and failed == 2


def test_no_input_is_overwritten(folder, capsys):
    (folder / "link.ntc").symlink_to("a.png")
    for arguments in ("old.ntc -o old.ntc", "old.ntc -o ./old.ntc", "old.ntc photos/../old.ntc",
                      "a.png link.ntc", "a.png -o link.ntc"):
        line, = refused(capsys, *arguments.split(), "--force")
        assert "is an input" in line
    (folder / "a.ntc").symlink_to("b.png")
    assert plan("a.png", "b.png", "--force") == ({"b.png": "b.ntc"}, 1)
    assert "a.ntc is an input" in capsys.readouterr().err


def test_outputs_that_cannot_be(folder, capsys, monkeypatch):
    (folder / "b.ntc").mkdir()
    assert "b.ntc is a folder" in refused(capsys, "b.png", "--force")[0]
    assert "no folder" in refused(capsys, "a.png", "none/x.ntc")[0]
    assert "a.png" in refused(capsys, "b.png", "-o", "a.png/")[0]
    assert "too long" in refused(capsys, "a.png", "x" * 300 + ".ntc")[0]
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    assert "not writable" in refused(capsys, "a.png", "x.ntc")[0]
    assert "not writable" in refused(capsys, "a.png", "-o", "new")[0]


def test_what_is_left_out_of_a_folder_is_said(folder, capsys):
    for name in ("x.heic", "y.HEIC", "notes.txt", "._c.png", "c.ntc"):
        (folder / "photos" / name).touch()
    os.mkfifo(folder / "photos" / "pipe.png")
    pairs, failed = plan("photos", "-o", "new")
    assert pairs.keys() == {"photos/c.png", "photos/d.png"} and failed == 0
    line, = capsys.readouterr().err.splitlines()
    for words in ("photos: ", "2 .heic", "HEI", "not read here", "1 .txt", "1 folder",
                  "--recursive"):
        assert words in line
    assert "._" not in line and ".ntc" not in line
    plan("photos", "--recursive", "-o", "new")
    assert "folder" not in capsys.readouterr().err


def test_folders_without_inputs_fail_and_the_rest_is_done(folder, capsys):
    (folder / "empty" / "x.heic").touch()
    assert plan("empty", "a.png") == ({"a.png": "a.ntc"}, 1)
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith("error: empty: no image files") and "1 .heic" in line


def test_folders_that_cannot_be_read(folder, capsys, monkeypatch):
    scan = os.scandir

    def fail(path):
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", fail)
    pairs, failed = plan("photos", "--recursive")
    assert pairs.keys() == {"photos/c.png", "photos/d.png"} and failed == 1
    assert capsys.readouterr().err == "error: photos/more: Permission denied\n"


def test_missing_inputs_do_not_stop_the_others(folder, capsys):
    pairs, failed = plan("a.png", "none.png")
    assert pairs == {"a.png": "a.ntc", "none.png": "none.ntc"} and failed == 0


def test_every_job_is_run(folder, capsys):
    done = []

    def job(source, target):
        done.append(source.name)
        if source.name == "a.png":
            raise UserError("not good")
        if source.name == "b.png":
            raise OSError(28, "No space left on device")
        return f"{target}: done"

    planned = file_jobs.plan(
        parse("a.png", "b.png", "photos", "-o", "new"), INPUTS, ".ntc", OUTPUTS)
    with pytest.raises(SystemExit) as failure:
        file_jobs.run(planned, job)
    out, err = capsys.readouterr()
    assert failure.value.code == 2 and done == ["a.png", "b.png", "c.png", "d.png"]
    assert out.splitlines() == ["new/c.ntc: done", "new/d.ntc: done"]
    assert "a.png: not good" in err and "b.png: " in err and "No space" in err
    assert err.splitlines()[-1] == "error: 2 of 4 files failed"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_names_that_cannot_be_printed(tmp_path, monkeypatch, encoding):
    path = pathlib.Path(os.fsdecode(os.fsencode(tmp_path) + b"/K\xe4se.png"))
    path.touch()
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding=encoding))

    @report
    def main():
        pairs = [(path, None), (tmp_path / "Käse.png", None)]
        file_jobs.run(file_jobs.Jobs(pairs), lambda path, _: path.name)

    main()
    sys.stdout.flush()
    first, second = output.getvalue().decode(encoding).splitlines()
    assert first == r"K\udce4se.png" and second == {"utf-8": "Käse.png", "ascii": r"K\xe4se.png"}[
        encoding]
