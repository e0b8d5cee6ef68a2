"""`python -m codec inspect`: figures appear where they should, mistakes are one line."""

import pytest
from PIL import Image

import codec
from common import images
from tests.helpers.commands import fails

pytestmark = pytest.mark.usefixtures("without_graphs")


@pytest.fixture
def folder(photo, tmp_path):
    """A folder with two small photographs."""
    for name, left in (("a.png", 0), ("b.png", 300)):
        images.write(tmp_path / name, photo[100:200, left:left + 150])
    return tmp_path


def inspect(model, *arguments):
    codec.main(["inspect", "--model", str(model), *map(str, arguments)])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_one_photograph(tiny_model, folder, capsys):
    inspect(tiny_model, folder / "a.png")
    assert capsys.readouterr().out.strip() == str(folder / "a.inspect.png")
    inspect(tiny_model, folder / "a.png", folder / "figure.pdf")
    assert names(folder) == ["a.inspect.png", "a.png", "b.png", "figure.pdf"]
    with Image.open(folder / "a.inspect.png") as figure:
        assert figure.width > 1000 and len(set(figure.convert("L").getdata())) > 100
    fails(["inspect", "--model", tiny_model, folder / "a.png"], capsys, "exists", "--force")
    inspect(tiny_model, folder / "a.png", "--force")


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("arguments", [
    ["a.png", "b.png"], ["a.png", "a.png"], ["--filters", "b.png"],
    ["--filters", "a.png", "b.png"]])
def test_photographs_are_never_overwritten(arguments, force, tiny_model, folder, monkeypatch,
                                           capsys):
    monkeypatch.chdir(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    fails(["inspect", "--model", tiny_model, *arguments, *force], capsys,
          f"{arguments[-1]} is an input", "--output")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_names_are_no_formulas(tiny_model, folder):
    (folder / "a.png").rename(folder / "$^$.png")
    inspect(tiny_model, folder / "$^$.png")
    inspect(tiny_model, "--filters", folder / "$^$.png", "--output_dir", folder)
    assert names(folder) == ["$^$.inspect.png", "$^$.png", "b.png", "filters.png"]


def test_several_photographs(tiny_model, folder, tmp_path_factory):
    output, other = (tmp_path_factory.mktemp(name) for name in ("figures", "other"))
    (folder / "a.png").rename(other / "c.png")
    (folder / "d.png").write_bytes((folder / "b.png").read_bytes())
    inspect(tiny_model, folder, other / "c.png", "--output_dir", output / "new")
    assert names(output / "new") == ["b.inspect.png", "c.inspect.png", "d.inspect.png"]


def test_filters(tiny_model, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    inspect(tiny_model, "--filters")
    inspect(tiny_model, "--filters", "filters.png", "--force")
    inspect(tiny_model, "--filters", "a.png", "b.png", "sorted.svg")
    inspect(tiny_model, "--filters", "a.png", "--output_dir", "out")
    assert names(folder) == ["a.png", "b.png", "filters.png", "out", "sorted.svg"]
    assert names(folder / "out") == ["filters.png"]
    fails(["inspect", "--model", tiny_model, "--filters"], capsys, "filters.png exists", "--force")
    fails(["inspect", "--model", tiny_model, "--filters", "a.png", "x.txt"], capsys,
          "x.txt", "the last path is the figure", ".png")
    fails(["inspect", "--model", tiny_model, "--filters", "none.png", "x.png"], capsys, "none.png")


def test_mistakes(tiny_model, folder, capsys):
    command = ["inspect", "--model", tiny_model]
    fails(command, capsys, "name the photographs", "--filters")
    fails(["inspect", "--model", "none-1", folder / "a.png"], capsys, "none-1")
    fails([*command, folder / "c.png"], capsys, "c.png", "no such file")
    fails([*command, folder / "a.png", folder / "no" / "x.pdf"], capsys, "x.pdf")
    fails([*command, folder / "a.png", "--max_pixels", 10_000], capsys, "a.png", "megapixels")
    assert names(folder) == ["a.png", "b.png"]


def test_more_than_25_megapixels_are_refused(tiny_model, folder, capsys):
    Image.new("L", (5001, 5000)).save(folder / "large.png")
    fails(["inspect", "--model", tiny_model, folder / "large.png"], capsys,
          "large.png has 5001 x 5000 pixels, more than 25 megapixels")
