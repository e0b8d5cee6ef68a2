"""Pages say what is there: links lead somewhere, and commands and files exist."""

import importlib.util
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"),
                *(ROOT / "docs").glob("*.ipynb"),
                *(ROOT / "zoo").glob("*/README.md"), ROOT / "benchmarks" / "README.md"])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
MODULE = re.compile(r"python -m ([a-z_][\w.]*)")
FILE = re.compile(r"(?<![\w/.<-])((?:common|convert|factorized|mshyper|joint_ar|hific|benchmarks|"
                  r"tests|docs|zoo)/[\w/.-]+\.(?:py|md|json|png|sh))(?![\w/])")
# What commands in the pages are to make, or what the user is to have.
MADE = re.compile(r"results/benchmarks/")


def anchor(title: str) -> str:
    """What a heading is called in links."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text()
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if fragment:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.M)
            assert fragment in map(anchor, headings), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_files_exist(page):
    text = page.read_text()
    for module in {*MODULE.findall(text)} - {"pip", "venv", "pytest"}:
        assert importlib.util.find_spec(module.rstrip(".")), module
    for name in FILE.findall(text):
        assert MADE.match(name) or (ROOT / name).exists(), name


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_page_leads_to_another(page):
    links = re.findall(r"\]\(([\w-]+\.md)(?:#[\w-]+)?\)", page.read_text())
    assert {*links} - {page.name}, f"docs/{page.name} has no link to another page of docs/"


def test_every_page_can_be_reached_from_the_first():
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        for link in LINK.findall(page.read_text()):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix in (".md", ".ipynb") and target.is_file() and target not in seen:
                waiting.append(target)
    assert {*PAGES} <= {pathlib.Path(page).resolve() for page in seen}


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
