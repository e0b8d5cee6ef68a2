"""The released models code given latents to the same bytes, on every machine and for good."""

import dataclasses
import hashlib
import pathlib

import numpy as np
import pytest

from common import coding, export, range_coding, zoo
from common.ans import AnsStack
from common.container import Container
from common.errors import UserError

# Files of version 1 of the format, by the last program that wrote such, of 70 x 47 pixels of a
# photograph; and what they decode to.
FIRST_VERSION = pathlib.Path(__file__).with_name("ntc1")
FIRST_VERSION_HASHES = {
    "joint_ar-small-2": "fe700676c463bb49ab9b56206167b28924359545caa9162db19318c8fdee297e",
    "mshyper-small-1": "fd4b28d22edc1a4cf8d921b5b076b6d37eaa8686dd3f47b648eea9d39fd6beab",
    "mshyper-small-2": "a86b634d57670076582a8e14f8f00c4bc22b9797e067d6ea2d337f24be537ed9",
    "mshyper-small-3": "90810cbb7069f338bd5e7ccde9a2b32c7692730b9917f8a8f4b0abec7e5d8cd0",
}

# Of the stream, and of what it decodes to.
HASHES = {
    "joint_ar-small-2": (
        "3ac2cc39128055d10cc5573859a868464e0db7f9fb9d3a334a9ddc9984154f5c",
        "ed55eb848d4de037ffc3314ace597451ea3678e3ad08cf71886393fd21d4b08b"),
    "mshyper": (
        "88bf9901022264722f92df75acc898031ff49951bb52cb8e9774963f8e112ae2",
        "ab698d44d7685575726a402dcdc532fa3d0d7579cb47bd4aeb98d200d494c5de"),
    "mshyper-small-1": (
        "7e8a16edd3f0ce8108d17771f69b0bcb3c3b00f9562029bbe0c58dc41d65dcc8",
        "9c964e9c0044615efe252f16e7039b18621d7d64fa4c30357948b6c574346f6c"),
    "mshyper-small-2": (
        "b21ec7888b9732b82f1d5a883a8b0be220d636cf2e3fa7aaf0d99c703959266c",
        "db0822c3ac1568c352d2684531d807659f742beca323d44138fe1e20ad7c95a0"),
    "mshyper-small-3": (
        "6f3c1eaada06b9e4021025984885842933f3e387d3adbf8d104191cdb04973be",
        "b59fcf843abe369a5d1b18b04fd2081cdc7205af09358fe64e5e6b96518fcb5e"),
    "mshyper-small_bb-2": (
        "81b6d5ef316b8a664854d7d9c82cdb2d15ce5a5ba4e080c4b19025e3b4d4a98f",
        "facd2ca0d79e0d0a2a90e859571406972366da3cf40061a987277ffa2318c03e"),
}

# Of an image with 7 x 10 positions of y, and 2 x 3 of z; in a model with levels, at this quality.
HEIGHT, WIDTH = 100, 147
QUALITY = 40


def fixed_latents(model):
    """Multiples of 1 / 16, in which no library's floats have a part."""
    random = np.random.RandomState(0)  # its numbers never change
    latents = {}
    for name, shape, outliers in (
            ("y", (1, 7, 10, model.analysis.out_channels), (1000.5, -300.25)),
            ("z", (1, 2, 3, model.z_prior.channels), (40.5, -60.75))):
        # Sums of uniform numbers: most are small.
        sixteenths = random.randint(-12, 13, size=(4, *shape)).sum(axis=0)
        latents[name] = (sixteenths / 16).astype(np.float32)
        latents[name].flat[[3, -5]] = outliers  # outside of their tables
    return {**latents, **level(model)}


def level(model):
    return {"level": np.int32([model.levels.at_quality(QUALITY)])} if model.levels else {}


def code_in_stream(model, latents):
    encoder = range_coding.RangeEncoder(model.tables)
    model.encode(latents, encoder)
    stream = encoder.finish()
    decoder = range_coding.RangeDecoder(model.tables, stream)
    decoded = model.decode(decoder, HEIGHT, WIDTH)
    assert decoder.crc == encoder.crc
    return stream, decoded


def code_on_stack(model, latents):
    """With bits-back coding, which draws z itself."""
    start = np.random.RandomState(1).bytes(4 * latents["z"].size)
    stack = AnsStack(model.tables, start)
    model.encode({name: latents[name] for name in latents if name != "z"}, stack)
    stream = stack.finish()
    stack = AnsStack(model.tables, stream)
    decoded = model.decode(stack, HEIGHT, WIDTH)
    assert stack.finish() == start
    return stream, decoded


@pytest.mark.parametrize("name", export.released_models())
def test_streams_stay_the_same(name):
    model = zoo.load(name)
    latents = fixed_latents(model)
    code = code_on_stack if hasattr(model, "replay_steps") else code_in_stream
    stream, decoded = code(model, latents)
    assert decoded.get("level") == latents.get("level")
    assert (hashlib.sha256(stream).hexdigest(), of_latents(decoded)) == HASHES[name]


def of_latents(decoded):
    return hashlib.sha256(b"".join(
        np.ascontiguousarray(decoded[key], "<f4").tobytes() for key in "yz")).hexdigest()


@pytest.mark.parametrize("name", FIRST_VERSION_HASHES)
def test_files_of_the_first_version_decode(name):
    model, ntc = zoo.load(name), (FIRST_VERSION / f"{name}.ntc").read_bytes()
    assert ntc.startswith(b"NT1")
    decoded = coding.decode(model, ntc)
    assert of_latents(decoded.latents) == FIRST_VERSION_HASHES[name]
    assert coding.decompress(model, ntc).shape == (47, 70, 3)
    # Today's file has the same stream, and as many bytes.
    again = coding.encode(model, decoded.latents, 47, 70)
    assert again.startswith(b"NT2") and len(again) == len(ntc)
    assert Container.unpack(again, 10**9).stream == Container.unpack(ntc, 10**9).stream
    assert of_latents(coding.decode(model, again).latents) == FIRST_VERSION_HASHES[name]


def test_another_size_of_the_same_grid_is_an_error():
    model = zoo.load("mshyper-small-1")
    ntc = coding.encode(model, fixed_latents(model), HEIGHT, WIDTH)
    assert coding.decompress(model, ntc).shape == (HEIGHT, WIDTH, 3)
    file = Container.unpack(ntc, 10**9)
    for changes in (dict(height=HEIGHT + 1), dict(height=HEIGHT - 3), dict(width=WIDTH + 13),
                    dict(version=1), dict(version=1, height=HEIGHT + 1)):
        forged = dataclasses.replace(file, **changes).pack()
        with pytest.raises(UserError, match="its header was changed"):
            coding.decompress(model, forged)
