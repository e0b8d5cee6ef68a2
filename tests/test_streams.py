"""The released models code given latents to the same bytes, on every machine and for good."""

import hashlib

import numpy as np
import pytest

import codec
from common import entropy, export
from common.stack import Stack

# Of the stream, and of what it decodes to.
HASHES = {
    "joint_ar-small-2": (
        "3ac2cc39128055d10cc5573859a868464e0db7f9fb9d3a334a9ddc9984154f5c",
        "ed55eb848d4de037ffc3314ace597451ea3678e3ad08cf71886393fd21d4b08b"),
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
    encoder = entropy.RangeEncoder(model.tables)
    model.encode(latents, encoder)
    stream = encoder.finish()
    decoder = entropy.RangeDecoder(model.tables, stream)
    decoded = model.decode(decoder, HEIGHT, WIDTH)
    assert decoder.crc == encoder.crc
    return stream, decoded


def code_on_stack(model, latents):
    """With bits-back coding, which draws z itself."""
    start = np.random.RandomState(1).bytes(4 * latents["z"].size)
    stack = Stack(model.tables, start)
    model.encode({name: latents[name] for name in latents if name != "z"}, stack)
    stream = stack.finish()
    stack = Stack(model.tables, stream)
    decoded = model.decode(stack, HEIGHT, WIDTH)
    assert stack.finish() == start
    return stream, decoded


@pytest.mark.parametrize("name", export.released_models())
def test_streams_stay_the_same(name):
    model = codec.load_model(name)
    latents = fixed_latents(model)
    code = code_on_stack if hasattr(model, "replay_steps") else code_in_stream
    stream, decoded = code(model, latents)
    assert decoded.get("level") == latents.get("level")
    symbols = b"".join(np.ascontiguousarray(decoded[key], "<f4").tobytes() for key in "yz")
    assert tuple(hashlib.sha256(part).hexdigest() for part in (stream, symbols)) == HASHES[name]
