import json

import pytest

from common import files
from common.cli import UserError


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
