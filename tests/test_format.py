"""docs/format.md says enough: a decoder that follows it reads what the models write.

That decoder is the first part of this module, in the order of the page and with its names. It is
NumPy and Python's integers, and has nothing of the zoo but the folders of models. Whole as the page
is, the module is a long one.
"""

import bisect
import dataclasses
import functools
import itertools
import json
import operator
import pathlib
import re
import zlib

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

import ntc
from common import coding, export, integer_ops, range_coding
from mshyper import chain
from tests.helpers import format1, small_mixture, small_models

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "format.md"


# --- Container --------------------------------------------------------------------------------


def unseal(file, magic):
    """The fingerprint in a file, its bytes from there to the checksums, and that of symbols."""
    assert file[:3] == magic
    assert zlib.crc32(file[:-4]) == int.from_bytes(file[-4:], "little")
    return file[3:7].hex(), file[7:-8], int.from_bytes(file[-8:-4], "little")


def varints(content, count):
    """Numbers, and the bytes after them."""
    values = []
    for _ in range(count):
        value = shift = 0
        more = True
        while more:
            value |= (content[0] & 127) << shift
            more, content, shift = content[0] >= 128, content[1:], shift + 7
        values.append(value)
    return values, content


def crc(symbols, before=0):
    return zlib.crc32(np.asarray(symbols, "<i4").tobytes(), before)


# --- Range coder ------------------------------------------------------------------------------


class RangeCoder:
    def __init__(self, stream):
        self.rest = iter(stream)
        self.size, self.offset = 2**32, self.bytes(4)

    def bytes(self, count):
        taken = bytes(itertools.islice(self.rest, count))
        return int.from_bytes(taken.ljust(count, b"\0"), "big")

    def next(self, counts):
        target = ((self.offset + 1) * 2**16 - 1) // self.size
        k = bisect.bisect_right(counts, target) - 1
        low, high = self.size * counts[k] >> 16, self.size * counts[k + 1] >> 16
        self.offset, self.size = self.offset - low, high - low
        if self.size <= 2**16:
            self.offset, self.size = self.offset * 2**16 + self.bytes(2), self.size * 2**16
        return k


# --- Stream -----------------------------------------------------------------------------------

# In these functions, read(distributions) decodes the positions of some symbols.


def numbers(read, tables, count):
    values, waiting, shift = [0] * count, [*range(count)], 0
    while waiting:
        digits = read([len(tables) - 1] * len(waiting))
        for i, digit in zip(waiting, digits):
            values[i] += digit % 8 << shift
        waiting = [i for i, digit in zip(waiting, digits) if digit >= 8]
        shift += 3
    return values


def escapes(read, tables):
    return iter(numbers(read, tables, *numbers(read, tables, 1)))


def symbol(k, minimum, n, escaped):
    if k == n:
        e = next(escaped)
        k = -(e + 1) // 2 if e % 2 else n + e // 2
    return minimum + k


def symbols(read, tables, distributions, escaped):
    found = [symbol(k, *tables[d][:2], escaped)
             for d, k in zip(distributions.flat, read(distributions.ravel().tolist()))]
    return np.reshape(found, distributions.shape)


def latent(read, tables, distributions):
    return symbols(read, tables, distributions, escapes(read, tables))


# --- Model ------------------------------------------------------------------------------------


class Model:
    """What is in the folder of an exported model."""

    def __init__(self, folder):
        config = json.loads((folder / "config.json").read_text())
        self.config, self.has_levels = config["model"], "levels" in config["model"]
        self.fingerprint = (folder / "fingerprint").read_text()
        self.weights = (safetensors.numpy.load_file(folder / "weights.safetensors")
                        if "format" in config else None)
        arrays = np.load(folder / "tables.npz")
        cdfs, self.tables = iter(arrays["cdfs"].tolist()), []
        for n, minimum in zip(arrays["sizes"].tolist(), arrays["minima"].tolist()):
            assert next(cdfs) == 16
            self.tables.append((minimum, n, [*itertools.islice(cdfs, n + 2)]))
        self.networks = {}
        for key, array in np.load(folder / "networks.npz").items():
            name, key = key.split("/")
            self.networks.setdefault(name, {})[key] = array
        # Z, or of a factorised prior the number of channels of y.
        self.channels = (channels_of(self.networks["hyper_synthesis"]) if self.networks
                         else len(self.tables) - 1 - self.has_levels)

    def by_channel(self, rows, columns):
        """The distributions of z."""
        return np.broadcast_to(np.arange(self.channels), (rows, columns, self.channels))


# --- Integer networks -------------------------------------------------------------------------


def parsed(network):
    """Operations, their arrays among the fields, and outputs."""
    program, _, outputs = json.loads(str(network["program"]))
    return [{name: network[field["array"]] if isinstance(field, dict) else field
             for name, field in fields.items()} for fields in program], outputs


def channels_of(network):
    """Of argument 0."""
    return next(fields["channels"] for fields in parsed(network)[0] if fields.get("number") == 0)


def run(network, *arguments):
    """Outputs of a network for arguments [rows, columns, channels]."""
    program, outputs = parsed(network)
    values = []
    for fields in program:
        values.append(arguments[fields["number"]].astype(np.int64) if fields["op"] == "Input"
                      else operate(fields, *(values[i] for i in fields["inputs"])))
    return [values[output["index"]] for output in outputs]


def operate(fields, x, *others):
    match fields["op"]:
        case "Conv":
            patches = np.concatenate([*moved(x, fields)], axis=-1)
            return patches @ fields["kernel"].T.astype(np.int64) + fields["bias"]
        case "Depthwise":
            kernel = fields["kernel"].astype(np.int64)
            return fields["bias"] + sum(map(operator.mul, moved(x, fields), kernel))
        case "Requantize":
            return np.clip(halves_to_even(x, fields["shift"]),
                           int(fields["low"]), int(fields["high"]))
        case "LeakyRelu":
            return np.maximum(x, halves_to_even(x * fields["slope"], 16))
        case "Lookup":
            h = len(fields["table"]) // 2
            y = fields["table"][h + np.clip(halves_to_even(x, fields["shift"]), -h, h)]
            return y + np.maximum(x, 0) if fields["linear"] else y
        case "Steps":
            return np.sum(fields["edges"] <= x[..., None], axis=-1)
        case "Add":
            return functools.reduce(operator.add, others, x)
        case "Multiply":
            return x * others[0]
        case "Maximum":
            return functools.reduce(np.maximum, others, x)
        case "Negate":
            return -x
        case "Concat":
            return np.concatenate([x, *others], axis=-1)
        case "Slice":
            return x[..., fields["start"]:fields["stop"]]
        case "DepthToSpace":
            (rows, columns, channels), b = x.shape, fields["block"]
            i, j, c = np.ogrid[:rows * b, :columns * b, :channels // b**2]
            return x[i // b, j // b, (i % b * b + j % b) * (channels // b**2) + c]
        case "Mean":
            total, count = np.sum(x, axis=(0, 1), keepdims=True), x.shape[0] * x.shape[1]
            return (2 * total + count) // (2 * count)


def moved(x, fields):
    """x[i stride + r, j stride + q] for each offset [r, q]."""
    margin, stride = np.max(np.abs(fields["offsets"])), fields["stride"]
    padded = np.pad(x, [(margin, margin), (margin, margin), (0, 0)])
    for r, q in fields["offsets"] + margin:
        yield padded[r:r + x.shape[0]:stride, q:q + x.shape[1]:stride]


def halves_to_even(x, shift):
    """round(x / 2^shift)."""
    if shift <= 0:
        return x << -shift
    low, rest, half = x >> shift, x & (1 << shift) - 1, 1 << shift - 1
    return low + ((rest > half) | (rest == half) & (low % 2 == 1))


# --- From symbols to latents ------------------------------------------------------------------


def decode(folder, file, magic=b"NT2"):
    """The latents in a .ntc file, in the layout of `ntc.decode` but for its first axis."""
    model = Model(folder)
    fingerprint, content, checksum = unseal(file, magic)
    assert model.fingerprint.startswith(fingerprint)
    (height, width), stream = varints(content, 2)
    coder, tables = RangeCoder(stream), model.tables

    def read(distributions):
        return [coder.next(tables[d][2]) for d in distributions]

    found, checked = {}, zlib.crc32(b"")
    if model.has_levels:
        found["level"] = np.array(read([len(tables) - 2]))
        checked = crc(found["level"], checked)
    y_size, z_size = ((-(-height // stride), -(-width // stride)) for stride in (16, 64))
    name, size = ("z", z_size) if model.networks else ("y", y_size)
    z = latent(read, tables, model.by_channel(*size))
    checked = crc(z, checked)
    if model.weights:
        prior = "z_prior" if model.networks else "prior"
        found[name] = z.astype(np.float32) + model.weights[f"{prior}/offset"]
    if model.networks:
        in_order, y = decode_y(
            model, read, [x[:y_size[0], :y_size[1]]
                          for x in run(model.networks["hyper_synthesis"], z)])
        checked = crc(in_order, checked)
        found["y"] = (y / 2**12).astype(np.float32)
    assert checksum == checked ^ (0 if magic == b"NT1" else zlib.crc32(file[:-8 - len(stream)]))
    assert not [*coder.rest]
    return found


def decode_y(model, read, outputs):
    """The symbols of y in the order of the stream, and y in units of 2^-12."""
    if "context" in model.networks:
        return with_context(model, read, *outputs)
    if len(outputs) == 3:
        y = mixtures(model, read, *outputs)
        return y, y << 12
    *mean, index = outputs
    y = latent(read, model.tables, model.channels + index)
    return y, (y << 12) + sum(mean)


def with_context(model, read, psi):
    network, (rows, columns, _) = model.networks["context"], psi.shape
    s, y = slope(network), np.zeros((rows, columns, channels_of(network)), np.int64)
    escaped, in_order = escapes(read, model.tables), []
    for step in range(columns + s * (rows - 1)):
        mean, index = run(network, y, psi)
        for i, j in ((i, step - s * i) for i in range(rows) if 0 <= step - s * i < columns):
            found = symbols(read, model.tables, model.channels + index[i, j], escaped)
            in_order.append(found)
            y[i, j] = (found << 12) + mean[i, j]
    return in_order, y


def slope(network):
    program, outputs = parsed(network)
    seen = []
    for fields in program:
        before = {(0, 0)} if fields.get("number") == 0 else set().union(
            *(seen[i] for i in fields["inputs"]))
        taps = fields["offsets"].tolist() if "offsets" in fields else [(0, 0)]
        seen.append({(r + down, q + right) for r, q in before for down, right in taps})
    offsets = set().union(*(seen[output["index"]] for output in outputs))
    return next(s for s in itertools.count(1) if all(q + s * r < 0 for r, q in offsets if r < 0))


# --- Mixtures ---------------------------------------------------------------------------------


class WordCoder:
    def __init__(self, words):
        self.rest = iter(words)
        self.size, self.offset = 2**64 - 1, self.word() * 2**32 + self.word()

    def word(self):
        return next(self.rest, 0)

    def next(self, counts):
        unit = self.size >> 24
        k = bisect.bisect_right(counts, self.offset // unit) - 1
        self.offset -= unit * counts[k]
        self.size = unit * (counts[k + 1] - counts[k])
        if self.size < 2**32:
            self.offset, self.size = self.offset * 2**32 + self.word(), self.size * 2**32
        return k


def mixtures(model, read, weights, means, indices):
    tables, channels = model.tables, model.config["analysis"]["channels"][-1]
    shape = *weights.shape[:2], channels
    outputs = weights, means // 16, model.channels + 64 * (means % 16) + indices
    windows = [Window(tables, *components) for components in zip(*(
        x.reshape(*shape[:2], -1, channels).swapaxes(2, 3).reshape(np.prod(shape), -1).tolist()
        for x in outputs))]
    escaped = escapes(read, tables)
    count, = numbers(read, tables, 1)
    digits = np.reshape(read([len(tables) - 1] * 8 * count), (count, 8))
    coder = WordCoder(np.sum(digits << 4 * np.arange(8), axis=1).tolist())
    positions = {i: coder.next(windows[i].counts())
                 for i in sorted(range(len(windows)), key=lambda i: windows[i].size)}
    return np.reshape([symbol(positions[i], window.minimum, window.size, escaped)
                       for i, window in enumerate(windows)], shape)


class Window:
    """That of a symbol with these components."""

    def __init__(self, tables, weights, shifts, distributions):
        self.components = [(weight, tables[d][0] + shift, *tables[d][1:])
                           for weight, shift, d in zip(weights, shifts, distributions)]
        first = min(a for _, a, _, _ in self.components)
        end = max(a + n for _, a, n, _ in self.components)
        self.size = min([2**i for i in range(3, 13) if 2**i >= end - first], default=4096)
        self.minimum = first
        if self.size < end - first:
            middle = shifts[weights.index(max(weights))]
            self.minimum = min(max(middle - self.size // 2, first), end - self.size)

    def counts(self):
        below = [sum(weight * counts[min(max(edge - a, 0), n)]
                     for weight, a, n, counts in self.components)
                 for edge in range(self.minimum, self.minimum + self.size + 1)]
        others, total = 2**24 - self.size - 1, sum(weight for weight, *_ in self.components) * 2**16
        return [*(j + (b - below[0]) * others // total for j, b in enumerate(below)), 2**24]


# --- Chains -----------------------------------------------------------------------------------


class Stack:
    def __init__(self, model, stack):
        self.tables = model.tables
        number = 2**32 + int.from_bytes(stack, "little") + shorter(len(stack))
        words = number.to_bytes(-(-number.bit_length() // 32) * 4, "little")
        self.words = np.frombuffer(words, "<u4").tolist()
        self.state = self.words.pop() * 2**32 + self.words.pop()

    def left(self, length):
        """The number at last, as so many bytes."""
        number = self.state
        for word in self.words[::-1]:
            number = number * 2**32 + word
        return (number - 2**32 - shorter(length)).to_bytes(length, "little")

    def grouped(self, distributions, escape):
        """Indices and counts, in the order of a pop."""
        order = sorted(range(len(distributions)), key=distributions.__getitem__)
        for d, indices in itertools.groupby(order, distributions.__getitem__):
            _, n, counts = self.tables[d]
            counts = [2**8 * count for count in (counts if escape else counts[:n] + counts[-1:])]
            yield from ((i, counts) for i in indices)

    def read(self, distributions, escape=True):
        positions = [0] * len(distributions)
        for i, counts in self.grouped(distributions, escape):
            if len(counts) > 2:
                positions[i] = self.pop(counts)
        return positions

    def put_back(self, positions, distributions):
        for i, counts in [*self.grouped(distributions, escape=False)][::-1]:
            if len(counts) > 2:
                self.push(counts, positions[i])

    def pop(self, counts):
        target = self.state % 2**24
        k = bisect.bisect_right(counts, target) - 1
        self.state = (counts[k + 1] - counts[k]) * (self.state >> 24) + target - counts[k]
        if self.state < 2**32:
            self.state = self.state * 2**32 + self.words.pop()
        return k

    def push(self, counts, k):
        width = counts[k + 1] - counts[k]
        if self.state >= 2**40 * width:
            self.words.append(self.state % 2**32)
            self.state >>= 32
        self.state = (self.state // width) * 2**24 + counts[k] + self.state % width


def shorter(length):
    return (256**length - 1) // 255


def noise(key, length):
    words = np.random.Philox(key=key).random_raw(-(-length // 8))
    return words.astype("<u8").tobytes()[:length][::-1]


def decode_chain(folder, file):
    """y of each image of a .ntb file, the names in it, and the payload."""
    model = Model(folder)
    fingerprint, content, checksum = unseal(file, b"NB2")
    assert model.fingerprint.startswith(fingerprint)
    (steps, start_up, length, count), content = varints(content, 4)
    assert steps == 0
    sides, content = varints(content, 2 * count)
    names = content[:1] if content[0] == 0 else content[:content.index(b"\0\0") + 2]
    stack, ys = Stack(model, content[len(names):]), []
    header = [steps, start_up, length, count, *sides]
    checked = zlib.crc32(names, zlib.crc32(np.array(header, "<i8").tobytes()))
    for height, width in zip(sides[-2::-2], sides[::-2]):
        y_size, z_size = ((-(-height // stride), -(-width // stride)) for stride in (16, 64))
        if model.has_levels:
            checked += crc(stack.read([len(model.tables) - 2], escape=False))
        of_z = model.by_channel(*z_size)
        z = latent(stack.read, model.tables, of_z)
        mean, index = (x[:y_size[0], :y_size[1]]
                       for x in run(model.networks["hyper_synthesis"], z))
        f = (mean + 2**7) >> 8
        y = latent(stack.read, model.tables, model.channels + 64 * (f % 16) + index)
        checked += crc(z) + crc(y)
        ys.insert(0, y + f // 16)
        padding = [(0, -size % 4) for size in y_size]
        mean, index = run(model.networks["hyper_analysis"],
                          np.pad(ys[0], [*padding, (0, 0)], "edge"))
        of_z = (model.channels + index).ravel().tolist()
        positions = [z - model.tables[d][0] for z, d in zip((z - mean).flat, of_z)]
        stack.put_back(positions, of_z)
    left = stack.left(start_up + length)
    assert (checked + zlib.crc32(left)) % 2**32 == checksum
    assert left[:start_up] == noise(0, start_up)
    payload = bytes(a ^ b for a, b in zip(left[start_up:], noise(1, length)))
    return ys, names.decode().split("\0")[:-2], payload


# --- Tests ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crop(photo):
    return photo[100:164, 200:296]


def check(folder, model, file):
    """Our decoder returns what theirs does."""
    expected, found = coding.decode(model, file).latents, decode(folder, file)
    assert found.keys() == expected.keys()
    for name, latent in expected.items():
        np.testing.assert_array_equal(found[name], latent if name == "level" else latent[0])
    return found


def with_outliers(latents, names=("y",)):
    """Some far outside of their tables, some not so far."""
    latents = {name: np.array(latent) for name, latent in latents.items()}
    for name in {*latents}.intersection(names):
        latents[name].flat[[3, 5, 6, -5]] = 1000.5, -9, 11, -300_000.25
    return latents


def check_with_outliers(folder, model, crop, names=("y", "z")):
    latents = with_outliers(coding.infer(model, crop), names)
    found = check(folder, model, coding.encode(model, latents, *crop.shape[:2]))
    np.testing.assert_allclose(found["y"].flat[[3, -5]], latents["y"].flat[[3, -5]], atol=0.51)


def test_a_file_of_the_released_model(crop):
    model, folder = ntc.load("mshyper"), export.find("mshyper")
    found = check(folder, model, model.compress(crop, quality=30))
    assert found["y"].shape == (4, 6, 320) and np.std(found["y"]) > 0.1
    check_with_outliers(folder, model, crop)


def test_a_file_of_the_first_version():
    folder = format1.FOLDER
    found = decode(folder, (folder / "image.ntc").read_bytes(), b"NT1")
    np.testing.assert_array_equal(found["y"], np.load(folder / "latents.npz")["y"][0])


@pytest.mark.parametrize("name", ["factorized", "scale_only", "joint_ar"])
def test_models_of_other_kinds(name, crop, tmp_path):
    model, package = small_models.make(name), small_models.CLASSES[name].__module__.split(".")[0]
    model.fingerprint = export.save(model, {
        "package": package, "module": "models", "model": small_models.CONFIGS[name]},
        tmp_path / "model")
    check_with_outliers(tmp_path / "model", model, crop)


def test_offsets_of_convolutions_one_after_another_add_up():
    program = [{"op": "Input", "inputs": [], "number": 0}]
    for k in range(2):
        program.append({"op": "Conv", "inputs": [k], "offsets": {"array": f"{k}"}})
    network = {"program": json.dumps([program, [], [{"index": 2}]]),
               "0": np.array([[-1, 0], [0, -3]]), "1": np.array([[0, 0], [0, 2]])}
    assert slope(network) == 3


def test_mixtures_of_distributions(crop, tmp_path):
    model, folder = small_mixture.make(), tmp_path / "model"
    model.fingerprint = export.save(model, {
        "package": "hific", "module": "mixture", "model": small_mixture.CONFIG}, folder)
    check_with_outliers(folder, model, crop, names=("y",))
    # Windows of all sizes, some of which do not hold all components.
    rng, ours, shape = np.random.default_rng(0), Model(folder), (1, 4, 48)
    outputs = [rng.integers(1, 2**14, shape),
               np.round(rng.normal(0, 2.0**rng.integers(4, 19, shape))).astype(int),
               rng.integers(0, 50, shape)]
    y, encoder = outputs[1][..., :12] // 16 + 2, range_coding.RangeEncoder(model.tables)
    model.y_prior.encode(y[None], [x[None] for x in outputs], encoder, ours.channels)
    coder = RangeCoder(encoder.finish())
    np.testing.assert_array_equal(
        y, mixtures(ours, lambda ds: [coder.next(ours.tables[d][2]) for d in ds], *outputs))


def test_chains(photo):
    model, folder = ntc.load("mshyper-small_bb-2"), export.find("mshyper-small_bb-2")
    pictures, payload = [photo[100:164, 200:296], photo[10:75, 20:61]], b"to be sent along" * 9
    latents = [with_outliers(coding.infer(model, picture)) for picture in pictures]
    for names, count in ((), 1), (("mshyper-small_bb-2", "première.png", "b.png"), 2):
        rest = iter(latents)
        with chain.searching(model, 0):
            file, _ = chain.compress(
                model, pictures[:count], payload, lambda *_, rest=rest: next(rest), names=names)
        ys, *found = decode_chain(folder, file)
        assert found == [[*names], payload]
        for y, latent in zip(ys, latents[:count], strict=True):
            np.testing.assert_array_equal(y, np.round(latent["y"][0]))


# Fields of operations, and their inputs' channels.
OFFSETS = np.array([[0, 0], [-1, 2], [1, -1]])
KERNEL = np.arange(-15, 15, dtype=np.int16)
OPERATIONS = [
    ("Conv", dict(offsets=OFFSETS, kernel=KERNEL.reshape(5, 6), bias=np.arange(5)), [2]),
    ("Conv", dict(offsets=OFFSETS, kernel=KERNEL.reshape(5, 6), bias=np.arange(5), stride=2), [2]),
    ("Depthwise", dict(offsets=OFFSETS, kernel=KERNEL[:12].reshape(3, 4).astype(np.int32),
                       bias=np.arange(4), stride=2), [4]),
    ("Requantize", dict(shift=2, low=-20.0, high=30.0), [4]),
    ("Requantize", dict(shift=-3, low=-300, high=1e9), [4]),
    ("Requantize", dict(shift=0, low=-7, high=1e9), [4]),
    ("LeakyRelu", dict(slope=13107), [4]),
    ("LeakyRelu", dict(slope=2**15), [4]),
    ("LeakyRelu", dict(slope=0), [4]),
    ("Lookup", dict(table=np.arange(41, dtype=np.int32)**2, shift=2, linear=False), [4]),
    ("Lookup", dict(table=-np.arange(41, dtype=np.int32), shift=1, linear=True), [4]),
    ("Steps", dict(edges=np.array([-30, -2, 0, 1, 50])), [4]),
    ("Add", dict(), [4, 4, 1]),
    ("Multiply", dict(), [4, 1]),
    ("Maximum", dict(), [4, 4, 4]),
    ("Negate", dict(), [4]),
    ("Concat", dict(), [2, 1, 3]),
    ("Slice", dict(start=1, stop=3), [4]),
    ("DepthToSpace", dict(block=2), [12]),
    ("Mean", dict(), [4]),
]


@pytest.mark.parametrize("name, fields, channels", OPERATIONS)
def test_operations(name, fields, channels):
    rng = np.random.default_rng(0)
    inputs = [rng.integers(-100, 100, (5, 4, count)) for count in channels]
    op = integer_ops.BY_NAME[name](tuple(range(len(inputs))), **fields)
    expected = op(*(tf.constant(x[None], tf.float64) for x in inputs))
    found = operate({"op": name, "stride": 1, **fields}, *inputs)
    np.testing.assert_array_equal(found, expected[0])


def test_the_page_has_all_operations_and_their_fields():
    assert {name for name, _, _ in OPERATIONS} == {*integer_ops.BY_NAME} - {"Input"}
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]*)\|", PAGE.read_text(), re.M)
    listed = {name: fields.replace(",", "").split() for name, fields in rows}
    for name, cls in integer_ops.BY_NAME.items():
        assert listed[name] == [field.name for field in dataclasses.fields(cls)][1:], name
