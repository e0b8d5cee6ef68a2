"""Commands answer before anything is imported that takes seconds."""

import gc
import importlib
import subprocess
import sys
from unittest import mock

import pytest

from common import coding, export, lazy, peek, programs, zoo
from common.container import Container
from common.errors import UserError
from common.lpips import Lpips
from mshyper.models import MeanScaleHyperprior

SLOW = ("tensorflow", "tensorflow_compression", "tensorflow_probability", "matplotlib", "scipy")
# Runs a command as `python -m` does, and prints what of these it has imported.
SCRIPT = f"""
import runpy, sys
module = sys.argv.pop(1)
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
finally:
    print("imported:", *[name for name in {SLOW!r} if name in sys.modules])
    assert sys.modules["common.lazy"].freeze_tensorflow, "the command is slow to end"
"""
# Others are made of modules that import TensorFlow.
BENCHMARKS = ("coding", "complexity", "dials", "figures", "imports", "latents", "optimizers",
              "precision", "rate_distortion", "report", "scaling", "sga_landscape", "tiling",
              "training_step", "transforms", "versus_jpeg")


def run(*command):
    done = subprocess.run([sys.executable, "-c", SCRIPT, *map(str, command)],
                          capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    *out, imported = done.stdout.splitlines()
    assert imported == "imported:", command
    return out


@pytest.mark.parametrize("command", [
    ["codec"], ["codec", "compress"], ["chain", "compress"], ["convert"], ["evaluate"], ["launch"],
    *([f"{package}.{command}"] for package in ("factorized", "mshyper", "joint_ar", "hific")
      for command in ("train", "itinf")),
    *([f"benchmarks.{name}"] for name in BENCHMARKS)], ids=" ".join)
def test_help(command):
    assert len(run(*command, "--help")) > 5


@pytest.mark.parametrize("name", [zoo.DEFAULT, "joint_ar"])
def test_info(name, photo, tmp_path):
    model, path = zoo.load(name), export.find(name)
    image = photo[100:164, 200:296]
    highest = model.levels.count - 1
    for level in (0, 1, 33, highest - 1, highest):
        ntc = coding.compress(model, image, level=level)
        assert peek.read_level(path, Container.unpack(ntc, image.size)) == level
    (tmp_path / "photo.ntc").write_bytes(ntc)
    line, = run("codec", "info", tmp_path / "photo.ntc")
    assert f"({name})" in line
    assert f"level {highest} of 0 to {highest}" in line


def test_a_file_of_a_model_of_one_rate_has_no_level(one_rate_models, photo):
    ntc = coding.compress(export.load(MeanScaleHyperprior, one_rate_models[0]), photo[:64, :96])
    assert peek.read_level(one_rate_models[0], Container.unpack(ntc, 64 * 96)) is None


def test_a_level_that_no_encoder_writes():
    file = Container("0" * 8, 1, 1, b"\xff" * 8, 0)
    with pytest.raises(UserError, match=r"cannot be decoded .level (\d+) of a model with \1\b"):
        peek.read_level(export.find(zoo.DEFAULT), file)


@pytest.mark.parametrize("command", [False, True])
def test_no_garbage_is_searched_for_during_an_import(command, tmp_path, monkeypatch):
    for name in ("imported", "codec_of_zoo", "program"):
        (tmp_path / f"{name}.py").write_text("import gc\nenabled = gc.isenabled()\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorflow")  # as if this were to import it
    monkeypatch.setattr(lazy, "freeze_tensorflow", command)
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(gc.isenabled()))
    assert not lazy.import_module("imported").enabled and gc.isenabled()
    assert frozen == [False] * command, "a process of a user's own stays as it is"

    assert not zoo._Codecs(codec_of_zoo="enabled")["codec_of_zoo"] and gc.isenabled()
    enabled = []
    programs.of("package")(lambda: enabled.append(importlib.import_module("program").enabled)
                           or programs.Program("package", print)).work({}, tmp_path)
    assert enabled == [False] and gc.isenabled()


def test_what_stands_for_a_module_is_patched_with_it(monkeypatch):
    monkeypatch.setattr(coding, "infer", "patched")
    assert lazy.coding.infer == "patched"
    monkeypatch.setattr(lazy.coding, "infer", "again")
    assert coding.infer == "again"
    with pytest.raises(ModuleNotFoundError):
        lazy.nonsense.infer()


def test_what_stands_for_a_class_is_patched_for_a_while_only(tmp_path):
    for patch in (pytest.MonkeyPatch().context, lambda: mock.patch.object(lazy.Lpips, "load")):
        with patch() as patched:
            if isinstance(patched, pytest.MonkeyPatch):
                patched.setattr(lazy.Lpips, "load", lambda path: path)
                assert Lpips.load(1) == 1
        with pytest.raises(UserError, match="make lpips"):
            Lpips.load(tmp_path / "none.npz")
