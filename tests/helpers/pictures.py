"""Image files that Pillow does not write, for tests."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def png(size, depth, kind, rows, chunks=()):
    """A PNG file of a given bit depth and colour type.

    Args:
      size: width and height.
      rows: bytes of each row.
      chunks: (name, content), behind the header.
    """
    header = struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    half = len(pixels) // 2
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in (
        (b"IHDR", header), *chunks, (b"IDAT", pixels[:half]), (b"IDAT", pixels[half:]),
        (b"IEND", b"")))


def chunk(name, content, checksum=None):
    return struct.pack(">I", len(content)) + name + content + struct.pack(
        ">I", zlib.crc32(name + content) if checksum is None else checksum)


def add_chunks(file, chunks, after=()):
    """A PNG file with more chunks behind its header, and before its end."""
    extra = b"".join(chunk(*c) for c in chunks)
    return file[:33] + extra + file[33:-12] + b"".join(chunk(*c) for c in after) + file[-12:]


def tiff(pages, order="<", sub=()):
    """A TIFF file.

    Args:
      pages: list of ({tag: (type, values)}, pixels); one strip each.
      order: of bytes.
      sub: pages below the first.
    """
    out = io.BytesIO()
    out.write((b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 0))
    offsets = [_directory(out, order, *page) for page in sub]
    link = 4
    for i, (tags, pixels) in enumerate(pages):
        if i == 0 and offsets:
            tags = {**tags, 330: (4, offsets)}
        position = _directory(out, order, tags, pixels)
        out.seek(link)
        out.write(struct.pack(order + "I", position))
        out.seek(position)
        [count] = struct.unpack(order + "H", out.read(2))
        link = position + 2 + 12 * count
        out.seek(0, io.SEEK_END)
    return out.getvalue()


def _directory(out, order, tags, pixels):
    at = out.tell()
    out.write(pixels + b"\0" * (len(pixels) % 2))
    tags = {273: (4, [at]), 279: (4, [len(pixels)]), 259: (3, [1]), 277: (3, [1]), **tags}
    entries = b""
    for tag, (kind, values) in sorted(tags.items()):
        content = values if isinstance(values, bytes) else struct.pack(
            f"{order}{len(values)}{'_BBHI_____l'[kind]}", *values)
        count = len(values) // (8 if kind == 10 else 1)
        if len(content) > 4:
            position = out.tell()
            out.write(content + b"\0" * (len(content) % 2))
            content = struct.pack(order + "I", position)
        entries += struct.pack(order + "HHI", tag, kind, count) + content.ljust(4, b"\0")
    position = out.tell()
    out.write(struct.pack(order + "H", len(tags)) + entries + bytes(4))
    return position


def tiff_tags(width, height, bits=(8,), photometric=1, **more):
    """Tags of a page."""
    return {256: (4, [width]), 257: (4, [height]), 258: (3, list(bits)), 262: (3, [photometric]),
            277: (3, [len(bits)]), 278: (4, [height]),
            **{int(tag[1:]): value for tag, value in more.items()}}


def grey_profile(gamma):
    """An ICC profile of greys of a gamma."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", [
        (b"kTRC", b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2))])


def cmyk_profile():
    """An ICC profile of inks: full black alone is grey of half the lightness of paper."""
    ramp = bytes(range(256))
    lab = b"".join(bytes([lightness, 128, 128]) for lightness in (255, 128, *14 * (0,)))
    table = b"mft1" + bytes(4) + struct.pack(">BBBx", 4, 3, 2) + struct.pack(
        ">9i", *(65536 * (i % 4 == 0) for i in range(9))) + 4 * ramp + lab + 3 * ramp
    return _profile(b"prtr", b"CMYK", b"Lab ", [(b"A2B0", table)])


def _profile(device, space, connection, tags):
    white = struct.pack(">3i", 63190, 65536, 54061)  # D50
    tags = [
        (b"wtpt", b"XYZ " + bytes(4) + white),
        (b"desc", b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(82)),
        (b"cprt", b"text" + bytes(4) + b"x\0\0\0"), *tags]
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags:
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(content))
        body += content + b"\0" * (-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s12x4s28x", 128 + len(table) + len(body), b"lcms", 0x02100000,
                       device, space, connection, b"acsp") + white
    return head.ljust(128, b"\0") + table + body


def srgb(linear):
    """What sRGB makes of light 0..1, in 0..255."""
    linear = np.asarray(linear, float)
    return 255 * np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)


def exif(orientation=1):
    """EXIF data with an orientation and a signed rational that Pillow cannot write back."""
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    entries += struct.pack("<HHII", 0x011A, 10, 1, 8 + 2 + 24 + 4)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<iii", 0, -1, 0)


def saved(image, name, **options):
    """The bytes of an image file."""
    buffer = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(buffer, name, **options)
    return buffer.getvalue()
