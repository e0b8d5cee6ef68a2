"""Which files the codec reads and writes: folders, links, pipes, and names of any kind."""

import os
import pathlib
import threading

import pytest
from PIL import Image

import codec
from common import data, images
from common.container import Container
from tests.helpers.commands import fails

pytestmark = pytest.mark.usefixtures("only_the_tiny_model", "without_graphs")


@pytest.fixture(scope="module")
def photo():
    return data.find("photos/validation")[0].path


def test_folders_and_names(photo, tmp_path, capsys):
    inputs = tmp_path / "in"
    inputs.mkdir()
    for name in ("a.png", "b.png"):
        images.write(inputs / name, images.read(photo)[:64, :96])
    (inputs / "notes.txt").write_text("not an image")
    codec.main(["compress", "--model", "tiny-1", str(inputs), "--output_dir",
                str(tmp_path / "out")])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.ntc", "b.ntc"]
    codec.main(["decompress", str(tmp_path / "out")])
    assert images.read(tmp_path / "out" / "b.decoded.png").shape == (64, 96, 3)
    capsys.readouterr()
    codec.main(["info", str(tmp_path / "out" / "a.ntc")])
    assert "96 x 64" in capsys.readouterr().out


def test_a_broken_file_does_not_stop_the_others(photo, tmp_path, capsys):
    images.write(tmp_path / "good.png", images.read(photo)[:64, :96])
    (tmp_path / "bad.png").write_bytes(b"")
    with pytest.raises(SystemExit) as failure:
        codec.main(["compress", "--model", "tiny-1", str(tmp_path)])
    assert failure.value.code == 2
    assert (tmp_path / "good.ntc").exists() and not (tmp_path / "bad.ntc").exists()
    errors = capsys.readouterr().err
    assert "bad.png" in errors and "1 of 2 files failed" in errors


def test_originals_are_not_overwritten_by_force_alone(photo, tmp_path, capsys):
    """Neither one beside its .ntc file, nor one that is called as a decoded image would be."""
    for name in ("a.png", "a.decoded.png"):
        images.write(tmp_path / name, images.read(photo)[:16, :16])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    codec.main(["compress", "--model", "tiny-1", str(tmp_path)])
    with pytest.raises(SystemExit):
        codec.main(["decompress", "--force", str(tmp_path)])
    assert "a.decoded.png is an input" in capsys.readouterr().err
    assert before == {name: (tmp_path / name).read_bytes() for name in before}
    (tmp_path / "a.decoded.ntc").unlink()
    codec.main(["decompress", "--force", str(tmp_path)])
    assert (tmp_path / "a.png").read_bytes() == before["a.png"]
    assert (tmp_path / "a.decoded.png").read_bytes() != before["a.decoded.png"]
    fails(["decompress", tmp_path], capsys, "a.decoded.png exists already")
    codec.main(["decompress", "--force", str(tmp_path / "a.ntc"), str(tmp_path / "a.png")])
    assert (tmp_path / "a.png").read_bytes() != before["a.png"], "it was named"


def test_outputs_by_one_rule(photo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images.write("photo.png", images.read(photo)[:16, :24])
    compress = ["compress", "--model", "tiny-1", "photo.png"]
    for arguments, written in ((["name"], "name/photo.ntc"), (["x.ntc"], "x.ntc"),
                               (["-o", "deep/er/"], "deep/er/photo.ntc")):
        codec.main([*compress, *arguments])
        assert capsys.readouterr().out.startswith(f"{written}: ")
        assert (tmp_path / written).exists() and not (tmp_path / "photo.ntc").exists()
    for name in ("photo.gif", "photo.jpg", "photo.tiff"):
        codec.main(["decompress", "x.ntc", name])
        assert images.read(name).shape == (16, 24, 3)
    codec.main(["decompress", "x.ntc", "name"])
    assert images.read("name/x.decoded.png").shape == (16, 24, 3)
    fails(["decompress", "x.ntc", "photo.xyz"], capsys, "photo.xyz", ".png")
    with pytest.raises(SystemExit) as stop:
        codec.main(["compress", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0 and "--output_dir" not in text
    assert "-o OUTPUT" in text and "made if missing" in text and "- is standard input" in text


def test_folders_within_folders(photo, tmp_path, capsys):
    for name in ("a.png", "sub/a.jpg", "sub/deeper/b.avif", "sub/._a.jpg", "sub/c.heic"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".heic" or path.name.startswith("."):
            path.touch()
        else:
            Image.fromarray(images.read(photo)[:16, :24]).save(path)
    codec.main(["compress", "--model", "tiny-1", str(tmp_path / "in"), "--recursive",
                "--output_dir", str(tmp_path / "out")])
    assert "1 .heic" in capsys.readouterr().err
    found = sorted(str(path.relative_to(tmp_path / "out"))
                   for path in (tmp_path / "out").rglob("*.*"))
    assert found == ["a.ntc", "sub/a.ntc", "sub/deeper/b.ntc"]
    codec.main(["decompress", str(tmp_path / "out"), "-r", "-o", str(tmp_path / "back")])
    assert images.read(tmp_path / "back/sub/deeper/b.decoded.png").shape == (16, 24, 3)


def test_a_link_is_followed(photo, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store/real.ntc").write_text("old")
    (tmp_path / "link.ntc").symlink_to("store/real.ntc")
    codec.main(["compress", "--model", "tiny-1", "--force", str(photo), str(tmp_path / "link.ntc")])
    assert (tmp_path / "link.ntc").is_symlink()
    assert Container.unpack((tmp_path / "store/real.ntc").read_bytes(), 10**9).width == 600


@pytest.mark.parametrize("output", ["/dev/stdout", "/dev/fd/1", "-"])
def test_standard_output_by_its_names(photo, tmp_path, capfdbinary, output):
    images.write(tmp_path / "a.png", images.read(photo)[:16, :24])
    codec.main(["compress", "--model", "tiny-1", str(tmp_path / "a.png"), output])
    ntc, messages = capfdbinary.readouterr()
    assert Container.unpack(ntc, 10**9).width == 24 and b"bpp" in messages
    (tmp_path / "a.ntc").write_bytes(ntc)
    codec.main(["decompress", str(tmp_path / "a.ntc"), output])
    assert images.read(capfdbinary.readouterr().out).shape == (16, 24, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ntc", "a.png"]


def test_named_pipes_on_both_sides(photo, tmp_path):
    images.write(tmp_path / "a.png", images.read(photo)[:16, :24])
    source, target = tmp_path / "source", tmp_path / "target"
    for path in (source, target):
        os.mkfifo(path)
    received = []
    threads = [threading.Thread(target=lambda: source.write_bytes(
                   (tmp_path / "a.png").read_bytes())),
               threading.Thread(target=lambda: received.append(target.read_bytes()))]
    for thread in threads:
        thread.start()
    codec.main(["compress", "--model", "tiny-1", str(source), "-o", str(target)])
    for thread in threads:
        thread.join()
    assert Container.unpack(received[0], 10**9).width == 24 and target.is_fifo()
    codec.main(["compress", "--model", "tiny-1", str(tmp_path / "a.png"), "/dev/null"])


def test_names_that_are_not_utf8(photo, tmp_path, capsys):
    """Each is done and named, and what fails among them is counted."""
    for name, content in ((b"K\xe4se.png", None), (b"b.png", None), (b"\xff.png", b"no image")):
        path = pathlib.Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        if content:
            path.write_bytes(content)
        else:
            images.write(path, images.read(photo)[:16, :24])
    with pytest.raises(SystemExit) as stop:
        codec.main(["compress", "--model", "tiny-1", str(tmp_path)])
    output = capsys.readouterr()
    assert stop.value.code == 2 and len(list(tmp_path.glob("*.ntc"))) == 2
    assert r"K\udce4se.ntc: " in output.out and r"\udcff.png" in output.err
    assert "1 of 3 files failed" in output.err
    name = os.fsdecode(os.fsencode(tmp_path) + b"/K\xe4se")
    codec.main(["decompress", f"{name}.ntc"])
    codec.main(["info", f"{name}.ntc"])
    codec.main(["inspect", "--model", "tiny-1", f"{name}.png"])
    codec.main(["benchmark", "--model", "tiny-1", "--dataset", f"{name}.png", "-o", f"{name}"])
    assert all(pathlib.Path(name + suffix).exists()
               for suffix in (".decoded.png", ".inspect.png", ".csv"))


def test_inputs_that_would_share_an_output(photo, tmp_path, capsys):
    for name in ("a.png", "a.bmp"):
        images.write(tmp_path / name, images.read(photo)[:16, :16])
    fails(["compress", "--model", "tiny-1", tmp_path], capsys, "a.bmp, ", "a.png", "a.ntc")
    images.write(tmp_path / "b.png", images.read(photo)[:16, :16])
    with pytest.raises(SystemExit) as stop:
        codec.main(["compress", "--model", "tiny-1", str(tmp_path)])
    assert stop.value.code == 2 and "2 of 3 files failed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob("*.ntc")] == ["b.ntc"]
