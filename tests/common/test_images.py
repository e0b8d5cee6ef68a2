import concurrent.futures
import logging
import os
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageCms, PngImagePlugin

from common import image_formats as formats
from common import images
from common.errors import UserError
from tests.helpers import pictures


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
    for suffix in formats.WRITTEN:
        images.write(tmp_path / f"a{suffix}", photo[:20, :20])
        images.read(tmp_path / f"a{suffix}")
    assert not caplog.records


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


@pytest.mark.parametrize("suffix", formats.WRITTEN)
def test_every_suffix_can_be_written(tmp_path, photo, suffix):
    crop = photo[:64, :48]
    images.write(tmp_path / f"a{suffix.upper()}", crop)
    read = images.read(tmp_path / f"a{suffix.upper()}")
    assert np.mean(np.abs(read - crop.astype(float))) < 6
    if suffix not in (".jpg", ".jpeg", ".jpe", ".jfif", ".avif", ".avifs", ".gif"):
        np.testing.assert_array_equal(read, crop)
    assert [p.name for p in tmp_path.iterdir()] == [f"a{suffix.upper()}"]


def test_what_is_written_is_read_and_the_usual_formats_are_both():
    assert set(formats.WRITTEN) < set(formats.SUFFIXES)
    assert {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".avif", ".jp2",
            ".jfif", ".gif"} < set(formats.WRITTEN)


def test_every_suffix_that_pillow_knows_is_read_or_named_as_not_read():
    assert set(Image.registered_extensions()) <= {*formats.SUFFIXES, *formats.NOT_READ}
    assert not set(formats.SUFFIXES) & set(formats.NOT_READ)
    assert {".heic", ".heif", ".jxl", ".dng", ".nef", ".svg", ".pdf"} < set(formats.NOT_READ)


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


def test_more_pixels_than_allowed(tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGB", (40, 25)).save(path)
    assert images.read(path, max_pixels=1000).shape == (25, 40, 3)
    with pytest.raises(UserError, match="large.png has 40 x 25"):
        images.read(path, max_pixels=999)


@pytest.mark.filterwarnings("ignore:Image size")  # as in programs, says common/cli.py
@pytest.mark.parametrize("limit", [999, 500, 499, 10])
def test_the_librarys_own_limit_does_not_get_in_the_way(tmp_path, monkeypatch, limit):
    # At twice its limit Pillow raises an error.
    path = tmp_path / "large.png"
    Image.new("RGB", (40, 25)).save(path)
    monkeypatch.setattr(images, "MAX_PIXELS", limit)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UserError, match="large.png has .* megapixels"):
        images.read(path, max_pixels=limit)
    assert images.read(path, max_pixels=1000).shape == (25, 40, 3)


def test_two_hundred_megapixels_are_the_limit_whatever_pillows_is(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("RGB", (40, 25)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert images.MAX_PIXELS == 200_000_000 and images.read(path).shape == (25, 40, 3)
