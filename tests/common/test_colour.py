import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from common import images
from common.errors import UserError
from tests.helpers import pictures

GREYS = np.array([[0, 1, 2, 5, 20, 64, 128, 200, 255]], np.uint8)
LINEAR = pictures.grey_profile(1.0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("suffix", ["PNG", "TIFF"])
@pytest.mark.parametrize("deep", [False, True])
def test_grey_profile(suffix, deep):
    samples = GREYS.astype(np.uint16) * 257 if deep else GREYS
    read = images.read(pictures.saved(samples, suffix, icc_profile=LINEAR))
    np.testing.assert_allclose(read[0, :, 0], pictures.srgb(GREYS[0] / 255), atol=0.6)
    assert np.all(read == read[..., :1])


def test_grey_profile_of_a_jpeg():
    file = pictures.saved(np.full([16, 16], 128, np.uint8), "JPEG", icc_profile=LINEAR)
    np.testing.assert_array_equal(images.read(file), np.full([16, 16, 3], 188))


@pytest.mark.parametrize("depth", [8, 16])
def test_grey_profile_with_alpha_comes_before_the_white_below(depth):
    kind, most = (">BB", 255) if depth == 8 else (">HH", 65535)
    row = b"".join(struct.pack(kind, int(grey) * most // 255, 51 * most // 255)
                   for grey in GREYS[0])
    profile = (b"iCCP", b"x\0\0" + zlib.compress(LINEAR))
    read = images.read(pictures.png((GREYS.size, 1), depth, 4, [row], [profile]))
    np.testing.assert_allclose(
        read[0, :, 0], 204 + pictures.srgb(GREYS[0] / 255) / 5, atol=1)


@pytest.mark.parametrize("chunks, gamma", [
    ([(b"gAMA", 100000)], 1.0), ([(b"gAMA", 45455)], None), ([(b"gAMA", 0)], None),
    ([(b"sRGB", None), (b"gAMA", 100000)], None), ([(b"gAMA", 100000), (b"sRGB", None)], None)])
def test_gamma_of_a_png(chunks, gamma):
    chunks = [(name, b"\0" if value is None else struct.pack(">I", value))
              for name, value in chunks]
    file = pictures.add_chunks(
        pictures.saved(np.repeat(GREYS[..., None], 3, axis=2), "PNG"), chunks)
    expected = pictures.srgb(GREYS[0] / 255) if gamma else GREYS[0]
    np.testing.assert_allclose(images.read(file)[0, :, 1].astype(int), expected, atol=1)


@pytest.mark.parametrize("suffix", ["TIFF", "JPEG"])
def test_cmyk_profile(suffix):
    paper_and_black = Image.new("CMYK", (32, 16))
    paper_and_black.paste((0, 0, 0, 255), (16, 0, 32, 16))
    profile = pictures.cmyk_profile()
    read = images.read(pictures.saved(paper_and_black, suffix, icc_profile=profile))
    np.testing.assert_allclose(read[8, 4].astype(int), [255] * 3, atol=2)
    np.testing.assert_allclose(read[8, 27].astype(int), [119] * 3, atol=3)  # L* = 50


def test_profile_of_a_jpeg_2000_file():
    file = pictures.saved(np.full([16, 16], 128, np.uint8), "JPEG2000")
    at = file.index(b"colr") - 4
    [length] = struct.unpack_from(">I", file, at)
    box = b"colr\2\0\0" + LINEAR
    header = file.index(b"jp2h") - 4
    [whole] = struct.unpack_from(">I", file, header)
    file = (file[:header] + struct.pack(">I", whole + len(box) + 4 - length) + file[header + 4:at]
            + struct.pack(">I", len(box) + 4) + box + file[at + length:])
    np.testing.assert_array_equal(images.read(file), np.full([16, 16, 3], 188))


def test_profile_of_a_grey_image_for_colours_and_the_other_way_round(photo):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    read = images.read(pictures.saved(GREYS, "PNG", icc_profile=srgb))
    np.testing.assert_allclose(read[0, :, 1].astype(int), GREYS[0], atol=1)
    read = images.read(pictures.saved(photo[:8, :8], "PNG", icc_profile=LINEAR))
    np.testing.assert_array_equal(read, photo[:8, :8])  # which cannot be meant


@pytest.mark.parametrize("with_profile", [False, True])
def test_lab(photo, with_profile):
    srgb, lab = (ImageCms.createProfile(space) for space in ("sRGB", "LAB"))
    image = ImageCms.profileToProfile(
        Image.fromarray(photo[:40, :50]), srgb, lab, outputMode="LAB")
    options = dict(icc_profile=ImageCms.ImageCmsProfile(lab).tobytes()) if with_profile else {}
    read = images.read(pictures.saved(image, "TIFF", **options))
    assert np.mean(np.abs(read - photo[:40, :50].astype(float))) < 2


def test_palette_with_a_profile(photo):
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in ((b"rXYZ", b"----"), (b"gXYZ", b"rXYZ"), (b"----", b"gXYZ")):
        swapped = swapped.replace(old, new, 1)
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    read = images.read(pictures.saved(image, "PNG", icc_profile=swapped))
    np.testing.assert_allclose(read, [[[0, 255, 0], [0, 0, 255]]], atol=2)


def rounded(samples):
    return (samples.astype(int) * 255 + 32767) // 65535


@pytest.mark.parametrize("kind, bands", [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_png_is_rounded(rng, kind, bands):
    samples = rng.integers(0, 65536, [60, 70, bands])
    samples[..., bands - 1] = 65535 if bands in (2, 4) else samples[..., bands - 1]
    file = pictures.png((70, 60), 16, kind, [row.astype(">u2").tobytes() for row in samples])
    colours = samples[..., :1] if bands == 2 else samples[..., :3]
    np.testing.assert_array_equal(images.read(file), np.broadcast_to(rounded(colours), (60, 70, 3)))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("planes", [1, 2])
def test_sixteen_bit_tiff_is_rounded(rng, order, compression, planes):
    samples = rng.integers(0, 65536, [6, 7, 3])
    parts = list(samples.transpose(2, 0, 1)) if planes == 2 else [samples]
    parts = [part.astype(order + "u2").tobytes() for part in parts]
    parts = [zlib.compress(part) for part in parts] if compression == 8 else parts
    begins = np.cumsum([8, *map(len, parts)])[:-1].tolist()
    tags = pictures.tiff_tags(7, 6, (16,) * 3, 2, _284=(3, [planes]), _259=(3, [compression]),
                              _273=(4, begins), _279=(4, [len(part) for part in parts]))
    read = images.read(pictures.tiff([(tags, b"".join(parts))], order))
    if planes == 1:
        np.testing.assert_array_equal(read, rounded(samples))
    else:  # libtiff's planes come with their high bytes
        np.testing.assert_array_equal(read, samples >> 8)


def test_twelve_bits_and_white_as_zero(rng):
    samples = rng.integers(0, 4096, [2, 4])
    packed = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
                      for a, b in samples.reshape(-1, 2))
    read = images.read(pictures.tiff([(pictures.tiff_tags(4, 2, (12,)), packed)]))
    np.testing.assert_array_equal(read[..., 0], (samples * 255 + 2047) // 4095)
    deep = (samples * 16).astype("<u2")
    read = images.read(pictures.tiff([(pictures.tiff_tags(4, 2, (16,), 0), deep.tobytes())]))
    np.testing.assert_array_equal(read[..., 0], rounded(65535 - deep.astype(int)))


def test_samples_without_a_range_are_refused():
    with pytest.raises(UserError, match="32-bit samples"):
        images.read(pictures.saved(np.array([[70000, 3]], np.int32), "TIFF"))


@pytest.mark.parametrize("depth, key, row, width, expected", [
    (1, 1, [0b01000000], 2, [0, 255]),
    (2, 2, [0b00011011], 4, [0, 85, 255, 255]),
    (4, 7, [0x07, 0x71], 4, [0, 255, 255, 17]),
    (8, 7, [0, 7, 1], 3, [0, 255, 1]),
    (16, 1000, [3, 232, 3, 233], 2, [255, 4])])
def test_transparent_grey(depth, key, row, width, expected):
    file = pictures.png((width, 1), depth, 0, [row], [(b"tRNS", struct.pack(">H", key))])
    np.testing.assert_array_equal(images.read(file)[0, :, 0], expected)


@pytest.mark.parametrize("depth, other", [(8, [1, 2, 4]), (16, [1, 2, 3])])
def test_transparent_colour(depth, other):
    key = [1, 2, 3] if depth == 8 else [257, 514, 771]
    near = other if depth == 8 else [257, 514, 772]  # the same high bytes
    row = struct.pack(">6B" if depth == 8 else ">6H", *key, *near)
    file = pictures.png((2, 1), depth, 2, [row], [(b"tRNS", struct.pack(">3H", *key))])
    np.testing.assert_array_equal(images.read(file), [[[255] * 3, other]])


def test_opacities_of_a_palette():
    chunks = [(b"PLTE", bytes([0, 100, 200, 4, 5, 6])), (b"tRNS", bytes([51, 255]))]
    read = images.read(pictures.png((2, 1), 8, 3, [[0, 1]], chunks))
    np.testing.assert_allclose(read.astype(int), [[[204, 224, 244], [4, 5, 6]]], atol=1)


@pytest.mark.parametrize("size", [3_000_000, 100_000_000])
def test_profile_of_any_size_that_is_none(photo, size):
    profile = (b"iCCP", b"x\0\0" + zlib.compress(bytes(size)))
    file = pictures.add_chunks(pictures.saved(photo[:40, :50], "PNG"), [profile])
    np.testing.assert_array_equal(images.read(file), photo[:40, :50])


def test_profile_of_more_than_a_megabyte():
    profile = LINEAR + bytes(2_000_000)
    profile = struct.pack(">I", len(profile)) + profile[4:]
    chunk = (b"iCCP", b"x\0\0" + zlib.compress(profile))
    file = pictures.add_chunks(pictures.saved(GREYS, "PNG"), [chunk])
    np.testing.assert_allclose(images.read(file)[0, :, 0], pictures.srgb(GREYS[0] / 255), atol=0.6)
