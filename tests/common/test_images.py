import concurrent.futures
import io
import logging
import os
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from common import images, padding
from common.errors import UserError
from tests.helpers import pictures

# Pages of a TIFF file.
THUMBNAIL = (pictures.tiff_tags(2, 2, _254=(4, [1])), bytes(4))
WHOLE = (pictures.tiff_tags(4, 4), bytes(range(16)))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def save(path, array, mode=None, **options):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def test_png_is_read_back_as_it_was_written(tmp_path, photo):
    images.write(tmp_path / "a.png", photo)
    read = images.read(tmp_path / "a.png")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, photo)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), photo)


def test_one_pixel(tmp_path):
    pixel = np.array([[[1, 2, 3]]], np.uint8)
    np.testing.assert_array_equal(images.read(save(tmp_path / "a.png", pixel)), pixel)


def test_grey_becomes_rgb(tmp_path, photo):
    grey = photo[:40, :50, 1]
    read = images.read(save(tmp_path / "a.png", grey))
    np.testing.assert_array_equal(read, np.repeat(grey[..., None], 3, axis=2))


def test_black_and_white(tmp_path):
    bits = np.array([[0, 255], [255, 0]], np.uint8)
    read = images.read(save(tmp_path / "a.png", bits, mode="1"))
    np.testing.assert_array_equal(read, np.repeat(bits[..., None], 3, axis=2))


def test_palette(tmp_path, photo):
    image = Image.fromarray(photo[:40, :50]).quantize(16)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(images.read(tmp_path / "a.png"), image.convert("RGB"))


def test_transparent_entry_of_a_palette_is_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=1)
    np.testing.assert_array_equal(images.read(tmp_path / "a.png"), [[[10, 20, 30], [255] * 3]])


def test_transparency_is_laid_over_white(tmp_path):
    rgba = np.array([[[100, 0, 200, 255], [100, 0, 200, 0], [100, 0, 200, 51]]], np.uint8)
    read = images.read(save(tmp_path / "a.png", rgba))
    np.testing.assert_allclose(  # 51 / 255 = 1 / 5
        read, [[[100, 0, 200], [255] * 3, [224, 204, 244]]], atol=1)


def test_sixteen_bit_grey_is_rounded(tmp_path):
    samples = np.array([[0, 128, 129, 257, 385, 386, 65406, 65407, 65535]], np.uint16)
    read = images.read(save(tmp_path / "a.png", samples))
    np.testing.assert_array_equal(read[0, :, 0], [0, 0, 1, 1, 1, 2, 254, 255, 255])
    assert np.all(read == read[..., :1])


def test_float_samples_are_refused(tmp_path):
    path = save(tmp_path / "a.tiff", np.full((2, 2), 0.5, np.float32))
    with pytest.raises(UserError, match="a.tiff.*float"):
        images.read(path)


@pytest.mark.parametrize("orientation, shown", [
    (1, lambda stored: stored),
    (2, lambda stored: stored[:, ::-1]),
    (3, lambda stored: stored[::-1, ::-1]),
    (6, lambda stored: np.rot90(stored, -1)),
    (8, lambda stored: np.rot90(stored)),
])
def test_exif_orientation_is_applied(tmp_path, photo, orientation, shown):
    stored, exif = photo[:40, :50], Image.Exif()
    exif[0x0112] = orientation
    read = images.read(save(tmp_path / "a.png", stored, exif=exif.tobytes()))
    np.testing.assert_array_equal(read, shown(stored))


def test_cmyk_jpeg(tmp_path, photo):
    read = images.read(save(tmp_path / "a.jpg", photo, mode="CMYK", quality=95, subsampling=0))
    assert read.shape == photo.shape
    assert np.mean(np.abs(read - photo.astype(float))) < 3  # an inverted one would be off by 100


def test_colour_profile_is_converted_to_srgb(tmp_path):
    # sRGB with the primaries red and green swapped: its "red" is green.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in ((b"rXYZ", b"----"), (b"gXYZ", b"rXYZ"), (b"----", b"gXYZ")):
        profile = profile.replace(old, new, 1)
    red = np.full((2, 2, 3), (255, 0, 0), np.uint8)
    np.testing.assert_allclose(
        images.read(save(tmp_path / "a.png", red, icc_profile=profile)),
        np.full((2, 2, 3), (0, 255, 0)), atol=2)


def test_damaged_colour_profile_is_ignored(tmp_path, photo):
    path = save(tmp_path / "a.png", photo[:8, :8], icc_profile=b"not a profile")
    np.testing.assert_array_equal(images.read(path), photo[:8, :8])


# --- Colours ----------------------------------------------------------------------------------

GREYS = np.array([[0, 1, 2, 5, 20, 64, 128, 200, 255]], np.uint8)
LINEAR = pictures.grey_profile(1.0)


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


# --- What nobody needs ------------------------------------------------------------------------


def assert_turned(read, stored):
    """That an image is one stored in orientation 6."""
    assert read.shape == (*stored.shape[1::-1], 3)
    assert np.mean(np.abs(read - np.rot90(stored, -1).astype(float))) < 6


@pytest.mark.parametrize("suffix", ["PNG", "JPEG", "WEBP"])
def test_orientation_beside_a_tag_that_cannot_be_written_back(photo, suffix):
    stored = photo[:64, :96]
    file = pictures.saved(stored, suffix, exif=pictures.exif(6))
    with pytest.raises(struct.error):  # what is tested here
        ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
    assert_turned(images.read(file), stored)


def test_orientation_of_a_tiff_beside_a_tag_that_cannot_be_written_back(photo):
    stored = photo[:64, :96]
    tags = pictures.tiff_tags(96, 64, (8,) * 3, 2, _274=(3, [6]), _34665=(4, [10**6]))
    tags[0x011A] = (10, struct.pack("<ii", -1, 0))
    assert_turned(images.read(pictures.tiff([(tags, stored.tobytes())])), stored)


def test_orientation_of_an_avif_beside_a_tag_that_cannot_be_written_back(photo):
    stored, exif = photo[:64, :96], Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 3.25
    file = pictures.saved(stored, "AVIF", exif=exif)
    good = struct.pack(">HHI", 0x011A, 5, 1), struct.pack(">II", 13, 4)
    bad = struct.pack(">HHI", 0x011A, 10, 1), struct.pack(">ii", -1, 0)
    for before, after in zip(good, bad, strict=True):
        assert before in file
        file = file.replace(before, after)
    with pytest.raises(Image.UnidentifiedImageError):  # what is tested here
        Image.open(io.BytesIO(file))
    assert_turned(images.read(file), stored)


def test_damaged_pages_below_a_tiff():
    for offset in (0, 3, 10**6, 2**32 - 1):
        page = ({**WHOLE[0], 330: (4, [offset])}, WHOLE[1])
        read = images.read(pictures.tiff([page]))
        np.testing.assert_array_equal(read[..., 0], np.arange(16).reshape(4, 4))


@pytest.mark.parametrize("exif", [
    b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", pictures.exif(0), pictures.exif(9),
    pictures.exif(6)[:20], b"Exif\0\0XX" + pictures.exif(6)[8:]])
def test_damaged_orientation_is_none(exif):
    assert images.metadata.orientation(exif) == 1


def test_orientation_is_found_in_both_orders():
    assert images.metadata.orientation(pictures.exif(6)) == 6
    big = b"MM\0*" + struct.pack(">IHHHIHH", 8, 1, 0x0112, 3, 1, 8, 0)
    assert images.metadata.orientation(big) == 8


def test_text_of_any_length_and_damaged_notes_of_a_png(photo):
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "x" * 1_600_000, zip=True)
    for i in range(4):
        text.add_itxt(f"b{i}", "y" * 20_000_000, zip=True)
    file = pictures.saved(photo[:40, :50], "PNG", pnginfo=text)
    file = pictures.add_chunks(
        file, [(b"tEXt", b"a\0b", 1), (b"zTXt", b"a\0\1b"), (b"eXIf", b"MM"), (b"pHYs", b"")],
        [(b"zTXt", b"a\0\0" + zlib.compress(bytes(30_000_000))), (b"abCD", b"", 3)])
    np.testing.assert_array_equal(images.read(file), photo[:40, :50])


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


@pytest.mark.parametrize("segment", [
    b"\xff\xe0\0\x07JFIF\0", b"\xff\xe1\0\x0cExif\0\0II*\0", b"\xff\xe2\0\x0eICC_PROFILE\0",
    b"\xff\xe2\0\x08MPF\0II", b"\xff\xed\0\x18Photoshop 3.0\0" + b"8BIM" * 2,
    b"\xff\xee\0\x08Adobe\0", b"\xff\xfe\0\x02"])
def test_damaged_notes_of_a_jpeg(photo, segment):
    file = pictures.saved(photo[:40, :50], "JPEG")
    np.testing.assert_array_equal(images.read(file[:2] + segment + file[2:]), images.read(file))


# --- Several pictures -------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["tiff", "gif", "png", "webp", "mpo", "avif"])
def test_the_first_of_several_pictures_is_read_and_said_once(tmp_path, photo, caplog, suffix):
    frames = [Image.fromarray(photo[top:top + 40, :50]) for top in (0, 40, 80)]
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with caplog.at_level(logging.WARNING, logger="absl"):
        read = images.read(path)
        images.read(path)
    assert np.mean(np.abs(read - photo[:40, :50].astype(float))) < 12
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [f"{path}: read the first of 3 pictures"]


def test_one_picture_needs_no_words(tmp_path, photo, caplog):
    for suffix in images.WRITTEN:
        images.write(tmp_path / f"a{suffix}", photo[:20, :20])
        images.read(tmp_path / f"a{suffix}")
    assert not caplog.records


@pytest.mark.parametrize("pages", [[WHOLE, THUMBNAIL], [THUMBNAIL, WHOLE],
                                   [THUMBNAIL, THUMBNAIL, WHOLE]])
def test_thumbnails_are_passed_over(pages, caplog):
    read = images.read(pictures.tiff(pages))
    np.testing.assert_array_equal(read[..., 0], np.arange(16).reshape(4, 4))
    assert not caplog.records


def test_a_profile_of_another_page_is_not_used():
    other = {**pictures.tiff_tags(4, 4), 34675: (7, LINEAR)}
    read = images.read(pictures.tiff([WHOLE, (other, WHOLE[1])]))
    np.testing.assert_array_equal(read[..., 0], np.arange(16).reshape(4, 4))


@pytest.mark.parametrize("file", [
    pictures.tiff([THUMBNAIL]),
    pictures.tiff([THUMBNAIL], sub=[WHOLE]),
    pictures.tiff([(pictures.tiff_tags(2, 2), bytes(4))], sub=[WHOLE])],
    ids=["alone", "flagged", "smaller"])
def test_what_is_only_a_thumbnail_is_refused(file):
    with pytest.raises(UserError, match="thumbnail"):
        images.read(file)


def test_previews_of_cameras_are_refused(tmp_path):
    with pytest.raises(UserError, match="camera raw: format not read here"):
        images.read(pictures.tiff([(pictures.tiff_tags(4, 4, _50706=(1, [1, 4, 0, 0])), WHOLE[1])]))
    (tmp_path / "a.NEF").write_bytes(pictures.tiff([WHOLE]))
    with pytest.raises(UserError, match="a.NEF: camera raw: format not read here"):
        images.read(tmp_path / "a.NEF")


# --- Files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, content, format", [
    ("a.heic", b"?", "HEIF"), ("a.jpg", b"\0\0\0\x18ftypheic" + bytes(20), "HEIF"),
    ("a.jxl", b"\xff\x0a", "JPEG XL"), ("a", b"<?xml version='1.0'?><svg/>", "SVG"),
    ("a.eps", b"%!PS-Adobe-3.0", "PostScript"), ("a.png", b"%PDF-1.4", "PDF"),
    ("a.cr3", b"\0\0\0\x18ftypcrx " + bytes(20), "camera raw"), ("a.EXR", b"?", "OpenEXR")])
def test_formats_that_are_not_read_are_named(tmp_path, name, content, format):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: {format}: format not read here"):
        images.read(tmp_path / name)


def test_what_a_file_is_counts_and_not_its_name(tmp_path, photo):
    path = tmp_path / "a.heic"
    path.write_bytes(pictures.saved(photo[:8, :8], "PNG"))
    np.testing.assert_array_equal(images.read(path), photo[:8, :8])


@pytest.mark.parametrize("error", [
    struct.error("x"), RuntimeError("x"), SystemError("x"), MemoryError(), zlib.error("x"),
    SyntaxError("x"), ValueError("a\nb"), OverflowError("x"), KeyError("x"), AttributeError("x"),
    RecursionError("x"), AssertionError(), OSError("x"), EOFError(), ZeroDivisionError("x")],
    ids=lambda error: type(error).__name__)
def test_any_error_of_a_decoder_is_one_line_with_the_path(tmp_path, photo, monkeypatch, error):
    images.write(tmp_path / "a.bmp", photo[:8, :8])

    def fail(*_):
        raise error

    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(UserError, match="a.bmp: cannot be read as an image") as raised:
        images.read(tmp_path / "a.bmp")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tiff", "avif", "gif", "jp2"])
@pytest.mark.parametrize("turned", [False, True])
def test_size_is_that_of_the_image_that_is_read(tmp_path, photo, suffix, turned):
    path, exif = tmp_path / f"a.{suffix}", Image.Exif()
    exif[0x0112] = 6 if turned else 1
    Image.fromarray(photo[:40, :50]).save(path, exif=exif)
    assert images.size(path) == images.read(path).shape[:2] == (
        (50, 40) if turned and suffix not in ("gif", "jp2") else (40, 50))


def test_size_reads_headers_alone(tmp_path, photo):
    images.write(tmp_path / "a.png", photo)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    assert images.size(tmp_path / "b.png") == photo.shape[:2]
    with pytest.raises(UserError, match="b.png"):
        images.read(tmp_path / "b.png")


def test_reading_leaves_pillow_as_it_was_also_in_threads(tmp_path, photo):
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "x" * 1_600_000, zip=True)
    Image.fromarray(photo[:40, :50]).save(tmp_path / "a.png", pnginfo=text)
    before = (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, warnings.filters[:])
    limits = [images.MAX_PIXELS, 10 * images.MAX_PIXELS, 1999] * 20

    def read(limit):
        try:
            return images.read(tmp_path / "a.png", limit).shape
        except UserError as error:
            return "megapixels" in str(error)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, limits)) == [(40, 50, 3), (40, 50, 3), True] * 20
    assert before == (Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, warnings.filters[:])


def test_a_pipe_is_read(tmp_path, photo):
    os.mkfifo(tmp_path / "a.png")
    file = pictures.saved(photo[:8, :8], "PNG")
    writer = threading.Thread(target=(tmp_path / "a.png").write_bytes, args=[file])
    writer.start()
    np.testing.assert_array_equal(images.read(tmp_path / "a.png"), photo[:8, :8])
    writer.join()


@pytest.mark.parametrize("content", [b"", b"some text", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_what_is_not_an_image_is_a_user_error(tmp_path, content):
    (tmp_path / "wrong.png").write_bytes(content)
    with pytest.raises(UserError, match="wrong.png"):
        images.read(tmp_path / "wrong.png")


def test_missing_file_and_folder_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="absent.png: no such file"):
        images.read(tmp_path / "absent.png")
    with pytest.raises(UserError, match=f"{tmp_path.name} is a folder"):
        images.read(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated_image_is_a_user_error(tmp_path, photo, suffix, kept):
    whole = save(tmp_path / f"a.{suffix}", photo[:100, :100]).read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(whole[:int(len(whole) * kept)])
    with pytest.raises(UserError, match=f"cut.{suffix}"):
        images.read(tmp_path / f"cut.{suffix}")


@pytest.mark.parametrize("name", ["a.ntc", "a", "a.npy"])
def test_unknown_suffix_writes_nothing(tmp_path, photo, name):
    with pytest.raises(UserError, match=".png"):
        images.write(tmp_path / name, photo)
    assert not list(tmp_path.iterdir())


def test_missing_folder_writes_nothing(tmp_path, photo):
    with pytest.raises(UserError, match="absent"):
        images.write(tmp_path / "absent" / "a.png", photo)
    assert not list(tmp_path.iterdir())


def test_failed_write_keeps_the_old_file(tmp_path, photo):
    path = save(tmp_path / "a.png", photo[:8, :8])
    before = path.read_bytes()
    with pytest.raises(TypeError):
        images.write(path, np.zeros((4, 4, 7), np.uint8))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, OverflowError, RuntimeError, struct.error])
def test_an_error_of_an_encoder_is_one_line_and_keeps_the_old_file(
        tmp_path, photo, monkeypatch, error):
    path = save(tmp_path / "a.bmp", photo[:8, :8])

    def fail(image, file, *_, **__):
        file.write_bytes(b"half")
        raise error("too large")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(UserError, match="cannot write .*a.bmp as BMP: too large"):
        images.write(path, photo[8:16, :8])
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(images.read(path), photo[:8, :8])


@pytest.mark.parametrize("suffix", images.WRITTEN)
def test_every_suffix_can_be_written(tmp_path, photo, suffix):
    crop = photo[:64, :48]
    images.write(tmp_path / f"a{suffix.upper()}", crop)
    read = images.read(tmp_path / f"a{suffix.upper()}")
    assert np.mean(np.abs(read - crop.astype(float))) < 6
    if suffix not in (".jpg", ".jpeg", ".jpe", ".jfif", ".avif", ".avifs", ".gif"):
        np.testing.assert_array_equal(read, crop)
    assert [p.name for p in tmp_path.iterdir()] == [f"a{suffix.upper()}"]


def test_what_is_written_is_read_and_the_usual_formats_are_both():
    assert set(images.WRITTEN) < set(images.SUFFIXES)
    assert {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".avif", ".jp2",
            ".jfif", ".gif"} < set(images.WRITTEN)


def test_every_suffix_that_pillow_knows_is_read_or_named_as_not_read():
    assert set(Image.registered_extensions()) <= {*images.SUFFIXES, *images.NOT_READ}
    assert not set(images.SUFFIXES) & set(images.NOT_READ)
    assert {".heic", ".heif", ".jxl", ".dng", ".nef", ".svg", ".pdf"} < set(images.NOT_READ)


@pytest.mark.parametrize("suffix, longest", [
    (".webp", 16383), (".jpg", 65500), (".JFIF", 65500), (".gif", 65535), (".tga", 65535),
    (".sgi", 65535), (".pcx", 65534), (".avif", 32768), (".png", None), (".tif", None)])
def test_limits_of_a_format_are_known_before_and_are_the_real_ones(tmp_path, suffix, longest):
    path = tmp_path / f"a{suffix}"
    images.write(path, np.zeros([1, longest or 70000, 3], np.uint8))
    assert images.read(path).shape == (1, longest or 70000, 3)
    if longest:
        name = Image.registered_extensions()[suffix.lower()]
        for sides in ((1, longest + 1), (longest + 1, 1)):
            with pytest.raises(UserError, match=f"a{suffix}: {name} holds at most {longest}"):
                images.check_size(path, *sides)
            with pytest.raises(UserError, match=f"a{suffix}: {name} holds at most {longest}"):
                images.write(path, np.zeros([*sides, 3], np.uint8))
        assert images.read(path).shape == (1, longest, 3)


def test_what_is_left_out_of_a_folder_is_counted_and_named(tmp_path):
    (tmp_path / "inner").mkdir()
    names = ["a.png", "B.JPG", "c.heic", "d.HEIC", "e.txt", "f", "._a.png", ".DS_Store", "inner"]
    taken, left = images.sift([tmp_path / name for name in names])
    assert [path.name for path in taken] == ["a.png", "B.JPG"]
    assert left == ("2 .heic (HEIF: format not read here), 1 .txt, 1 folder(s), "
                    "1 without a suffix")
    assert images.sift(["a.png", "b.npy", "._c.npy"], (".npy",)) == (["b.npy"], "1 .png")
    assert images.sift(["a.png", "._a.png"]) == (["a.png"], "")


def test_to_uint8_rounds_and_clips():
    values = tf.constant([-3.0, 0.0, 0.4, 0.6, 127.4, 127.6, 254.6, 255.0, 300.0]) / 255
    result = images.to_uint8(values)
    assert result.dtype == tf.uint8
    np.testing.assert_array_equal(result, [0, 0, 0, 1, 127, 128, 255, 255, 255])


@pytest.mark.parametrize("size, padded", [
    ((1, 1), (16, 16)), ((1, 65), (16, 80)), ((67, 131), (80, 144)), ((32, 48), (32, 48))])
def test_padding_repeats_the_edge_and_is_undone_by_cropping(photo, size, padded):
    height, width = size
    x = photo[None, :height, :width].astype(np.float32)
    expected = np.pad(
        x, [(0, 0), (0, padded[0] - height), (0, padded[1] - width), (0, 0)], mode="edge")
    static = padding.pad_to_multiple(tf.constant(x), 16)
    np.testing.assert_array_equal(static, expected)
    np.testing.assert_array_equal(padding.crop_to(static, x), x)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3])])
    def there_and_back(x):
        there = padding.pad_to_multiple(x, 16)
        return there, padding.crop_to(there, x)

    dynamic, back = there_and_back(x)
    np.testing.assert_array_equal(dynamic, expected)
    np.testing.assert_array_equal(back, x)


def test_more_pixels_than_allowed(tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGB", (40, 25)).save(path)
    assert images.read(path, max_pixels=1000).shape == (25, 40, 3)
    with pytest.raises(UserError, match="large.png has 40 x 25"):
        images.read(path, max_pixels=999)


@pytest.mark.filterwarnings("ignore:Image size")  # as in programs, says common/images.py
@pytest.mark.parametrize("limit", [999, 500, 499, 10])
def test_the_librarys_own_limit_does_not_get_in_the_way(tmp_path, monkeypatch, limit):
    # Pillow's own limit is `images.MAX_PIXELS`; at twice that it raises an error.
    path = tmp_path / "large.png"
    Image.new("RGB", (40, 25)).save(path)
    monkeypatch.setattr(images, "MAX_PIXELS", limit)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UserError, match="large.png has .* megapixels"):
        images.read(path, max_pixels=limit)
    assert images.read(path, max_pixels=1000).shape == (25, 40, 3)


def test_the_limit_is_also_the_librarys():
    assert images.MAX_PIXELS == Image.MAX_IMAGE_PIXELS == 200_000_000
