"""What pages say runs: commands for files and Python as they are, others as far as the work."""

import functools
import importlib
import itertools
import pathlib
import re
import runpy
import shlex
import sys
from collections.abc import Iterable

import pytest

import chain
import codec
import configs
import convert.__main__
import evaluate
import launch
from common import commands, images, programs, zoo
from common.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"),
                *ROOT.glob("zoo/*/README.md"), ROOT / "benchmarks" / "README.md"])
_PARSERS = {"codec": codec._parse, "chain": chain._parse, "convert": convert.__main__._parse,
            "evaluate": evaluate.parse, "launch": launch._parse}
_CALL = re.compile(r"(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?((?:python -m|ntc|make) .+)")
# Placeholders: an option without a value of its own, and what makes a pattern of a command.
_OPEN = re.compile(r"(--[\w.]+)=(?:RUN|NAME|\.\.\.)")
_PATTERN = re.compile(r"<\w+>|…")


def in_blocks(page: pathlib.Path) -> list[list[str]]:
    """The commands of a page's blocks, in words, without the pipes around them."""
    blocks = re.sub(r"\\\n\s+", "", "".join(re.findall(r"(?m)^    .*\n", page.read_text())))
    lines = [re.sub(r"\[(\S+)\]", r"\1", line.strip()) for line in blocks.splitlines()]
    return _in_words(part for line in lines for part in line.split(" | "))


def in_text(page: pathlib.Path) -> list[list[str]]:
    """The commands in backticks in a page's text and tables, in words."""
    text = re.sub(r"(?m)^    .*\n", "\n", page.read_text())
    return _in_words(" ".join(found.split()) for found in re.findall(r"`([^`]+)`", text))


def _in_words(texts: Iterable[str]) -> list[list[str]]:
    """Those of `texts` that are commands, but for patterns like `python -m <package>.train`.

    Of placeholders, N becomes a number, an option like --config.model=RUN gets a name, and the word
    "..." is left out; others, like FOLDER, are words like any.
    """
    found = []
    for text in texts:
        match = _CALL.fullmatch(text)
        if match and not _PATTERN.search(text):
            words = shlex.split(match[1], comments=True)
            found.append(["0" if word == "N" else _OPEN.sub(r"\1=mshyper", word)
                          for word in words if word != "..."])
    return found


def check(program: str, *words: str, named: bool = False) -> None:
    """Fails if a command has a mistake that can be told before its work begins.

    With `named`, it may be only the name of a program, and of a command of it.
    """
    if program == "make":
        _check_make(words)
        return
    module, *options = _called_by_ntc(words) if program == "ntc" else words[1:]
    if module in _PARSERS:
        _check_parsed(module, options, named)
    elif module.endswith((".train", ".itinf")):
        run = importlib.import_module(module).run
        assert isinstance(run, programs.Program)
        if options or not named:
            programs.read(run, [module, *options])
    elif module.startswith("benchmarks."):
        _check_source(module, options)
    else:
        pytest.fail(f"python -m {module}: a command that this test does not know")


def _check_make(words):
    makefile = (ROOT / "Makefile").read_text()
    targets = " ".join(re.findall(r"(?m)^([\w -]+):(?!=)", makefile)).split()
    variables = re.findall(r"(?m)^(\w+) \?=", makefile)
    for word in words:
        name, given, _ = word.partition("=")
        assert name in (variables if given else targets), f"make {word}"


def _called_by_ntc(words):
    """The module that `ntc` runs, and its arguments."""
    called = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ntc", *words])
        patch.setattr(runpy, "run_module",
                      lambda module, **_: called.extend([module, *sys.argv[1:]]))
        commands.main()
    return called


def _check_parsed(module, words, named):
    if named and all(re.fullmatch("[a-z]+", word) for word in words):
        with pytest.raises(SystemExit) as end:
            _PARSERS[module]([*words, "--help"])
        assert not end.value.code, words
        return
    args = _PARSERS[module](words)
    if module == "launch" and args.main == "evaluate":
        evaluate.parse(args.args)
    elif module == "launch" and args.main:
        assert launch._runs(args, launch._import(args.main).run)


def _check_source(module, words):
    """Of a module that is not imported: it is a program, and its source has the options."""
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    assert '__name__ == "__main__"' in source, module
    if "side_by_side.add_arguments(" in source:
        source += (ROOT / "benchmarks" / "side_by_side.py").read_text()
    options = re.findall(r'"(--?\w+)"', source)
    for word in words:
        assert not word.startswith("-") or word.partition("=")[0] in options, f"{module} {word}"


def python(page: pathlib.Path) -> str:
    """A page's blocks that begin with `import ntc`."""
    blocks = re.findall(r"(?m)^    import ntc\n(?:    .*\n)*", page.read_text())
    return "".join(re.sub(r"(?m)^    ", "", block) for block in blocks)


@pytest.fixture
def photographs(photo, tmp_path, monkeypatch, without_graphs):
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
    called = [words[3:] for words in in_blocks(ROOT / page) if words[2:3] == ["codec"]]
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
    for words in in_blocks(page):
        check(*words)
    for words in in_text(page):
        check(*words, named=True)


def test_commands_are_found_wherever_a_page_has_them(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("\n".join([
        "To `make demo GPU=1`, or `python -m", "benchmarks.report`, or in a block:", "",
        "    NTC_DATA_DIR=... .venv/bin/python -m evaluate --model \\",
        "        mine    # and so on",
        "    cat a.png | python -m codec compress - [b.ntc] | cat",
        "    python3.11 -m venv .venv", "",
        "| `ntc compress ...` | `python -m mshyper.itinf --hid N --config.model=RUN` |",
        "| `python -m <package>.train` | `ntc` | `python -m chain info FILE` |", ""]))
    assert [" ".join(words) for words in in_blocks(page)] == [
        "python -m evaluate --model mine", "python -m codec compress - b.ntc"]
    assert [" ".join(words) for words in in_text(page)] == [
        "make demo GPU=1", "python -m benchmarks.report", "ntc compress",
        "python -m mshyper.itinf --hid 0 --config.model=mshyper", "python -m chain info FILE"]


@pytest.mark.parametrize("command", [
    "make tests", "make demo CPU=1", "python -m evaluate",
    "python -m mshyper.itinf --config mshyper/configs/itinf.py:sga --config.modle=mshyper",
    "ntc comprss", "ntc train nowhere.py", "python -m demo",
    "python -m benchmarks.nothing", "python -m benchmarks.bd",
    "python -m benchmarks.coding --runds 3",
    "python -m codec comprss", "python -m evaluate --lpips", "python -m mshyper.train --hid 0",
    "python -m launch --main evaluate --args --lpips"])
def test_wrong_commands_are_found(command):
    with pytest.raises((AssertionError, OSError, SystemExit, UserError, pytest.fail.Exception)):
        check(*command.split())
