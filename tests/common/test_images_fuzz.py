"""Damaged image files of every format: an image or a `UserError`, soon, and nothing else."""

import functools
import resource
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from common import image_formats as formats
from common import images
from common.errors import UserError
from tests.helpers import pictures

WIDTH, HEIGHT = 24, 20
MAX_PIXELS = 1_000_000
SECONDS = 5.0  # for one file of a few kilobytes; the slowest take a hundredth of that
EXTREMES = (b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\xff\xff",
            b"\xff\xff\0\0", b"\0\1\0\0", b"\0\0\0\1", b"\x80\0\0\0")


def plain():
    """A picture with shapes and noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([10 * x, 12 * y, 255 * (x > y)], -1) // 2 + rng.integers(0, 30, y.shape + (1,))
    return Image.fromarray(image.astype(np.uint8))


def by_pillow(name, mode="RGB", **options):
    return pictures.saved(plain().convert(mode), name, **options)


def animation(name, **options):
    frames = [plain().rotate(angle) for angle in (0, 90, 180)]
    return pictures.saved(frames[0], name, save_all=True, append_images=frames[1:], **options)


def deep_png(interlaced=False):
    rows = np.asarray(plain()).astype(np.uint16) * 257
    key = (b"tRNS", struct.pack(">3H", *rows[0, 0]))
    return pictures.png((WIDTH, HEIGHT), 16, 2, [row.astype(">u2").tobytes() for row in rows],
                        [(b"iCCP", b"x\0\0" + zlib.compress(pictures.grey_profile(1.0))), key])


def planar_tiff():
    samples = np.asarray(plain()).transpose(2, 0, 1).astype("<u2") * 257
    size = samples[0].nbytes
    tags = pictures.tiff_tags(WIDTH, HEIGHT, (16,) * 3, 2, _284=(3, [2]), _279=(4, [size] * 3),
                              _273=(4, [8, 8 + size, 8 + 2 * size]), _274=(3, [6]))
    return pictures.tiff([(tags, samples.tobytes())])


def tiff_with_pages_below():
    page = (pictures.tiff_tags(4, 4), bytes(16))
    small = (pictures.tiff_tags(2, 2, _254=(4, [1])), bytes(4))
    return pictures.tiff([small, page, small], sub=[small])


def cursor():
    file = bytearray(by_pillow("ICO", sizes=[(WIDTH, HEIGHT)], bitmap_format="bmp"))
    file[2] = 2
    return bytes(file)


def icns():
    inner = pictures.saved(plain().resize((16, 16)), "PNG")
    return b"icns" + struct.pack(">I", len(inner) + 16) + b"icp4" + struct.pack(
        ">I", len(inner) + 8) + inner


def photoshop():
    planes = np.asarray(plain()).transpose(2, 0, 1).tobytes()
    return (b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, HEIGHT, WIDTH, 8, 3) + bytes(12)
            + struct.pack(">H", 0) + planes)


def flic():
    pixels = plain().convert("P").tobytes()
    frame = struct.pack("<IH", len(pixels) + 6, 16) + pixels
    frame = struct.pack("<IHH8x", len(frame) + 16, 0xF1FA, 1) + frame
    return struct.pack("<IHHHHHH", 128 + len(frame), 0xAF12, 1, WIDTH, HEIGHT, 8, 3).ljust(
        128, b"\0") + frame


def xpm():
    rows = ",\n".join('"' + "".join("ab"[(x + y) % 2] for x in range(WIDTH)) + '"'
                      for y in range(HEIGHT))
    return (f'/* XPM */\nstatic char *x[] = {{\n"{WIDTH} {HEIGHT} 2 1",\n"a c #102030",\n'
            f'"b c None",\n{rows}\n}};\n').encode()



RGB = plain().tobytes()
# A file or more of each format.
SEEDS = {
    "AVIF": [functools.partial(by_pillow, "AVIF"), functools.partial(by_pillow, "AVIF", "RGBA"),
             functools.partial(animation, "AVIF")],
    "BLP": [functools.partial(by_pillow, "BLP", "P")],
    "BMP": [functools.partial(by_pillow, "BMP", mode) for mode in ("RGB", "P", "1", "RGBA")],
    "CUR": [cursor],
    "DCX": [lambda: struct.pack("<III", 0x3ADE68B1, 12, 0) + by_pillow("PCX")],
    "DDS": [functools.partial(by_pillow, "DDS", "RGBA"),
            functools.partial(by_pillow, "DDS", "RGBA", pixel_format="DXT5")],
    "DIB": [functools.partial(by_pillow, "DIB")],
    "FLI": [flic],
    "FTEX": [lambda: b"FTEX" + struct.pack("<iiiiiiii", 1, WIDTH, HEIGHT, 1, 1, 1, 36, 0)
             + struct.pack("<i", len(RGB)) + RGB],
    "GBR": [lambda: struct.pack(">IIIII", 24, 1, WIDTH, HEIGHT, 1) + b"abc\0"
            + plain().convert("L").tobytes()],
    "GIF": [functools.partial(by_pillow, "GIF"), functools.partial(animation, "GIF")],
    "ICNS": [icns],
    "ICO": [functools.partial(by_pillow, "ICO", "RGBA", sizes=[(WIDTH, HEIGHT)]),
            functools.partial(by_pillow, "ICO", "RGBA", bitmap_format="bmp")],
    "IM": [functools.partial(by_pillow, "IM"), functools.partial(by_pillow, "IM", "P")],
    "JPEG": [functools.partial(by_pillow, "JPEG", exif=pictures.exif(6),
                               icc_profile=pictures.grey_profile(1.0)),
             functools.partial(by_pillow, "JPEG", "CMYK"),
             functools.partial(by_pillow, "JPEG", "L", progressive=True),
             functools.partial(animation, "MPO")],
    "JPEG2000": [functools.partial(by_pillow, "JPEG2000"),
                 functools.partial(by_pillow, "JPEG2000", "LA", no_jp2=True)],
    "MSP": [functools.partial(by_pillow, "MSP", "1")],
    "PCX": [functools.partial(by_pillow, "PCX"), functools.partial(by_pillow, "PCX", "P")],
    "PIXAR": [lambda: b"\x80\xe8\0\0".ljust(416, b"\0")
              + struct.pack("<HH4xHH", HEIGHT, WIDTH, 14, 2).ljust(608, b"\0") + RGB],
    "PNG": [functools.partial(by_pillow, "PNG", "LA", exif=pictures.exif(6),
                              icc_profile=pictures.grey_profile(1.0)),
            functools.partial(by_pillow, "PNG", "P", transparency=3), deep_png,
            functools.partial(animation, "PNG")],
    "PPM": [functools.partial(by_pillow, "PPM"),
            lambda: b"P3 24 20 1000\n" + b" ".join(b"%d" % value for value in RGB),
            functools.partial(by_pillow, "PPM", "1"),
            lambda: b"P5 12 20 65535\n" + RGB[:480]],
    "PSD": [photoshop],
    "QOI": [functools.partial(by_pillow, "QOI"), functools.partial(by_pillow, "QOI", "RGBA")],
    "SGI": [functools.partial(by_pillow, "SGI"),
            lambda: struct.pack(">HBBHHHH", 474, 0, 2, 3, WIDTH, HEIGHT, 3).ljust(512, b"\0")
            + 2 * RGB],
    "SUN": [lambda: struct.pack(">8I", 0x59A66A95, WIDTH, HEIGHT, 24, len(RGB), 1, 0, 0) + RGB],
    "TGA": [functools.partial(by_pillow, "TGA"),
            functools.partial(by_pillow, "TGA", "RGBA", compression="tga_rle")],
    "TIFF": [*(functools.partial(by_pillow, "TIFF", compression=compression) for compression in (
        None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd")),
        functools.partial(by_pillow, "TIFF", "1", compression="group4"), planar_tiff,
        tiff_with_pages_below, functools.partial(animation, "TIFF")],
    "WEBP": [functools.partial(by_pillow, "WEBP"),
             functools.partial(by_pillow, "WEBP", "RGBA", lossless=True, exif=pictures.exif(6)),
             functools.partial(animation, "WEBP")],
    "XBM": [functools.partial(by_pillow, "XBM", "1")],
    "XPM": [xpm],
}


def mutated(rng, file, other):
    """A damaged copy: bytes and numbers changed, cut off, parts left out, doubled or of another."""
    file = bytearray(file)
    kind = rng.integers(6)
    # Most of what decoders believe stands at the beginning.
    begin = int(len(file) * rng.random() ** 3)
    end = min(len(file), begin + 1 + int(rng.exponential(30)))
    if kind == 0:
        for at in rng.integers(0, len(file), rng.integers(1, 9)):
            file[at] ^= 1 << rng.integers(8)
    elif kind == 1:
        file[begin:begin + 4] = EXTREMES[rng.integers(len(EXTREMES))]
    elif kind == 2:
        file[begin:begin + 1] = bytes([rng.integers(256)])
    elif kind == 3:
        del file[begin:]
    elif kind == 4:
        file[begin:end] = b"" if rng.random() < 0.5 else 2 * file[begin:end]
    else:
        at = int(len(other) * rng.random())
        file[begin:end] = other[at:at + end - begin]
    return bytes(file)


def fix_checksums(file):
    """A PNG file whose chunks have right checksums, so that more of it is believed."""
    fixed, at = bytearray(file), 8
    while at + 12 <= len(file):
        [length] = struct.unpack_from(">I", file, at)
        if at + 12 + length > len(file):
            break
        body = bytes(file[at + 4:at + 8 + length])
        struct.pack_into(">I", fixed, at + 8 + length, zlib.crc32(body))
        at += 12 + length
    return bytes(fixed)


def fuzz(name, number, tmp_path):
    """Reads damaged files of a format, and returns how many of them opened."""
    rng = np.random.default_rng(number)
    seeds = [seed() for seed in SEEDS[name]]
    path = tmp_path / f"damaged.{name.lower()}"
    opened = 0
    for i in range(number):
        file = mutated(rng, seeds[i % len(seeds)], seeds[rng.integers(len(seeds))])
        file = fix_checksums(file) if name == "PNG" and i % 2 else file
        begin = time.perf_counter()
        try:
            if i % 8:
                image = images.read(file, MAX_PIXELS)
            else:
                path.write_bytes(file)
                image = images.read(path, MAX_PIXELS)
                assert images.size(path) == image.shape[:2]
        except UserError as error:
            assert "\n" not in str(error)
        else:
            opened += 1
            assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
            assert 0 < image.shape[0] * image.shape[1] <= MAX_PIXELS
        assert time.perf_counter() - begin < SECONDS
    return opened


def test_there_are_files_of_every_format():
    assert set(SEEDS) == set(formats.FORMATS)


@pytest.mark.parametrize("name", SEEDS)
def test_whole_files_are_read(name):
    for seed in SEEDS[name]:
        file = seed()
        read = images.read(file)
        assert max(read.shape[:2]) >= 4


@pytest.mark.filterwarnings("ignore")  # as in programs, says common/cli.py
@pytest.mark.parametrize("name", SEEDS)
def test_damaged_files(name, tmp_path, capfd):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert fuzz(name, 100 * (1 + len(SEEDS[name])), tmp_path) > 0
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300_000  # KiB; a megapixel takes less than a tenth of that
    assert name == "TIFF" or not capfd.readouterr().err  # libtiff says what it found by itself


@pytest.mark.parametrize("name, file", [
    ("PNG", lambda: pictures.png((60000, 60000), 8, 2, [b"\0"])),
    ("JPEG", lambda: by_pillow("JPEG").replace(
        struct.pack(">HH", HEIGHT, WIDTH), struct.pack(">HH", 65500, 65500), 1)),
    ("BMP", lambda: by_pillow("BMP").replace(
        struct.pack("<II", WIDTH, HEIGHT), struct.pack("<II", 60000, 60000), 1)),
    ("GIF", lambda: by_pillow("GIF").replace(
        struct.pack("<HH", WIDTH, HEIGHT), struct.pack("<HH", 65535, 65535), 1)),
    ("QOI", lambda: by_pillow("QOI").replace(
        struct.pack(">II", WIDTH, HEIGHT), struct.pack(">II", 60000, 60000), 1)),
    ("TIFF", lambda: pictures.tiff([(pictures.tiff_tags(60000, 60000), bytes(16))])),
    ("PPM", lambda: b"P6 60000 60000 255\n"),
    ("PSD", lambda: photoshop().replace(
        struct.pack(">II", HEIGHT, WIDTH), struct.pack(">II", 30000, 30000), 1)),
])
def test_claimed_sides_are_refused_before_anything_is_decoded(name, file):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="pixels"):
        images.read(file())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
