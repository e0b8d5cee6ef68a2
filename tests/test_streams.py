"""The released models code given latents to the same bytes, on every machine and for good."""

import dataclasses
import hashlib

import numpy as np
import pytest

from common import coding, range_coding, zoo
from common.ans import AnsStack
from common.container import Container
from common.errors import UserError
from mshyper.bits_back import BitsBackHyperprior

# Of the stream, and of what it decodes to.
HASHES = {
    "hific": (
        "ba86a3d9d8b54dfc9ea05d1cac5b2987ecc0f7f3dbdd82559a5645bbedc84363",
        "9683692ee52ff71dff03ce2028896b60b646bf619850345895e2efc774a35a12"),
    "joint_ar": (
        "8974d687a7c418137179d985279a4c08fb279bccd5d9ba9ba870506e2b66d0b1",
        "9292cf64df0443935e3987f14e9aa100268eee0912c018076611654f0bf7517e"),
    "mshyper": (
        "b7bbeee3b160ba2a5ab3022ea2b795fbb4d5a11f94a59b455f0491550ca5d72a",
        "f7c0546780f3b1fbb59f1a86bb594ece76908cf0b455d17454f40205c34a1967"),
    "mshyper-small_bb-2": (
        "81b6d5ef316b8a664854d7d9c82cdb2d15ce5a5ba4e080c4b19025e3b4d4a98f",
        "facd2ca0d79e0d0a2a90e859571406972366da3cf40061a987277ffa2318c03e"),
    "two_layer": (
        "c080759a3ec86a0a5c27bb1936253ade6c45606daa33e3b42a29dfc536f42478",
        "af53802020cbd07a39b7ce77b46951309d5380a193745a1f52643f9685c1b669"),
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


@pytest.mark.parametrize("name", HASHES)
def test_streams_stay_the_same(name):
    model = zoo.load(name)
    latents = fixed_latents(model)
    code = code_on_stack if isinstance(model, BitsBackHyperprior) else code_in_stream
    stream, decoded = code(model, latents)
    assert decoded.get("level") == latents.get("level")
    assert (hashlib.sha256(stream).hexdigest(), of_latents(decoded)) == HASHES[name]


def of_latents(decoded):
    return hashlib.sha256(b"".join(
        np.ascontiguousarray(decoded[key], "<f4").tobytes() for key in "yz")).hexdigest()


def test_a_file_of_the_first_version_decodes():
    """It has the same stream, and a checksum of symbols without the header."""
    model = zoo.load(zoo.DEFAULT)
    file = Container.unpack(coding.encode(model, fixed_latents(model), HEIGHT, WIDTH), 10**9)
    first = dataclasses.replace(file, version=1, header_crc=None).pack()
    assert first.startswith(b"NT1")
    assert of_latents(coding.decode(model, first).latents) == HASHES[zoo.DEFAULT][1]
    assert coding.decompress(model, first).shape == (HEIGHT, WIDTH, 3)


def test_another_size_of_the_same_grid_is_an_error():
    model = zoo.load(zoo.DEFAULT)
    ntc = coding.encode(model, fixed_latents(model), HEIGHT, WIDTH)
    assert coding.decompress(model, ntc).shape == (HEIGHT, WIDTH, 3)
    file = Container.unpack(ntc, 10**9)
    for changes in (dict(height=HEIGHT + 1), dict(height=HEIGHT - 3), dict(width=WIDTH + 13),
                    dict(version=1), dict(version=1, height=HEIGHT + 1)):
        forged = dataclasses.replace(file, **changes).pack()
        with pytest.raises(UserError, match="its header was changed"):
            coding.decompress(model, forged)
