import json
import os
import pathlib
import threading

import pytest

from common import files
from common.errors import UserError


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "a.txt"
    with files.replacing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == tmp_path and temporary.suffix == ".txt"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_exception_leaves_what_was_there(tmp_path, kind):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        if kind == "folder":
            temporary.mkdir()
            temporary /= "inner"
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_a_folder_as_a_whole(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "stale").touch()
    with files.replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "fresh").touch()
    assert [p.name for p in path.iterdir()] == ["fresh"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_does_not_replace_a_folder(tmp_path):
    path = tmp_path / "results"
    path.mkdir()
    (path / "precious").touch()
    with pytest.raises(UserError, match="results"), files.replacing(path) as temporary:
        temporary.write_text("new")
    assert (path / "precious").exists()
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folder_is_a_user_error(tmp_path):
    with (pytest.raises(UserError, match="missing/a.txt"),
          files.replacing(tmp_path / "missing" / "a.txt") as temporary):
        temporary.write_text("new")
    assert not list(tmp_path.iterdir())


def test_a_file_in_place_of_the_folder_is_a_user_error(tmp_path):
    (tmp_path / "plain").touch()
    with (pytest.raises(UserError, match="plain/a.txt"),
          files.replacing(tmp_path / "plain" / "a.txt") as temporary):
        temporary.write_text("new")


def test_json_is_indented_and_ends_with_a_newline(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"b": [1], "a": None})
    text = path.read_text()
    assert json.loads(text) == {"b": [1], "a": None}
    assert text.startswith('{\n  "b"') and text.endswith("}\n")


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing yet"])
def test_links_are_followed(tmp_path, there):
    store, link = tmp_path / "store", tmp_path / "link.txt"
    store.mkdir()
    if there:
        (store / "real.txt").write_text("old")
    link.symlink_to("store/real.txt")
    with files.replacing(link) as temporary:
        temporary.write_text("new")
        assert temporary.parent == store, "a rename is not one step between file systems"
    assert link.readlink() == pathlib.Path("store/real.txt")
    assert (store / "real.txt").read_text() == "new"
    assert len(list(store.iterdir())) == 1 and len(list(tmp_path.iterdir())) == 2


def test_links_to_folders_are_followed(tmp_path):
    (tmp_path / "results-1").mkdir()
    (tmp_path / "latest").symlink_to("results-1")
    with files.replacing(tmp_path / "latest") as temporary:
        temporary.mkdir()
        (temporary / "fresh").touch()
    assert (tmp_path / "latest").is_symlink() and (tmp_path / "results-1" / "fresh").exists()


@pytest.mark.parametrize("target", ["loop.txt", "missing/real.txt"])
def test_links_that_lead_nowhere_are_user_errors_and_stay(tmp_path, target):
    (tmp_path / "loop.txt").symlink_to(target)
    with (pytest.raises(UserError, match="cannot write .*loop.txt"),
          files.replacing(tmp_path / "loop.txt") as temporary):
        temporary.write_text("new")
    assert (tmp_path / "loop.txt").is_symlink() and len(list(tmp_path.iterdir())) == 1


def test_a_replaced_file_keeps_its_permissions(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o640)
    with files.replacing(path) as temporary:
        temporary.write_text("new")
    assert path.stat().st_mode & 0o777 == 0o640 and path.read_text() == "new"


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600)])
def test_a_new_file_has_those_of_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with files.replacing(tmp_path / "a.txt") as temporary:
            temporary.write_text("new")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == mode


def test_the_longest_names(tmp_path):
    path = tmp_path / ("ä" * 125 + ".text")
    with files.replacing(path) as temporary:
        temporary.write_text("new")
    assert list(tmp_path.iterdir()) == [path]


def test_a_pipe_is_written_to(tmp_path):
    path, received = tmp_path / "pipe.txt", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: received.append(path.read_bytes()))
    reader.start()
    with files.replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.suffix == ".txt"
    reader.join()
    assert received == [b"new"] and path.is_fifo() and list(tmp_path.iterdir()) == [path]


def test_devices_are_written_to():
    with files.replacing("/dev/null") as temporary:
        temporary.write_text("new")
        assert temporary.parent != pathlib.Path("/dev")
    assert files.is_stream("/dev/null") and pathlib.Path("/dev/null").is_char_device()
    with (pytest.raises(UserError, match="cannot write /dev/full: No space"),
          files.replacing("/dev/full") as temporary):
        temporary.write_text("new")


@pytest.mark.parametrize("link", [True, False])
def test_an_open_file_is_written_on(tmp_path, link):
    """As `>> file` of a shell leaves it: what was there before stays."""
    path = tmp_path / "a.txt"
    path.write_text("before, ")
    with open(path, "a") as file:
        name = f"/dev/fd/{file.fileno()}"
        if link:
            (tmp_path / "link").symlink_to(name)
            name = tmp_path / "link"
        assert files.is_stream(name) and not files.is_stream(path)
        with files.replacing(name) as temporary:
            temporary.write_text("after")
    assert path.read_text() == "before, after"
    assert len(list(tmp_path.iterdir())) == 1 + link
