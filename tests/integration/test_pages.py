"""What pages say runs: commands for files and Python as they are, others as far as the work."""

import functools
import importlib
import itertools
import pathlib
import re
import shlex

import pytest

import chain
import codec
import configs
import convert.__main__
import evaluate
import launch
from common import images, programs, zoo

ROOT = pathlib.Path(__file__).resolve().parents[2]
_PARSERS = {"codec": codec._parse, "chain": chain._parse, "convert": convert.__main__._parse}
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("zoo/*/README.md"),
                ROOT / "benchmarks" / "README.md"])


def commands(page: pathlib.Path) -> list[list[str]]:
    """What is called by `python -m` in a page's blocks, without the pipes around it."""
    blocks = re.sub(r"\\\n\s+", "", "".join(re.findall(r"(?m)^    .*\n", page.read_text())))
    found = []
    for line in blocks.splitlines():
        line = re.sub(r"\[(\S+)\]", r"\1", line.strip()).removesuffix("...")
        for part in line.split(" | "):
            if part.startswith("python -m "):
                found.append(shlex.split(part, comments=True)[2:])
    return found


def python(page: pathlib.Path) -> str:
    """A page's blocks that begin with `import ntc`."""
    blocks = re.findall(r"(?m)^    import ntc\n(?:    .*\n)*", page.read_text())
    return "".join(re.sub(r"(?m)^    ", "", block) for block in blocks)


@pytest.fixture
def photographs(photo, tmp_path, monkeypatch):
    """Where the pages' commands find what they name, and are quick about it."""
    monkeypatch.chdir(tmp_path)
    places = itertools.cycle([0, 100, 200, 300])
    for name in ("photo.png", "a.png", "b.jpg", "photographs/a.png", "photographs/more/b.jpg",
                 "data/kodak/kodim01.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        x = next(places)
        images.write(path.with_suffix(".png"), photo[x:x + 64, 150:246])
        path.with_suffix(".png").rename(path)
    monkeypatch.setattr(configs, "DATA_DIR", tmp_path / "data")
    monkeypatch.setattr(zoo, "load", functools.cache(zoo.load))
    return tmp_path


@pytest.mark.parametrize("page", [
    "README.md", pytest.param("docs/files.md", marks=pytest.mark.slow)])
def test_files_are_coded_as_the_page_says(page, photographs, capsys):
    called = [words[1:] for words in commands(ROOT / page) if words[0] == "codec"]
    assert called
    for words in called:
        if "-" in words:  # a pipe
            codec._parse(words)
            continue
        if pathlib.Path("photo.ntc").exists() and words[:1] == ["compress"]:
            words = [*words, "--force"]
        codec.main(words)
        assert capsys.readouterr().out, words
    assert images.read("photo.png").shape == (64, 96, 3)


def test_python_runs_as_the_page_says(photographs):
    found = {}
    exec(python(ROOT / "README.md"), found)
    assert found["image"].shape == (64, 96, 3) and isinstance(found["file"], bytes)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_other_commands_are_understood(page, monkeypatch):
    monkeypatch.chdir(ROOT)  # where configs are
    for module, *words in commands(page):
        if module in _PARSERS:
            _PARSERS[module](words)
        elif module == "evaluate":
            evaluate.parse(words)
        elif module == "launch":
            args = launch._parse(words)
            if args.config:
                assert launch._runs(args, launch._import(args.main).run)
        elif module.endswith((".train", ".itinf")):
            programs.read(importlib.import_module(module).run, [module, *words])
