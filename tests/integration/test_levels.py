"""One model for every rate: its run, the dials of `codec compress`, and pipes."""

import io
import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import codec
import configs
from benchmarks import dials
from common import (
    coding,
    export,
    images,
    inspection,
    itinf,
    methods,
    metrics,
    peek,
    refinement,
    targets,
    training,
    zoo,
)
from common.container import Container
from common.objectives import Objective
from mshyper.models import MeanScaleHyperprior
from tests.helpers.tiny_levels import COUNT, HIGH, LOW, levels_config

PORTABLE = ["--precision", "float32"]


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("experiments") / "levels" / "wid=0-levels"
    config = levels_config()
    config.train.update(num_steps=400, checkpoint_interval=200, log_interval=100)
    training.run(MeanScaleHyperprior, config, workdir)
    return workdir


@pytest.fixture(scope="module")
def model(run):
    return zoo.load(run)


@pytest.fixture(scope="module", autouse=True)
def only_these_models(run, tiny_model, tmp_path_factory):
    """A model with levels, and one of one rate."""
    path, before = tmp_path_factory.mktemp("zoo"), configs.ZOO_DIR
    shutil.copytree(run / "model", path / "levels" / "1")
    shutil.copytree(tiny_model, path / "tiny" / "1")
    configs.ZOO_DIR = path
    yield
    configs.ZOO_DIR = before


@pytest.fixture
def pictures(photo, tmp_path):
    """Three photographs in a folder, which differ in size and content."""
    folder = tmp_path / "photos"
    folder.mkdir()
    found = {"a": photo[:256, :256], "b": photo[100:300, 250:527], "c": photo[40:131, 30:97]}
    for name, picture in found.items():
        images.write(folder / f"{name}.png", picture)
    return found


def compress(*arguments):
    codec.main(["compress", *PORTABLE, "--model", "levels-1", *map(str, arguments)])


def fails(arguments, capsys, *words):
    """Asserts one clear line, exit code 2, and that nothing is said before."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as failure:
        compress(*arguments)
    assert failure.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    for word in words:
        assert word in lines[0]


def decoded(model, path):
    """Level, bytes and image of a file."""
    ntc = path.read_bytes()
    latents = coding.decode(model, ntc).latents
    return int(latents["level"]), len(ntc), coding.decompress(model, ntc)


def test_what_a_run_says_of_its_levels(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    at_end = {line["split"]: line for line in lines if line["step"] == 400}
    names = [f"validation/level={level}" for level in (0, 10, 20, 30, 40)]
    assert at_end.keys() == {"train", "validation", *names}
    for key in ("rd_loss", "bpp", "psnr"):
        assert at_end["validation"][key] == pytest.approx(
            np.mean([at_end[name][key] for name in names]), rel=1e-5)
    rd_lambda = np.exp(np.linspace(math.log(LOW), math.log(HIGH), 5))
    weight = (rd_lambda / rd_lambda[2])**-0.5
    for name, x, w in zip(names, rd_lambda, weight):
        line = at_end[name]
        assert line["rd_loss"] == pytest.approx(
            w * (line["bpp"] + x * line["mse"]), rel=1e-4)
    assert at_end["train"]["rd_lambda"] == pytest.approx(np.mean(rd_lambda), rel=0.3)
    first = next(line for line in lines if line["split"] == "validation")
    assert at_end["validation"]["rd_loss"] < first["rd_loss"]
    events = [event for path in (run / "tensorboard").glob("*") for event in
              tf.compat.v1.train.summary_iterator(str(path))]
    tags = {value.tag for event in events for value in event.summary.value}
    assert {"validation/curve", "validation/level=40/psnr", "validation/psnr"} <= tags
    config = json.loads((run / "config.json").read_text())
    assert config["train"]["rd_lambda"] is None and config["model"]["levels"]["count"] == COUNT


def test_sizes_and_psnrs_grow_with_the_level(model, photo):
    picture = photo[:256, :384]
    files = [coding.compress(model, picture, level=level) for level in range(0, COUNT, 10)]
    psnrs = [metrics.psnr(picture, coding.decompress(model, file)) for file in files]
    assert np.all(np.diff([len(file) for file in files]) > 0)
    assert np.all(np.diff(psnrs) > 0)
    assert len(files[-1]) > 2 * len(files[0]) and psnrs[-1] > psnrs[0] + 1


# --- Dials --------------------------------------------------------------------------------------


def test_quality(model, pictures, tmp_path, capsys):
    source, sizes = tmp_path / "photos" / "a.png", []
    for quality in (0, 12.5, 37, 63.8, 100):
        compress("--quality", quality, "--force", source)
        level, size, _ = decoded(model, tmp_path / "photos" / "a.ntc")
        assert level == round(quality / 100 * 40)
        assert f"{size} bytes" in capsys.readouterr().out
        sizes.append(size)
    assert sizes == sorted({*sizes})
    compress("--force", source)
    assert decoded(model, tmp_path / "photos" / "a.ntc")[0] == 20
    assert "quality 50" in capsys.readouterr().out


@pytest.mark.parametrize("kind, value", [("max_bytes", 1500), ("bpp", 0.3)])
def test_files_are_as_large_as_allowed(kind, value, model, pictures, tmp_path, monkeypatch):
    encode, codings = coding.encode, []
    monkeypatch.setattr(coding, "encode", lambda *args: codings.append(args) or encode(*args))
    compress(f"--{kind}", value, tmp_path / "photos", "--output_dir", tmp_path / "out")
    assert len(codings) <= 6 * len(pictures), "bisection of 41 levels, and none"
    levels = set()
    for name, picture in pictures.items():
        level, size, _ = decoded(model, tmp_path / "out" / f"{name}.ntc")
        limit = value if kind == "max_bytes" else value * picture.size / 3 / 8
        assert size <= limit
        if level < COUNT - 1:
            assert len(coding.compress(model, picture, level=level + 1)) > limit
        levels.add(level)
    assert len(levels) > 1, "each file meets the target by itself"


def test_files_are_as_good_as_wanted(model, pictures, tmp_path, capsys):
    psnrs = [metrics.psnr(pictures["a"], coding.decompress(
        model, coding.compress(model, pictures["a"], level=level))) for level in (5, 25)]
    for wanted in psnrs + [np.mean(psnrs)]:
        compress("--psnr", wanted - 1e-6, "--force", tmp_path / "photos" / "a.png")
        level, _, image = decoded(model, tmp_path / "photos" / "a.ntc")
        found = metrics.psnr(pictures["a"], image)
        assert found >= wanted - 1e-5 and f"{found:.2f} dB" in capsys.readouterr().out
        below = coding.compress(model, pictures["a"], level=level - 1)
        assert metrics.psnr(pictures["a"], coding.decompress(model, below)) < wanted


@pytest.mark.parametrize("kind", ["max_bytes", "psnr"])
def test_the_benchmark_measures_how_close_they_come(kind, model, pictures):
    ends = dials.reach(model, pictures["b"])[kind]
    assert dials.between(kind, ends, 0) == ends[0] < dials.between(kind, ends, 0.5) < ends[1]
    target = targets.Target(kind, dials.between(kind, ends, 0.5))
    row = dials.meet(model, pictures["b"], target)
    assert 0 <= row["gap"] < 0.2 and 3 <= row["codings"] <= 6 and row["seconds"] > 0
    coded = targets.compress(model, pictures["b"], target)
    reached = (metrics.psnr(pictures["b"], coding.decompress(model, coded.ntc)) - target.value
               if kind == "psnr" else 1 - len(coded.ntc) / target.value)
    assert row["gap"] == pytest.approx(reached)


def test_targets_out_of_reach(model, pictures, tmp_path, capsys):
    source = tmp_path / "photos" / "a.png"
    # Of neighbouring levels, the lower need not be smaller.
    smallest = min(len(coding.compress(model, pictures["a"], level=level)) for level in range(5))
    for size in (["--max_bytes", smallest - 1], ["--bpp", 0.001]):
        fails([*size, source], capsys, f"{size[0][2:]} {size[1]} is out of reach",
              "the smallest file that was found has", "bytes", "bpp", "a.png", "--closest")
    fails(["--psnr", 60, source], capsys, "psnr 60 is out of reach",
          "the best file that was found has", " dB", "a.png", "--closest")
    assert not source.with_suffix(".ntc").exists()
    for arguments, level in (["--max_bytes", 1], 0), (["--psnr", 60], COUNT - 1):
        compress(*arguments, "--closest", "--force", source)
        assert abs(decoded(model, source.with_suffix(".ntc"))[0] - level) <= 2


def test_one_that_is_out_of_reach_leaves_the_others(pictures, tmp_path, capsys):
    with pytest.raises(SystemExit) as failure:
        compress("--max_bytes", 600, tmp_path / "photos")
    assert failure.value.code == 2
    assert sorted(path.name for path in (tmp_path / "photos").glob("*.ntc")) == ["c.ntc"]
    assert "2 of 3 files failed" in capsys.readouterr().err


@pytest.mark.parametrize("arguments, words", [
    (["--quality", 101], ["quality 101", "0 to 100"]), (["--quality", "nan"], ["0 to 100"]),
    (["--bpp", -1], ["bpp -1", "at least 0"]), (["--max_bytes", "inf"], ["at least 1"]),
    (["--psnr", "nan"], ["psnr nan"]), (["--closest"], ["--bpp, --max_bytes and --psnr"]),
    (["--closest", "--quality", 3], ["--bpp, --max_bytes and --psnr"])])
def test_dials_that_make_no_sense(arguments, words, pictures, tmp_path, capsys):
    fails([*arguments, tmp_path / "photos" / "a.png"], capsys, *words)


def test_only_one_dial_at_once(pictures, tmp_path, capsys):
    with pytest.raises(SystemExit) as failure:
        compress("--bpp", 1, "--psnr", 30, tmp_path / "photos" / "a.png")
    assert failure.value.code == 2 and "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize("kind", targets.KINDS)
def test_models_of_one_rate_have_no_dials(kind, pictures, tmp_path, capsys):
    source = tmp_path / "photos" / "a.png"
    fails(["--model", "tiny-1", f"--{kind}", 30, source], capsys, f"{kind} 30", "levels-1",
          "one rate")
    compress("--model", "tiny-1", source)
    assert "quality" not in capsys.readouterr().out


def test_info_and_inspect_and_benchmark_say_the_level(pictures, tmp_path, capsys, monkeypatch):
    source = tmp_path / "photos" / "c.png"
    compress("--quality", 75, source)
    capsys.readouterr()
    codec.main(["info", str(source.with_suffix(".ntc"))])
    assert "(levels-1), level 30 of 0 to 40\n" in capsys.readouterr().out
    codec.main(["info", "--model", str(export.find("levels-1")),
                str(source.with_suffix(".ntc"))])
    assert ", level 30 of 0 to 40\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        codec.main(["info", "--model", "tiny-1", str(source.with_suffix(".ntc"))])
    assert "not by tiny-1" in capsys.readouterr().err
    figure = tmp_path / "figure.svg"
    levels, inspect = [], inspection.inspect
    monkeypatch.setattr(
        inspection, "inspect", lambda *args: levels.append(args[3]) or inspect(*args))
    codec.main(["inspect", "--model", "levels-1", "--quality", "75", str(source), str(figure)])
    assert figure.exists() and levels == [30]
    codec.main(["benchmark", "--model", "levels-1", "--quality", "75", "--dataset", str(source),
                "--output", str(tmp_path / "b")])
    result = json.loads((tmp_path / "b.json").read_text())
    assert result["level"] == 30
    assert result["rows"][0]["bytes"] == source.with_suffix(".ntc").stat().st_size
    with pytest.raises(SystemExit):
        codec.main(["benchmark", "--model", "tiny-1", "--quality", "75", "--dataset", str(source)])
    assert "levels-1" in capsys.readouterr().err


def test_refinement_meets_the_target(model, pictures, monkeypatch):
    method = methods.method("danneal")
    method.update(num_steps=20, check_interval=5)
    refiner = refinement.Refiner(model, method, Objective(None))
    picture, count = pictures["b"], []

    def to_latents(*args):
        count.append(args)
        return refiner.infer(*args)

    limit = len(coding.compress(model, picture, level=17)) + 3
    coded = targets.compress(
        model, picture, targets.Target("max_bytes", limit), to_latents=to_latents)
    assert len(coded.ntc) <= limit and len(count) <= 2
    refined = coding.compress(model, picture, level=coded.level, to_latents=refiner.infer)
    assert coded.ntc == refined
    psnr = metrics.psnr(picture, coding.decompress(model, coding.compress(
        model, picture, level=17)))
    coded = targets.compress(
        model, picture, targets.Target("psnr", psnr), to_latents=refiner.infer)
    assert metrics.psnr(picture, coding.decompress(model, coded.ntc)) >= psnr
    assert len(coded.ntc) <= len(coding.compress(model, picture, level=17))


@pytest.mark.slow
@pytest.mark.usefixtures("without_graphs")
def test_refinement_on_the_command_line(model, pictures, tmp_path):
    source = tmp_path / "photos" / "c.png"
    refine = ["--refine", "danneal", "--refine_steps", 4]
    compress(*refine, "--quality", 25, source, tmp_path / "q.ntc")
    assert decoded(model, tmp_path / "q.ntc")[0] == 10
    compress(*refine, "--max_bytes", 900, source, tmp_path / "b.ntc")
    assert decoded(model, tmp_path / "b.ntc")[1] <= 900


@pytest.mark.usefixtures("without_graphs")
def test_itinf_takes_a_quality(pictures, run, tmp_path):
    config = itinf.get_config("danneal", str(run))
    config.update(data=str(tmp_path / "photos" / "c.png"), quality=25.0, precision="float32")
    config.itinf.update(num_steps=4, check_interval=2)
    *_, mean = itinf.run(MeanScaleHyperprior, config, tmp_path / "refined")
    found = json.loads((tmp_path / "refined" / "results.json").read_text())
    rd_lambda = LOW * (HIGH / LOW)**0.25
    assert found["level"] == 10 and found["rd_lambda"] == pytest.approx(rd_lambda, rel=1e-5)
    assert mean["refined.rd_loss"] == pytest.approx(
        mean["refined.bpp"] + rd_lambda * mean["refined.mse"], rel=1e-4)


# --- Pipes --------------------------------------------------------------------------------------


class Stream(io.StringIO):
    """Standard input or output of bytes that cannot be sought."""

    def __init__(self, content=b""):
        super().__init__()
        self.buffer = io.BytesIO(content)
        self.buffer.seekable = lambda: False


def test_pipes_within_the_process(model, pictures, tmp_path, monkeypatch, capsys):
    def piped(content, *arguments):
        streams = Stream(content), Stream()
        with monkeypatch.context() as context:
            context.setattr(sys, "stdin", streams[0])
            context.setattr(sys, "stdout", streams[1])
            codec.main([*map(str, arguments), *PORTABLE])
        if streams[1].buffer.getvalue():
            assert streams[1].getvalue() == "", "messages go to standard error"
        return streams[1].buffer.getvalue()

    source, to_model = tmp_path / "photos" / "a.png", ["--model", "levels-1"]
    compress("--quality", 75, source, tmp_path / "a.ntc")
    expected = (tmp_path / "a.ntc").read_bytes()
    buffer = io.BytesIO()
    Image.fromarray(pictures["a"]).save(buffer, "WEBP", lossless=True)
    for content in (source.read_bytes(), buffer.getvalue()):
        assert piped(content, "compress", *to_model, "--quality", 75, "-") == expected
    assert piped(b"", "compress", *to_model, "--quality", 75, source, "-") == expected
    assert piped(source.read_bytes(), "compress", *to_model, "--quality", 75, "-",
                 tmp_path / "b.ntc") == b""
    assert (tmp_path / "b.ntc").read_bytes() == expected
    png = piped(expected, "decompress", "-")
    np.testing.assert_array_equal(images.read(png), coding.decompress(model, expected))
    assert piped(expected, "decompress", "-", tmp_path / "back.bmp") == b""
    np.testing.assert_array_equal(images.read(tmp_path / "back.bmp"), images.read(png))
    assert piped(b"", "decompress", tmp_path / "a.ntc", "-") == png


@pytest.mark.parametrize("arguments, words", [
    (["-"], ["standard input is not an image"]),
    (["-", "a.png", "b.png"], ["-"]), (["a.png", "b.png", "-"], ["- is standard input"]),
    (["-", "photo.png"], [".ntc"]), (["-", "--output_dir", "out"], ["--output"])])
def test_pipes_that_cannot_be(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", Stream(b"no image"))
    fails(arguments, capsys, *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_pipes_of_a_shell(run, pictures, tmp_path):
    python, model = sys.executable, run / "model"
    command = (f"cat {tmp_path}/photos/a.png | {python} -m codec compress --model {model} "
               f"--max_bytes 1500 - | {python} -m codec decompress --model {model} - "
               f"| cat > {tmp_path}/back.png")
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert images.read(tmp_path / "back.png").shape == pictures["a"].shape


def test_a_level_takes_at_most_a_byte(model, photo, monkeypatch):
    files = {level: coding.compress(model, photo[:64, :64], level=level) for level in range(COUNT)}
    found = Container.unpack(files[3], 10**9)
    assert peek.read_level(export.find("levels-1"), found) == 3
    monkeypatch.setattr(type(model), "_encode_level", lambda *_: None)
    more = [len(file) - len(coding.compress(model, photo[:64, :64], level=level))
            for level, file in files.items()]
    assert 0 < np.mean(more) < 1, "where a stream ends is not always the next byte"
