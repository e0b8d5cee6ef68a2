"""Image files without what is not needed to show them.

Text, thumbnails and other notes shall not decide whether a picture opens: decoders refuse files
for notes that are too long, damaged, or packed too well. Of PNG and JPEG files, pixels go to the
decoder and nothing else; profile, orientation and the number of pictures are taken out here.
"""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from common import colour

_PNG = b"\x89PNG\r\n\x1a\n"
# The beginning of JPEG 2000's codestream, and of the sizes in it.
_CODESTREAM = b"\xff\x4f\xff\x51"
_MAX_PROFILE = 1 << 26  # bytes when unpacked; the largest in use have some megabytes

# Of a JPEG file: frames, tables, restart intervals, number of lines, and the start of a scan.
_JPEG_SCAN = 0xDA
_JPEG_NEEDED = {*range(0xC0, 0xD0), _JPEG_SCAN, 0xDB, 0xDC, 0xDD}
# Two notes say which colours are stored.
_JPEG_COLOURS = {0xE0: b"JFIF\0", 0xEE: b"Adobe"}


def needed(file: BinaryIO, pixels: bool = True) -> tuple[BinaryIO, dict]:
    """The metadata of an image file that are needed.

    Args:
      file: that can seek, at its beginning.
      pixels: False leaves out what follows the headers, so that little is read.

    Returns:
      A file for the decoder, and what else is known: `icc_profile`, `exif` (bytes or None), the
      number of `pictures`, `jp2_bits` (see `_jp2`), and as ITU-T H.273 numbers them the
      `primaries` and the `transfer` of colours. What is missing there, the decoder knows.
    """
    start = file.read(12)
    file.seek(0)
    if start.startswith(_PNG):
        return _png(file, pixels)
    if start.startswith(b"\xff\xd8\xff"):
        return _jpeg(file, pixels)
    if start[4:8] == b"ftyp":  # AVIF: a transformation stands for the orientation that notes name
        notes = rb"(?s)(infe\x02.{7}|infe\x03.{9})(?:Exif|mime)"
        data = file.read()
        return io.BytesIO(re.sub(notes, rb"\1skip", data)), _nclx(data)
    if start[4:8] == b"jP  " or start.startswith(_CODESTREAM):
        return file, _jp2(file)
    return file, {}


def orientation(exif: bytes | None) -> int:
    """The tag of that name, 1 to 8, 1 if there is none. Nothing else of `exif` is looked at."""
    tiff = re.sub(rb"^(Exif\0\0)+", b"", exif or b"")
    try:
        order = {b"II": "<", b"MM": ">"}[tiff[:2]]
        [directory] = struct.unpack_from(order + "I", tiff, 4)
        [count] = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, entry)
            if tag == 0x0112:
                [value] = struct.unpack_from(order + ("I" if kind == 4 else "H"), tiff, entry + 8)
                return value if 1 <= value <= 8 else 1
    except (KeyError, struct.error):  # damaged
        pass
    return 1


def _png(file: BinaryIO, pixels: bool) -> tuple[BinaryIO, dict]:
    out, profile, gamma, exif, colours = io.BytesIO(), None, None, None, {}
    out.write(file.read(8))
    frames, default_image = 0, 0
    for kind, head, body in _png_chunks(file):
        if kind == b"IDAT":
            default_image = default_image or frames == 0
            if not pixels:
                out.write(head)
                break
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            out.write(head + body)
        elif kind == b"iCCP":
            profile = _unpacked_profile(body[:-4])
        elif kind in (b"gAMA", b"sRGB"):  # of which the second has the last word
            gamma = kind == b"gAMA" and gamma is None and body[:4]
        elif kind == b"cICP" and len(body) >= 6:
            colours = {"primaries": body[0], "transfer": body[1]}
        elif kind == b"eXIf":
            exif = body[:-4]
        elif kind == b"fcTL":  # of an animation; the image may be its first frame, or none
            frames += 1
    out.seek(0)
    if profile is None and gamma:
        profile = colour.gamma_profile(1e5 / max(1, int.from_bytes(gamma, "big")))
    return out, {"icc_profile": profile, "exif": exif, **colours,
                 "pictures": frames + default_image if frames else 1}


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Name, head, and body with checksum of all chunks up to the end; the last may be cut off."""
    begin = file.tell()
    left, kind = file.seek(0, io.SEEK_END) - begin, None
    file.seek(begin)
    while kind != b"IEND" and len(head := file.read(8)) == 8:
        left -= 8
        kind, length = head[4:], min(left, int.from_bytes(head[:4], "big") + 4)
        yield kind, head, file.read(length)
        left -= length


def _unpacked_profile(chunk: bytes) -> bytes | None:
    unpacker = zlib.decompressobj()
    try:
        profile = unpacker.decompress(chunk[chunk.index(b"\0") + 2:], _MAX_PROFILE)
    except (ValueError, zlib.error):
        return None
    return profile if unpacker.eof else None


def _jpeg(file: BinaryIO, pixels: bool) -> tuple[BinaryIO, dict]:
    out, profile, exif, pictures, gain_map = io.BytesIO(), {}, None, 1, False
    out.write(file.read(2))
    marker = None
    while marker != _JPEG_SCAN and (marker := _jpeg_marker(file)):
        head = file.read(2)
        body = file.read(max(0, int.from_bytes(head, "big") - 2))
        colours = marker in _JPEG_COLOURS and body.startswith(_JPEG_COLOURS[marker])
        if marker in _JPEG_NEEDED or (colours and len(body) >= 12):
            out.write(bytes([0xFF, marker]) + head + body)
        elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif = exif or body
        elif marker == 0xE1 and b"hdrgm:Version" in body:
            gain_map = True  # the second picture is what screens with more contrast add
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
            profile[body[12:13]] = body[14:]
        elif marker == 0xE2 and body.startswith(b"MPF\0"):
            pictures = _multi_picture(body[4:])
    if pixels:
        out.write(file.read())
    out.seek(0)
    profile = b"".join(profile[number] for number in sorted(profile))
    return out, {"icc_profile": profile or None, "exif": exif,
                 "pictures": 1 if gain_map else pictures}


def _jpeg_marker(file: BinaryIO) -> int | None:
    """The next marker with a length; None at the end."""
    while byte := file.read(1):
        if byte != b"\xff":
            continue  # padding, as decoders treat it
        while byte == b"\xff":
            byte = file.read(1)
        if byte and byte[0] not in (0x00, 0x01, *range(0xD0, 0xDA)):
            return byte[0]
    return None


def _nclx(data: bytes) -> dict[str, int]:
    """The numbers of an AVIF file's colours, if it names them rather than a profile."""
    at = data.find(b"colrnclx")
    numbers = [int.from_bytes(data[at + i:at + i + 2], "big") for i in (8, 10)]
    return dict(zip(("primaries", "transfer"), numbers)) if at >= 0 else {}


def _multi_picture(index: bytes) -> int:
    """How many pictures the index of an MPO file names."""
    found = re.search(rb"(?s)\x01\xb0\x04\0\x01\0\0\0(....)", index)  # little endian
    if found:
        return max(1, int.from_bytes(found[1], "little"))
    found = re.search(rb"(?s)\xb0\x01\0\x04\0\0\0\x01(....)", index)
    return max(1, int.from_bytes(found[1], "big")) if found else 1


def _jp2(file: BinaryIO) -> dict:
    """The profile of a JPEG 2000 file, and the most bits that a channel has."""
    data = file.read(_MAX_PROFILE)
    file.seek(0)
    boxes, _, stream = data.partition(_CODESTREAM)
    at = boxes.find(b"colr\x02")  # with a profile inside
    profile = boxes[at + 7:at - 4 + int.from_bytes(boxes[at - 4:at], "big")] if at >= 4 else None
    channels = int.from_bytes(stream[36:38], "big")
    bits = max(((size & 0x7F) + 1 for size in stream[38:38 + 3 * channels:3]), default=8)
    return {"icc_profile": profile, "jp2_bits": bits}
