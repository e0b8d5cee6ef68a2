"""Whatever is in a file or a model's folder: the right image or one line, within bounded time."""

import dataclasses
import json
import shutil
import sys
import time
import zlib

import numpy as np
import pytest

import codec
from common import coding, export, priors, zoo
from common.coding_tables import CodingTables
from common.container import Container
from common.errors import UserError
from mshyper import chain
from mshyper.bits_back import BitsBackHyperprior
from tests.helpers import format1, small_models
from tests.helpers.damage import mutations

# A mutated file should take no longer than so many seconds, on a machine that does other work too.
PATIENCE = 20


def resealed(content):
    """The checksum of the whole file made anew."""
    return content[:-4] + zlib.crc32(content[:-4]).to_bytes(4, "little")


def outcome(call, *arguments):
    """What a call returns, or the one line of its UserError. Within bounded time."""
    start = time.monotonic()
    try:
        return call(*arguments)
    except UserError as error:
        message = str(error)
        assert message and "\n" not in message
        return message
    finally:
        assert time.monotonic() - start < PATIENCE


# --- .ntc -----------------------------------------------------------------------------------------


@pytest.fixture(params=["factorized", "mean_scale", "joint_ar"])
def model(request, monkeypatch):
    found = small_models.shared(request.param)
    monkeypatch.setattr(found, "fingerprint", "0123abcd" * 8)
    return found


@pytest.fixture
def ntc(model, photo):
    return coding.compress(model, photo[100:167, 200:331])


def check_mutations(model, ntc, damaged):
    """None of these files is decoded to another image; returns how many were decoded at all."""
    before, decoded = coding.decode(model, ntc), 0
    for content in damaged:
        found = outcome(coding.decode, model, content)
        if isinstance(found, str):
            continue
        # Some bytes of a stream mean nothing.
        decoded += 1
        assert found[1:] == before[1:]
        for name, latent in before.latents.items():
            np.testing.assert_array_equal(found.latents[name], latent)
    return decoded


def test_mutated_files(model, ntc):
    assert check_mutations(model, ntc, [ntc]) == 1
    damaged = [content for content in mutations(ntc, 1000) if content != ntc]
    assert check_mutations(model, ntc, damaged) == 0


def test_mutated_files_with_a_checksum_that_was_made_anew(model, ntc):
    damaged = map(resealed, mutations(ntc, 150, seed=2))
    assert check_mutations(model, ntc, damaged) <= 50


def test_mutated_fields(model, ntc):
    """Files as a program writes them, whose fields are not those of an image."""
    file, rng = Container.unpack(ntc, 10**9), np.random.default_rng(3)
    sides = [1, 2, 66, 67, 68, 131, 132, 200, 4000, 10**5, 10**6, 2**31, 2**34]
    damaged = []
    for _ in range(150):
        changes = {
            "height": int(rng.choice(sides)), "width": int(rng.choice(sides)),
            "stream": rng.bytes(int(rng.integers(0, 300))), "symbols_crc": int(rng.integers(2**32)),
            "version": int(rng.integers(1, 3)), "fingerprint": "0123abce", "header_crc": None}
        kept = rng.choice(list(changes), int(rng.integers(1, 4)), replace=False)
        damaged.append(dataclasses.replace(file, **{key: changes[key] for key in kept}).pack())
    # A header made anew is that of its writer, and so may have another size of the same grid.
    damaged = [content for content in damaged if content != ntc and (
        Container.unpack(content, 2**70).symbols_crc != file.symbols_crc)]
    assert len(damaged) > 80
    assert check_mutations(model, ntc, damaged) == 0


# --- .ntb -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chained(photo):
    """A bits-back model, and a chain of two images and a payload."""
    model = BitsBackHyperprior(**small_models.hyperprior(24) | {
        "hyper_analysis": dict(cls="HyperAnalysis", channels=(8, 8, 20))}, replay_steps=0)
    model.initialize()
    x = small_models.picture(photo, 64, 64)
    small_models.standardize(model.analysis, lambda: model.infer(x)["y"], 3.0)
    model.prepare_coding()
    model.fingerprint = "0123abcd" * 8
    pictures = [photo[:33, :40], photo[100:150, 200:270]]
    return model, chain.compress(model, pictures, b"to be sent along" * 4)[0]


def check_chains(chained, damaged):
    model, ntb = chained
    before, decoded = chain.decompress(model, ntb), 0
    for content in damaged:
        found = outcome(chain.decompress, model, content)
        if not isinstance(found, str):
            decoded += 1
            assert found[1] == before[1] and len(found[0]) == len(before[0])
    return decoded


def test_mutated_chains(chained):
    assert check_chains(chained, [chained[1]]) == 1
    damaged = [content for content in mutations(chained[1], 1000) if content != chained[1]]
    assert check_chains(chained, damaged) == 0


def test_mutated_chains_with_a_checksum_that_was_made_anew(chained):
    check_chains(chained, map(resealed, mutations(chained[1], 120, seed=2)))


# --- Folders of models ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Exported models of both formats."""
    path = tmp_path_factory.mktemp("models") / "2"
    format1.export_again(path)
    return {1: format1.FOLDER, 2: path}


FILES = {1: ("weights.index", "weights.data-00000-of-00001"), 2: ("weights.safetensors",)}
SAME = ("config.json", "fingerprint", "tables.npz", "networks.npz")


def check_folder(folder, file, count, tmp_path):
    """Mutations of one file: an error, or the very model, for not all of a file has a meaning."""
    path = shutil.copytree(folder, tmp_path / "copy")
    before = zoo.load(path)
    content, decoded = (path / file).read_bytes(), 0
    for damaged in mutations(content, count):
        (path / file).write_bytes(damaged)
        for read in (export.build_levels, export.read_tables):
            outcome(read, path)
        found = outcome(zoo.load, path)
        if isinstance(found, str):
            continue
        decoded += 1
        assert found.fingerprint == before.fingerprint
        for ours, theirs in zip(before.get_weights(), found.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    return decoded


@pytest.mark.parametrize("number, file", [
    (number, file) for number in FILES for file in (*FILES[number], *SAME)])
def test_mutated_models(folders, number, file, tmp_path):
    assert check_folder(folders[number], file, 40, tmp_path) < 27


def resigned(path):
    """The fingerprint made anew, of what the folder holds."""
    config = export.read_config(path)
    (path / "fingerprint").write_text(export._fingerprint(path, config))


WRONG = [None, True, 0, -1, 10**30, 0.5, "", "text", [], [1], {}, {"cls": "Nothing"}, [[]]]


def places(tree, path=()):
    """Where values are in a tree of dicts and lists."""
    yield path
    pairs = tree.items() if isinstance(tree, dict) else (
        enumerate(tree) if isinstance(tree, list) else ())
    for key, value in pairs:
        yield from places(value, (*path, key))


def replaced(tree, path, value):
    if not path:
        return value
    copy = tree.copy()
    copy[path[0]] = replaced(tree[path[0]], path[1:], value)
    return copy


@pytest.mark.parametrize("number", FILES)
def test_wrong_types_anywhere_in_a_config(folders, number, tmp_path):
    path = shutil.copytree(folders[number], tmp_path / "copy")
    config = json.loads((path / "config.json").read_text())
    config["model"]["levels"] = {"count": 5, "rd_lambda": [0.01, 0.1]}
    for place in places(config):
        for value in WRONG:
            (path / "config.json").write_text(json.dumps(replaced(config, place, value)))
            for call in (zoo.load, zoo.find_class, export.read_levels,
                         export.build_levels, codec.refinement.objective):
                if place[:1] != ("model",) or call is not zoo.load:
                    outcome(call, path)
    for value in WRONG:
        (path / "config.json").write_text(json.dumps(value))
        with pytest.raises(UserError, match="config.json is damaged"):
            zoo.load(path)


@pytest.mark.parametrize("place, value", [
    (("model",), {}), (("model", "analysis"), None), (("model", "analysis"), [1]),
    (("model", "analysis", "cls"), ["MBT2018Analysis"]), (("model", "analysis", "channels"), 3),
    (("model", "analysis", "channels"), ["two", 2, 3, 4]), (("model", "nothing"), 1),
    (("model", "analysis", "channels"), [2, 2, 3, -4]),
    (("model", "analysis", "channels"), [2, 2, 3, 5]), (("model", "use_offset"), []),
    (("model", "levels"), 3), (("model", "levels"), {"count": "5", "rd_lambda": [1, 2]}),
    (("model", "levels"), {"count": 5, "rd_lambda": 3}), (("model", "likelihood"), []),
    (("model", "likelihood"), "logistic"), (("model", "synthesis", "channels"), [2, 2, 3, None])])
def test_a_config_that_makes_no_model_with_a_fingerprint_made_anew(
        folders, place, value, tmp_path):
    path = shutil.copytree(folders[2], tmp_path / "copy")
    config = json.loads((path / "config.json").read_text())
    target = config
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    (path / "config.json").write_text(json.dumps(config))
    resigned(path)
    found = outcome(zoo.load, path)
    assert isinstance(found, str) or place[-1] in ("use_offset", "likelihood")


@pytest.mark.parametrize("content", [b"\xff\xfe\x80", "é".encode(), b"", b"12", b"0" * 64])
def test_fingerprints_that_are_none(folders, content, tmp_path):
    path = shutil.copytree(folders[2], tmp_path / "copy")
    (path / "fingerprint").write_bytes(content)
    with pytest.raises(UserError, match="fingerprint"):
        zoo.load(path)


def test_a_config_without_a_model(folders, tmp_path):
    path = shutil.copytree(folders[2], tmp_path / "copy")
    config = json.loads((path / "config.json").read_text())
    del config["model"]
    (path / "config.json").write_text(json.dumps(config))
    for call in (zoo.load, export.read_levels, zoo.find_class):
        with pytest.raises(UserError, match='damaged .it has no section "model"'):
            call(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"model": ' * 20_000, "1" * 5000, "NaN"])
def test_configs_that_json_cannot_hold(folders, text, tmp_path):
    path = shutil.copytree(folders[2], tmp_path / "copy")
    (path / "config.json").write_text(text)
    with pytest.raises(UserError, match="damaged"):
        zoo.load(path)


@pytest.mark.parametrize("name", ["cdfs", "minima", "sizes"])
def test_tables_that_are_none(folders, name, tmp_path):
    path = shutil.copytree(folders[2], tmp_path / "copy")
    tables = dataclasses.asdict(export.read_tables(path))
    for change in (lambda x: x[:-1], lambda x: x.astype(np.int64), lambda x: x[None],
                   lambda x: x * 0 - 1, lambda x: x[:0], lambda x: x[::-1]):
        np.savez(path / "tables.npz", **tables | {name: change(tables[name])})
        if name == "minima" and change(tables[name]).dtype == np.int32 and (
                change(tables[name]).shape == tables[name].shape):
            continue  # any integers are minima
        with pytest.raises(UserError, match="tables cannot be read"):
            export.read_tables(path)
    np.savez(path / "tables.npz", **{name: tables[name]})
    with pytest.raises(UserError, match="tables cannot be read"):
        export.read_tables(path)


def test_tables_of_another_model(folders, tmp_path):
    path = shutil.copytree(folders[2], tmp_path / "copy")
    tables = CodingTables.build([priors.ScaleTable()])
    np.savez(path / "tables.npz", **dataclasses.asdict(tables))
    with pytest.raises(UserError, match="do not match its fingerprint"):
        zoo.load(path)
    resigned(path)
    with pytest.raises(UserError, match="its tables do not fit the model"):
        zoo.load(path)


# What a folder names is looked up in a list; nothing is imported for it.
PLANTED = ["pkg", "mshyper.planted", "os", "tests", "..pkg", "", "pkg.models.deep"]


@pytest.mark.parametrize("package", PLANTED)
def test_a_planted_package_never_runs(folders, package, tmp_path, monkeypatch):
    path = shutil.copytree(folders[2], tmp_path / "copy")
    for folder in ("pkg", "planted", "mshyper"):
        (tmp_path / folder).mkdir()
        for file in ("__init__.py", "models.py"):
            (tmp_path / folder / file).write_text(
                f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit('planted')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), "", *sys.path])
    config = json.loads((path / "config.json").read_text())
    for sign in (False, True):
        for module in ("models", "nothing"):
            (path / "config.json").write_text(
                json.dumps(config | {"package": package, "module": module}))
            if sign:
                resigned(path)
            with pytest.raises(UserError):
                zoo.load(path)
    (path / "config.json").write_text(json.dumps(config))
    resigned(path)
    zoo.load(path)
    assert not (tmp_path / "ran").exists() and "pkg" not in sys.modules
