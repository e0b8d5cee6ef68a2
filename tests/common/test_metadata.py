import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from common import images
from common.errors import UserError
from tests.helpers import pictures


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


@pytest.mark.parametrize("exif", [
    b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", pictures.exif(0), pictures.exif(9),
    pictures.exif(6)[:20], b"Exif\0\0XX" + pictures.exif(6)[8:]])
def test_damaged_orientation_is_none(exif):
    assert images.metadata.orientation(exif) == 1


@pytest.mark.parametrize("codec", ["jp2", "j2k"])
@pytest.mark.parametrize("channels, bits, refused", [
    (3, 8, False), (1, 16, False), (3, 10, True), (3, 16, True), (4, 16, True), (2, 12, True)])
def test_deep_colours_of_jpeg_2000_are_refused(codec, channels, bits, refused, tmp_path):
    # Pillow makes black of white, and of alpha.
    samples = np.full((8, 8, channels), 2**bits - 1, np.uint16 if bits > 8 else np.uint8)
    file = tmp_path / f"white.{codec}"
    file.write_bytes(imagecodecs.jpeg2k_encode(
        samples if channels > 1 else samples[..., 0], level=0, reversible=True,
        codecformat=codec, bitspersample=bits))
    if refused:
        with pytest.raises(UserError, match="with more than 8 bits wrongly.*PNG or TIFF"):
            images.read(file)
    else:
        assert np.all(images.read(file) == 255)


def test_colours_that_are_named_by_numbers(photo, caplog):
    file = pictures.saved(photo[:16, :24], "PNG")
    avif = pictures.saved(photo[:16, :24], "AVIF")
    at = avif.index(b"colrnclx") + 8

    def named(primaries, transfer):
        numbers = bytes([primaries, transfer, 0, 1])
        return (pictures.add_chunks(file, [(b"cICP", numbers)]),
                avif[:at] + bytes([0, primaries, 0, transfer]) + avif[at + 4:])

    for name, transfer in (("PQ", 16), ("HLG", 18)):
        for hdr in named(9, transfer):
            with pytest.raises(UserError, match=f"its {name} samples .* convert it to sRGB"):
                images.read(hdr)
    for same, original in zip(named(1, 13), (file, avif)):
        np.testing.assert_array_equal(images.read(same), images.read(original))
    assert not caplog.text
    images.warn_once.cache_clear()
    for wide, original in zip(named(12, 13), (file, avif)):
        np.testing.assert_array_equal(images.read(wide), images.read(original))
        assert "not sRGB's, are taken for such" in caplog.text
        caplog.clear()
        images.warn_once.cache_clear()


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


@pytest.mark.parametrize("segment", [
    b"\xff\xe0\0\x07JFIF\0", b"\xff\xe1\0\x0cExif\0\0II*\0", b"\xff\xe2\0\x0eICC_PROFILE\0",
    b"\xff\xe2\0\x08MPF\0II", b"\xff\xed\0\x18Photoshop 3.0\0" + b"8BIM" * 2,
    b"\xff\xee\0\x08Adobe\0", b"\xff\xfe\0\x02"])
def test_damaged_notes_of_a_jpeg(photo, segment):
    file = pictures.saved(photo[:40, :50], "JPEG")
    np.testing.assert_array_equal(images.read(file[:2] + segment + file[2:]), images.read(file))
