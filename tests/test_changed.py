"""`make check` runs the tests of what changed."""

import pathlib

import pytest

from tests import changed
from tests.changed import ROOT

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no git repository")


def paths(*names):
    return [pathlib.PurePath(name) for name in names]


@pytest.fixture(autouse=True)
def without_collecting_garbage(monkeypatch):
    """At its end pytest collects that of all tests before too, five seconds each time."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:unraisableexception")


@pytest.fixture(scope="module")
def graph():
    return changed.uses()


@pytest.mark.parametrize("file, test", [
    ("tests/common/test_ans.py", "tests/common/test_ans.py"),
    ("common/ans.py", "tests/common/test_ans.py"),
    ("common/commands.py", "tests/common/test_commands.py"),
    ("CONTRIBUTING.md", "tests/test_docs.py")])
def test_the_nearest_comes_first(graph, file, test):
    first, *_ = changed.related({*paths(file)}, graph)
    assert first == pathlib.PurePath(test)


@pytest.mark.parametrize("file, test", [
    ("common/images.py", "tests/integration/test_codec.py"),  # through others
    ("launch.py", "tests/integration/test_launch.py"),  # as a command
    ("mshyper/models.py", "tests/test_zoo.py"),  # by a name in a table
    ("common/targets.py", "tests/test_ntc.py"),  # by a lazy import
    ("tests/conftest.py", "tests/common/test_ans.py"),
    ("README.md", "tests/test_docs.py")])
def test_what_uses_it_at_a_distance_is_found(graph, file, test):
    assert pathlib.PurePath(test) in changed.related({*paths(file)}, graph)


def test_whatever_is_shared_has_tests(graph):
    shared = [path for path in graph if path.parts[0] in ("common", "convert", "zoo")]
    assert len(shared) > 50
    assert not [str(path) for path in shared if not changed.related({path}, graph)]


def test_names_in_a_file(tmp_path):
    tree = changed.ast.parse("""
import a.b, c
from d import e
from common.lazy import coding
if TYPE_CHECKING:
    import never
def f():
    import g
    run("h.i", "j.md")
""")
    names, strings = changed._names(tree)
    assert {"a.b", "c", "d", "d.e", "common.coding", "g", "h.i"} <= names and "never" not in names
    assert strings == {"h.i", "j.md"}


def test_what_there_is_no_time_for_is_counted(tmp_path):
    (tmp_path / "test_three.py").write_text("".join(
        f"def test_{number}():\n    pass\n" for number in range(3)))
    for seconds, passed, status in ((60, 3, 0), (-1, 1, pytest.ExitCode.INTERRUPTED)):
        plugin = changed.UntilTimeIsOver(seconds)
        assert status == pytest.main(
            ["-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)], [plugin])
        assert (plugin.passed, plugin.left, plugin.over) == (passed, 3 - passed, seconds < 0)


@pytest.mark.parametrize("failing, status", [(False, 0), (True, 1)])
def test_a_failure_is_one_whatever_the_time(monkeypatch, tmp_path, failing, status):
    path = tmp_path / f"test_failing_{failing}.py"
    path.write_text(
        f"def test_0():\n    assert {not failing}\n\n\ndef test_1():\n    pass\n")
    monkeypatch.setattr(changed, "SECONDS", -1)
    monkeypatch.setattr(changed, "changed_files", set)
    monkeypatch.setattr(changed, "related", lambda changed, graph: [path])
    assert changed.main() == status
