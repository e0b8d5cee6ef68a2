"""Bits-back coding: training, chains of images with a payload, and what damages them."""

import os
import pathlib
import shutil
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import chain as command
import configs
from common import coding, container, images, methods, priors, refinement, training, zoo
from common.ans import AnsStack
from common.errors import CodingError, UserError
from common.objectives import Objective
from mshyper import bits_back, chain
from tests.helpers.tiny import tiny_config

ROOT = pathlib.Path(__file__).parents[2]
SIZES = ((67, 131), (1, 1), (64, 64), (1, 65), (100, 33))
PAYLOAD = b"a letter, whose bits the images use. " * 200


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("experiments") / "bb" / "wid=0-bb"
    config = tiny_config()
    config.module = "bits_back"
    parts = {name: config.model[name] for name in ("analysis", "synthesis", "hyper_synthesis")}
    config.model = dict(parts, replay_steps=4,
                        hyper_analysis=dict(cls="HyperAnalysis", channels=(8, 8, 16)))
    config.data.validation = ""
    config.train.num_steps = config.train.checkpoint_interval = 30
    training.run(bits_back.BitsBackHyperprior, config, workdir)
    return workdir


@pytest.fixture(scope="module")
def model(run):
    return zoo.load(str(run))


@pytest.fixture(scope="module")
def pictures(photo):
    return [photo[40:40 + height, 30:30 + width] for height, width in SIZES]


@pytest.fixture(scope="module")
def ntb(model, pictures):
    return chain.compress(model, pictures, PAYLOAD)[0]


def reference(model, picture):
    """The image that a decoder should show."""
    latents = coding.infer(model, picture)
    x_hat = model.to_image(tf.round(latents["y"]))[0, :picture.shape[0], :picture.shape[1]]
    return images.to_uint8(x_hat).numpy()


@pytest.mark.parametrize("steps", [0, 4])
def test_a_chain_of_five_images_and_a_payload(model, pictures, steps):
    with chain.searching(model, steps):
        ntb, rows = chain.compress(model, pictures, PAYLOAD)
    # The decoder takes the number of steps from the file.
    decoded, payload = chain.decompress(model, ntb)
    assert payload == PAYLOAD
    for picture, x_hat in zip(pictures, decoded, strict=True):
        np.testing.assert_array_equal(x_hat, reference(model, picture))
    for row in rows:
        assert row["gross"] == row["net"] + row["returned"] and row["returned"] > 0
    # The sizes of five images, the rest of the header, and what the stack's head rounds.
    overhead = 8 * len(ntb) - 8 * len(PAYLOAD) - sum(row["net"] for row in rows)
    assert 0 < overhead <= 8 * 40
    net, information = (sum(row[key] for row in rows) for key in ("net", "information"))
    # Of y and of z, four bits say that nothing lies outside of the tables.
    assert net - 8 * len(rows) == pytest.approx(information, rel=0.01)


def test_without_payload_the_start_up_is_what_the_first_image_takes(model, pictures):
    ntb, rows = chain.compress(model, pictures[:1])
    (decoded,), payload = chain.decompress(model, ntb)
    assert payload == b""
    np.testing.assert_array_equal(decoded, reference(model, pictures[0]))
    net = sum(row["net"] for row in rows)
    assert net + rows[0]["returned"] <= 8 * len(ntb) <= net + rows[0]["returned"] + 8 * 50


def test_a_small_first_image_does_not_suffice_for_a_large_second_one(model, pictures):
    small_first = [pictures[1], pictures[0]]
    decoded, _ = chain.decompress(model, chain.compress(model, small_first)[0])
    for picture, x_hat in zip(small_first, decoded, strict=True):
        np.testing.assert_array_equal(x_hat, reference(model, picture))


@pytest.mark.parametrize("size", [
    (400, 448), *(pytest.param(size, marks=pytest.mark.slow) for size in ((384, 512), (256, 576)))])
def test_the_start_up_suffices_and_is_not_wasted(photo, size):
    """Thousands of samples: with other words below, they would be others."""
    model = zoo.load("mshyper-small_bb-2")
    picture = photo[:size[0], :size[1]]
    with chain.searching(model, 0):
        ntb, rows = chain.compress(model, [picture])
    gross = rows[0]["net"] + rows[0]["returned"]
    assert gross < 8 * len(ntb) < gross + 8 * 50
    assert chain.decompress(model, ntb)[1] == b""


def test_images_after_the_first_cost_their_net_rate(model, pictures):
    one, _ = chain.compress(model, pictures[:1])
    two, rows = chain.compress(model, [pictures[0], pictures[2]])
    assert 8 * (len(two) - len(one)) == pytest.approx(rows[1]["net"], abs=8 * 8)
    assert rows[1]["net"] < rows[1]["gross"]


def test_a_payload_of_equal_bytes_costs_no_more_than_a_random_one(model, pictures):
    """Drawn with zeros, z would be an outlier everywhere."""
    sizes = [len(chain.compress(model, pictures[:1], payload)[0])
             for payload in (bytes(10_000), np.random.default_rng(0).bytes(10_000))]
    assert sizes[0] == pytest.approx(sizes[1], abs=100)


@pytest.mark.parametrize("settings", [
    {"OPENBLAS_NUM_THREADS": "1", "OPENBLAS_CORETYPE": "Prescott",
     "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3", "TF_ENABLE_ONEDNN_OPTS": "0"},
    pytest.param({"OPENBLAS_NUM_THREADS": "2", "OPENBLAS_CORETYPE": "Haswell"},
                 marks=pytest.mark.slow),
], ids=["old processor", "newer one"])
def test_other_arithmetic_searches_to_the_same_bits(run, model, pictures, tmp_path, settings):
    """Products of matrices by other kernels, on other numbers of threads."""
    with chain.searching(model, 10):
        ntb, _ = chain.compress(model, [pictures[0], pictures[4]], PAYLOAD)
    (tmp_path / "photos.ntb").write_bytes(ntb)
    process = subprocess.run(
        [sys.executable, "-m", "chain", "decompress", "--model", str(run),
         str(tmp_path / "photos.ntb"), "--output_dir", str(tmp_path / "decoded")],
        cwd=ROOT, env=os.environ | settings, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    assert (tmp_path / "decoded" / "photos.payload").read_bytes() == PAYLOAD


@pytest.mark.slow
def test_refined_latents_are_coded_too(model, pictures):
    method = methods.method("sga")
    method.num_steps = 30
    refiner = refinement.Refiner(model, method, Objective(0.01))
    ntb, _ = chain.compress(model, pictures[2:3], PAYLOAD, refiner.infer)
    (decoded,), _ = chain.decompress(model, ntb)
    y = refiner.infer(model, pictures[2])["y"]
    np.testing.assert_array_equal(y, np.round(y))
    expected = images.to_uint8(model.to_image(y)[0]).numpy()
    np.testing.assert_array_equal(decoded, expected)


def test_damage_is_reported(model, ntb):
    for broken in (ntb[:-1], ntb[:100], ntb + b"\0", b"", ntb[:50] + b"\xff" + ntb[51:]):
        with pytest.raises(UserError, match="damaged|empty"):
            chain.decompress(model, broken)
    with pytest.raises(UserError, match="not a .ntb file"):
        chain.decompress(model, b"PNG" + ntb)


FIELDS = ("fingerprint", "steps", "start_up", "length", "sizes", "stream", "crc")


def reseal(ntb, **changes):
    """The file with other fields and the checksum that goes with them."""
    fields = dict(zip(FIELDS, chain.unseal(ntb), strict=True)) | changes
    sizes = fields["sizes"]
    numbers = [fields["steps"], fields["start_up"], fields["length"], len(sizes), *sum(sizes, ())]
    return container.seal(
        chain._MAGIC, fields["fingerprint"], numbers, fields["stream"], fields["crc"])


def test_a_wrong_or_truncated_stack_is_reported_even_with_its_checksum(model, ntb):
    stream = chain.unseal(ntb)[5]
    assert reseal(ntb) == ntb
    for broken in (stream[:-3], stream[:40], b"", bytes(len(stream)), stream[5:],
                   bytes([stream[0] ^ 1]) + stream[1:], stream[:-1] + bytes([stream[-1] ^ 1])):
        with pytest.raises(UserError, match="decode"):
            chain.decompress(model, reseal(ntb, stream=broken))


@pytest.mark.parametrize("changes, message", [
    (dict(fingerprint="00000000"), "written by model 00000000"),
    (dict(steps=5), "decode"),
    (dict(steps=10**6), "1000000 steps"),
    (dict(start_up=3, length=len(PAYLOAD) - 3), "decode"),
    (dict(length=len(PAYLOAD) - 1), "decode"),
    (dict(sizes=[]), "at least one"),
    (dict(sizes=[(0, 5), *SIZES[1:]]), "no pixels"),
    (dict(sizes=[*SIZES[1:], SIZES[0]]), "decode"),
    (dict(sizes=[*SIZES, (100_000, 100_000)]), "megapixels"),
    (dict(crc=0), "decode"),
])
def test_wrong_fields_are_reported_even_with_their_checksum(model, ntb, changes, message):
    with pytest.raises(UserError, match=message):
        chain.decompress(model, reseal(ntb, **changes))


def test_what_the_decoder_refuses_is_not_written(model, pictures):
    with pytest.raises(UserError, match="at least one"):
        chain.compress(model, [])
    with chain.searching(model, chain.MAX_STEPS + 1), pytest.raises(UserError, match="steps"):
        chain.compress(model, pictures[:1])
    with pytest.raises(UserError, match="megapixels"):
        chain.compress(model, pictures[:1], max_pixels=10_000)


def test_underflow_is_an_error(model, pictures):
    latents = coding.infer(model, pictures[0])
    with pytest.raises(CodingError, match="bits"):
        model.encode(latents, AnsStack(model.tables, bytes(4)))


def test_a_range_coder_is_refused_by_name(model, pictures):
    with pytest.raises(UserError, match="code with `chain`"):
        coding.compress(model, pictures[0])


def test_commands(run, pictures, tmp_path, capsys):
    for i, picture in enumerate(pictures):
        images.write(tmp_path / f"{i}.png", picture)
    (tmp_path / "letter.txt").write_bytes(PAYLOAD)
    photos = sorted(map(str, tmp_path.glob("*.png")))
    output = str(tmp_path / "photos.ntb")
    compress = ["compress", "--model", str(run), "--output", output, *photos]
    payload = ["--payload", str(tmp_path / "letter.txt")]
    command.main([*compress, *payload])
    assert "net_bpp" in capsys.readouterr().out
    steps = [chain.unseal(pathlib.Path(output).read_bytes())[1]]
    command.main([*compress, *payload, "--force", "--steps", "1"])
    assert [*steps, chain.unseal(pathlib.Path(output).read_bytes())[1]] == [4, 1]
    decompress = ["decompress", "--model", str(run), output, "--output_dir"]
    command.main([*decompress, str(tmp_path / "decoded")])
    assert (tmp_path / "decoded" / "photos.payload").read_bytes() == PAYLOAD
    assert sorted(path.name for path in (tmp_path / "decoded").iterdir()) == [
        *(f"{i}.decoded.png" for i in range(len(pictures))), "photos.payload"]
    for arguments, message in (
            (compress, "exists already"),
            ([*compress, *payload, "--force", "--output", payload[1]], "letter.txt is an input"),
            ([*compress, "--force", "--steps", "-1"], "--steps"),
            ([*decompress, str(tmp_path / "decoded")], "5 more of the outputs exist already"),
            (["decompress", output], "'wid=0-bb', which is not in the zoo; name the model with --"),
            ([*decompress[:3], photos[0]], "not a .ntb file"),
            ([*compress[:2], "mshyper", "--force", *compress[3:]], "not a bits-back model")):
        with pytest.raises(SystemExit) as stop:
            command.main(arguments)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_names_come_back(model, run, pictures, tmp_path, monkeypatch, capsys):
    """Whatever they are, in a folder that is made, with the model found by its fingerprint."""
    names = ["a/same.png", "b/same.jpg", "b/same-1.png", os.fsdecode(b"K\xe4se.png")]
    paths = [tmp_path / name for name in names]
    for path, picture in zip(paths, pictures):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
    shutil.copytree(run / "model", tmp_path / "zoo" / "bb" / "7")
    monkeypatch.setattr(configs, "ZOO_DIR", tmp_path / "zoo")
    command.main(["compress", "--model", "bb-7", "-o", str(tmp_path / "x.ntb"), *map(str, paths)])
    ntb = (tmp_path / "x.ntb").read_bytes()
    assert chain.read_names(ntb) == ["bb-7", *(path.name for path in paths)]
    command.main(["decompress", str(tmp_path / "x.ntb"), "-o", str(tmp_path / "new" / "out")])
    found = {path.name: images.read(path).shape for path in (tmp_path / "new" / "out").iterdir()}
    decoded = ["same.decoded.png", "same-1.decoded.png", "same-1-2.decoded.png",
               os.fsdecode(b"K\xe4se.decoded.png")]
    assert found == {name: (*size, 3) for name, size in zip(decoded, SIZES)}


@pytest.mark.parametrize("names", [
    ["m", "../up.png"], ["m", "/etc/x.png"], ["m", ".."], ["m", "."], ["m", "a/b.png"], ["m"],
    ["m", "a.png", "b.png"]])
def test_names_that_lead_elsewhere_are_refused(model, run, pictures, names, tmp_path, capsys):
    ntb, _ = chain.compress(model, pictures[1:2], names=names)
    (tmp_path / "x.ntb").write_bytes(ntb)
    with pytest.raises(UserError, match="names"):
        chain.read_names(ntb)
    with pytest.raises(SystemExit):
        command.main(["decompress", "--model", str(run), str(tmp_path / "x.ntb")])
    assert "names" in capsys.readouterr().err and len(list(tmp_path.iterdir())) == 1


def test_what_is_before_the_stack_is_under_the_checksum(model, pictures):
    """Also sizes within the same grid of latents, and names."""
    names = ["m", "a.png"]
    ntb, _ = chain.compress(model, pictures[:1], PAYLOAD, names=names)
    assert chain.decompress(model, ntb)[1] == PAYLOAD
    stream = chain.unseal(ntb)[5]
    for changes in (dict(sizes=[(68, 131)]), dict(sizes=[(67, 130)]),
                    dict(stream=stream.replace(b"a.png", b"b.png", 1))):
        with pytest.raises(UserError, match="decode"):
            chain.decompress(model, reseal(ntb, **changes))


def test_chains_of_version_1_decode(model, pictures):
    """Without names, and with a checksum of the symbols, the payload and the start-up alone."""
    latents = [coding.infer(model, picture) for picture in pictures[:2]]
    start = chain._noise(40_000) + chain._whiten(PAYLOAD)
    stack = AnsStack(model.tables, start)
    for each in latents:
        model.encode(each, stack)
    sizes = [side for size in SIZES[:2] for side in size]
    ntb = container.seal(
        b"NB1", model.fingerprint[:8], [4, 40_000, len(PAYLOAD), 2, *sizes], stack.finish(),
        (stack.crc + zlib.crc32(start)) % 2**32)
    decoded, payload = chain.decompress(model, ntb)
    assert payload == PAYLOAD and chain.read_names(ntb) == []
    for picture, x_hat in zip(pictures[:2], decoded, strict=True):
        np.testing.assert_array_equal(x_hat, reference(model, picture))


def test_tables_know_fractional_means():
    """The code length of integers around any mean is that of the density, within 1 %."""
    table = priors.ShiftedScaleTable(16)
    pmfs, minima = table.pmfs()
    assert len(pmfs) == len(minima) == table.distributions
    for number in (0, 40, 64 * 5 + 3, 64 * 15 + 30):
        shift, entry = divmod(number, 64)
        symbols = np.arange(len(pmfs[number])) + minima[number]
        bits = table.symbol_bits(symbols, np.full(symbols.shape, number))
        np.testing.assert_allclose(-np.log2(pmfs[number][2:-2]), bits[2:-2], rtol=0.01)
        assert np.sum(pmfs[number]) == pytest.approx(1, abs=1e-4)
        if entry >= 30:  # narrower ones lose their mean when they are rounded
            assert np.sum(symbols * pmfs[number]) == pytest.approx(shift / 16, abs=0.01)
