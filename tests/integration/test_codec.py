"""The codec's command line: real photographs round trip, bad input is one line and exit code 2."""

import dataclasses
import io
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import codec
from common import coding, data, export, images, precision, quantizers, zoo
from common.container import Container
from common.errors import UserError
from mshyper.models import MeanScaleHyperprior
from tests.helpers.commands import fails
from tests.helpers.tiny import assert_pictures_agree

pytestmark = pytest.mark.usefixtures("only_the_tiny_model")

PORTABLE = ["--precision", "float32"]  # the same pixels on every machine


@pytest.fixture(scope="module")
def photo():
    return data.find("photos/validation")[0].path


@pytest.fixture(scope="module")
def ntc(tiny_model, photo, tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("ntc") / "photo.ntc"
    codec.main(["compress", *PORTABLE, "--model", str(tiny_model), str(photo), str(path)])
    return path


def test_round_trip_of_a_photograph(ntc, photo, tiny_model, tmp_path):
    codec.main(["decompress", *PORTABLE, str(ntc), str(tmp_path / "out.png")])
    model = zoo.load(tiny_model)
    original = images.read(photo)
    generated = model(data.to_float(original)[None])
    assert_pictures_agree(images.read(tmp_path / "out.png"), generated.x_hat[0])


def test_latents_of_a_file(ntc, photo, tiny_model, tmp_path, capsys):
    codec.main(["decompress", str(ntc), str(tmp_path / "out.npz")])
    assert "out.npz: y 1 x " in capsys.readouterr().out
    written = dict(np.load(tmp_path / "out.npz"))
    inferred = coding.infer(zoo.load(tiny_model), images.read(photo))
    assert written.keys() == inferred.keys() == {"y", "z"}
    for name, value in written.items():
        # On a grid around means.
        assert value.dtype == np.float32 and np.max(np.abs(value - inferred[name])) < 0.51
    fails(["decompress", ntc, tmp_path / "out.npz"], capsys, "exists")
    fails(["decompress", ntc, tmp_path / "no/out.npz"], capsys, "no/out.npz")


def test_files_of_either_precision_decode_with_the_other(photo, tiny_model):
    models = {name: zoo.load(tiny_model, name) for name in ("float32", "bfloat16")}
    assert models["bfloat16"].analysis.layers[1].compute_dtype == "bfloat16"
    original = images.read(photo)
    files = {name: coding.compress(model, original) for name, model in models.items()}
    assert files["float32"] != files["bfloat16"]
    assert len(files["bfloat16"]) == pytest.approx(len(files["float32"]), rel=0.01)
    for ntc in files.values():
        latents = {name: coding.decode(model, ntc)[0] for name, model in models.items()}
        for key, value in latents["float32"].items():
            np.testing.assert_array_equal(latents["bfloat16"][key], value)
        one, other = (coding.decompress(model, ntc).astype(int) for model in models.values())
        difference = np.abs(one - other)
        assert np.any(difference) and np.mean(difference > 1) < 0.003


def test_precision_on_the_command_line(photo, tiny_model, tmp_path, capsys, monkeypatch):
    loaded = []
    load = export.load
    monkeypatch.setattr(export, "load", lambda *args: (loaded.append(args[2]), load(*args))[1])
    monkeypatch.setattr(precision, "hardware", lambda: "amx_bf16")
    zoo._keep.cache_clear()  # of models that tests before have decoded with
    images.write(tmp_path / "a.png", images.read(photo)[:64, :96])
    compress = ["compress", "--force", "--model", str(tiny_model), str(tmp_path / "a.png")]
    decompress = ["decompress", "--force", str(tmp_path / "a.ntc"), str(tmp_path / "b.png")]
    for arguments in (compress, decompress):
        codec.main(arguments)
        codec.main([*arguments, *PORTABLE])
        codec.main([*arguments, "--precision", "bfloat16"])
    assert loaded == ["bfloat16", "float32", "bfloat16"] * 2
    codec.main(["benchmark", "--model", "tiny-1", "--dataset", str(tmp_path / "a.png")])
    assert loaded[-1] == "float32" and "transforms in float32" in capsys.readouterr().out
    monkeypatch.setattr(precision, "hardware", lambda: None)
    codec.main(compress)
    assert loaded[-1] == "float32"


def test_the_file_is_as_large_as_estimated(photo, tiny_model):
    model, decodings = zoo.load(tiny_model), []
    decode = model.decode
    model.decode = lambda *arguments: decodings.append(arguments) or decode(*arguments)
    row, _ = coding.measure(model, images.read(photo))
    assert len(decodings) == 1
    pixels = np.prod(images.read(photo).shape[:2])
    assert row["bytes"] <= 1.005 * row["estimated_bpp"] * pixels / 8 + 20
    assert row["bytes"] >= 0.95 * row["estimated_bpp"] * pixels / 8


@pytest.mark.parametrize("height, width", [(1, 1), (1, 65), (67, 131), (65, 1), (64, 128)])
def test_odd_sizes(height, width, photo, tiny_model, tmp_path):
    source, target, back = (tmp_path / name for name in ("in.png", "in.ntc", "out.png"))
    image = images.read(photo)[:height, :width]
    images.write(source, image)
    codec.main(["compress", *PORTABLE, "--model", str(tiny_model), str(source), str(target)])
    codec.main(["decompress", *PORTABLE, str(target), str(back)])
    model = zoo.load(tiny_model)
    latents = model.infer(data.to_float(image)[None])
    x_hat = model.generate(latents, quantizers.Round()).x_hat[0, :height, :width]
    assert_pictures_agree(images.read(back), x_hat)


def test_nothing_is_overwritten_unasked(ntc, photo, tmp_path, capsys):
    target = tmp_path / "photo.png"
    target.write_text("precious")
    fails(["decompress", ntc, target], capsys, "exists", "--force")
    assert target.read_text() == "precious"
    codec.main(["decompress", str(ntc), str(target), "--force"])
    assert images.read(target).shape == images.read(photo).shape


def test_limits_of_formats_are_known_before_decoding(ntc, tmp_path, monkeypatch, capsys):
    file = Container.unpack(ntc.read_bytes(), 10**9)
    wide = dataclasses.replace(file, height=1, width=17000).pack()
    (tmp_path / "wide.ntc").write_bytes(wide)
    monkeypatch.setattr(coding, "decompress", lambda *_: pytest.fail("decoded in vain"))
    fails(["decompress", tmp_path / "wide.ntc", tmp_path / "wide.webp"], capsys, "wide.webp",
          "WEBP", "16383", "17000 x 1")
    assert not (tmp_path / "wide.webp").exists()


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n\0\0"])
def test_inputs_that_are_not_images(content, tmp_path, capsys):
    (tmp_path / "in.png").write_bytes(content)
    fails(["compress", "--model", "tiny-1", tmp_path / "in.png"], capsys, "in.png")
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"], "a partial file was left"


def test_missing_input_and_model(tmp_path, photo, capsys):
    fails(["compress", "--model", "tiny-1", tmp_path / "none.png"], capsys, "none.png", "no such")
    fails(["compress", "--model", "none-1", photo, tmp_path / "x.ntc"], capsys, "none-1", "tiny-1")
    fails(["compress", "--model", "tiny-1", photo, tmp_path / "no" / "x.ntc"], capsys, "x.ntc")
    fails(["decompress", tmp_path / "none.ntc"], capsys, "none.ntc", "No such file")


@pytest.mark.parametrize("package, module", [
    ("mshyper", "nothing"), ("nowhere", "models"), ("mshyper", "train")])
def test_a_model_whose_class_does_not_exist(tiny_model, tmp_path, package, module):
    path = tmp_path / "model"
    shutil.copytree(tiny_model, path)
    config = json.loads((path / "config.json").read_text())
    config.update(package=package, module=module)
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"names the model of '{package}\.{module}'"):
        zoo.load(path)


def test_a_model_of_an_earlier_version_names_no_module(tiny_model, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(tiny_model, path)
    config = json.loads((path / "config.json").read_text())
    assert config.pop("module") == "models"
    (path / "config.json").write_text(json.dumps(config))
    assert isinstance(zoo.load(path), MeanScaleHyperprior)


def test_too_many_pixels(ntc, photo, tmp_path, capsys):
    fails(["compress", "--model", "tiny-1", photo, tmp_path / "x.ntc", "--max_pixels", "1000"],
          capsys, "megapixels")
    file = Container.unpack(ntc.read_bytes(), 10**9)
    huge = dataclasses.replace(file, height=10**6, width=10**6).pack()
    (tmp_path / "huge.ntc").write_bytes(huge)
    fails(["decompress", tmp_path / "huge.ntc"], capsys, "huge.ntc", "claims")


def test_the_limit_is_on_the_padded_image(tiny_model, photo):
    model = zoo.load(tiny_model)
    line = images.read(photo)[:1, :100]
    with pytest.raises(UserError, match="padded"):
        coding.compress(model, line, max_pixels=1000)
    ntc = coding.compress(model, line)
    with pytest.raises(UserError, match="padded"):
        coding.decompress(model, ntc, max_pixels=1000)


def test_damaged_files_never_give_an_image(ntc, tmp_path, capsys):
    data_ = ntc.read_bytes()
    rng = np.random.default_rng(0)
    cuts = [data_[:n] for n in (0, 1, 10, len(data_) // 2, len(data_) - 1)]
    flips = []
    for position in (*range(11), *rng.integers(11, len(data_), 20)):
        damaged = bytearray(data_)
        damaged[position] ^= 1 << int(rng.integers(8))
        flips.append(bytes(damaged))
    path = tmp_path / "bad.ntc"
    for damaged in [*cuts, *flips, data_ + b"\0"]:
        path.write_bytes(damaged)
        fails(["decompress", "--model", "tiny-1", path], capsys, "bad.ntc")
        assert [file.name for file in tmp_path.iterdir()] == ["bad.ntc"]


def test_symbols_that_differ_from_the_writers_are_an_error(ntc, tmp_path, capsys):
    """A whole file with a valid checksum, but other symbols."""
    file = Container.unpack(ntc.read_bytes(), 10**9)
    for changed in (dict(symbols_crc=file.symbols_crc ^ 1), dict(width=file.width + 16),
                    dict(stream=file.stream[:len(file.stream) // 2]), dict(stream=b"")):
        (tmp_path / "bad.ntc").write_bytes(dataclasses.replace(file, **changed).pack())
        fails(["decompress", tmp_path / "bad.ntc"], capsys, "bad.ntc")
        assert [path.name for path in tmp_path.iterdir()] == ["bad.ntc"]


def test_a_file_of_another_model(ntc, tiny_model, tmp_path, capsys):
    file = Container.unpack(ntc.read_bytes(), 10**9)
    other = dataclasses.replace(file, fingerprint="01020304").pack()
    (tmp_path / "other.ntc").write_bytes(other)
    fails(["decompress", tmp_path / "other.ntc"], capsys, "01020304", "not in the zoo",
          "--model")
    fails(["decompress", "--model", tiny_model, tmp_path / "other.ntc"], capsys, "01020304")


def test_latents_that_are_not_finite_are_refused(tiny_model, photo):
    model = zoo.load(tiny_model)
    bias = next(v for v in model.analysis.variables if "bias" in v.name and v.shape == [12])
    for value in (np.nan, np.inf, 1e12):
        bias.assign(np.full(12, value))
        with pytest.raises(UserError, match="finite"):
            coding.compress(model, images.read(photo)[:64, :64])


def test_benchmark(tmp_path, capsys):
    codec.main(["benchmark", "--model", "tiny-1", "--output", str(tmp_path / "b")])
    result = json.loads((tmp_path / "b.json").read_text())
    *rows, mean = result["rows"]
    assert [row["image"] for row in rows] == ["coffee.png", "flower.jpg"]
    assert mean["bpp"] == pytest.approx(np.mean([row["bpp"] for row in rows]))
    for row in rows:
        parts = [value for key, value in row.items() if key.startswith("encoding_time.")]
        assert len(parts) == 3 and 0 < sum(parts) <= row["encoding_time"]
        assert 0 < abs(row["integer_bpp"] / row["estimated_bpp"] - 1) < 0.001
    output = capsys.readouterr().out
    assert "peak memory" in output and "float networks" in output
    assert len((tmp_path / "b.csv").read_text().splitlines()) == 4


@pytest.mark.slow
def test_as_a_program(tiny_model, tmp_path):
    # What ends well is in test_levels.py, test_pipes_of_a_shell.
    done = subprocess.run(
        [sys.executable, "-m", "codec", "compress", "--model", tiny_model, tmp_path / "none.png"],
        capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_inputs_are_shown_as_a_viewer_would(tiny_model, photo, tmp_path):
    """A rotated, transparent and a 16-bit file code like the pictures they show."""
    model = zoo.load(tiny_model)
    picture = Image.fromarray(images.read(photo)[:64, :96])
    exif = Image.Exif()
    exif[0x0112] = 6  # shown rotated by 90 degrees
    file = io.BytesIO()
    picture.save(file, "PNG", exif=exif)
    (tmp_path / "rotated.png").write_bytes(file.getvalue())
    shown = coding.decompress(model, coding.compress(model, images.read(tmp_path / "rotated.png")))
    assert shown.shape == (96, 64, 3)
