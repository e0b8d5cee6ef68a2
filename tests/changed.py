"""The tests of what changed since `main`, nearest first, for under a minute: `make check`.

    python -m tests.changed

A test module has to do with a file if it imports it, or a module that does, and so on; or if it or
such a module names it in a string, as commands and pages are named. The fewer the steps, the sooner
its tests run. Those for which there is no time left are left to `make test`, and counted; slow ones
to `make test-all`.
"""

import ast
import collections
import fnmatch
import functools
import pathlib
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SECONDS = 45  # after which no further test begins; the rest of a minute is for lint

Graph = dict[pathlib.PurePath, set[pathlib.PurePath]]


def changed_files() -> set[pathlib.PurePath]:
    """What differs from `main`, committed or not; on `main` itself from the last commit or two.

    Paths are relative to the root.
    """
    untracked = _git("ls-files", "--others", "--exclude-standard")
    for base in (*_git("merge-base", "HEAD", "main"), "HEAD~1"):
        names = {*_git("diff", "--name-only", base), *untracked}
        if names:
            return {pathlib.PurePath(name) for name in names}
    return set()


def _git(*arguments):
    """The lines that git prints; none where it fails, as for a branch that there is not."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.splitlines()


def uses() -> Graph:
    """For each Python file of the repository, the files that it imports or names."""
    found = _git("ls-files", "--cached", "--others", "--exclude-standard")
    files = {pathlib.PurePath(name) for name in found if (ROOT / name).is_file()}
    modules = {path.with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
               for path in files if path.suffix == ".py"}
    # Other files by what they may be called: their path, their name, and those of their folders.
    called = collections.defaultdict(set)
    for path in files:
        for name in (str(path), *(path.parts if path.suffix != ".py" else ())):
            called[name].add(path)
    others = [path for path in files if path.suffix != ".py"]
    graph = {}
    for path in modules.values():
        names, strings = _names(ast.parse((ROOT / path).read_text()))
        # Of a test, what pytest hands it.
        names |= {f"{'.'.join(folder.parts)}.conftest" for folder in path.parents if folder.parts}
        graph[path] = {modules[name] for name in names if name in modules}
        for text in strings:
            graph[path] |= called.get(text, set())
            if "*." in text:
                graph[path] |= {other for other in others if fnmatch.fnmatch(other.name, text)}
        graph[path].discard(path)
    return graph


def _names(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Names of what may be modules that a file imports or names; and its strings."""
    names, strings = set(), set()
    waiting = collections.deque([tree])
    while waiting:
        node = waiting.popleft()
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                continue
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(module=module) if not node.level:
                names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
                if module == "common.lazy":
                    names |= {f"common.{alias.name}" for alias in node.names}
            case ast.Constant(value=str(text)):
                strings.add(text)
        waiting.extend(ast.iter_child_nodes(node))
    return names | strings, strings


def related(changed: set[pathlib.PurePath], graph: Graph) -> list[pathlib.PurePath]:
    """The test modules that have to do with what changed, the nearest first.

    Of two equally near the one that uses less comes first: it tests more of what changed.
    """
    users = collections.defaultdict(set)
    for path, used in graph.items():
        for other in used:
            users[other].add(path)
    steps = {path: 0 for path in changed}
    waiting = collections.deque(changed)
    while waiting:
        path = waiting.popleft()
        for user in users[path] - steps.keys():
            steps[user] = steps[path] + 1
            waiting.append(user)

    @functools.cache
    def breadth(path):
        seen, waiting = {path}, [path]
        while waiting:
            more = graph.get(waiting.pop(), set()) - seen
            seen |= more
            waiting += more
        return len(seen)

    tests = [path for path in steps if path.name.startswith("test_") and path in graph]
    return sorted(tests, key=lambda path: (steps[path], breadth(path), path))


class UntilTimeIsOver:
    """A plugin of pytest that ends the session when time is over, after one test at least.

    Attributes:
      passed: how many tests have passed.
      left: how many have not begun.
      over: whether the time was over before the last.
    """

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds
        self.passed = self.left = 0
        self.over = False

    def pytest_collection_finish(self, session):
        self.left = len(session.items)

    def pytest_runtest_setup(self):
        self.left -= 1

    def pytest_runtest_logreport(self, report):
        self.passed += report.when == "call" and report.passed

    def pytest_runtest_teardown(self, item):
        self.over = self.left > 0 and time.monotonic() > self._end
        if self.over:
            item.session.shouldstop = "time is over"


def main() -> int:
    """Runs the tests; returns pytest's exit status."""
    plugin = UntilTimeIsOver(SECONDS)
    changed = changed_files()
    tests = related(changed, uses())
    if not tests:
        print(f"no test has to do with {', '.join(map(str, sorted(changed))) or 'nothing'}")
        return 0
    status = pytest.main(["-m", "not slow", "-x", *(str(ROOT / path) for path in tests)],
                         [plugin])
    print(f"{plugin.passed} tests passed, of {len(tests)} test modules that have to do with what "
          f"changed; {plugin.left} more are left to `make test`, and slow ones to `make test-all`")
    if plugin.over and status == pytest.ExitCode.INTERRUPTED:
        return 0
    return status


if __name__ == "__main__":
    sys.exit(main())
