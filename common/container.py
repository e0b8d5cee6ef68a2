"""The .ntc file: one image, range-coded.

    "NT1"            magic and version                        3 bytes
    fingerprint      first bytes of the model's               4
    height, width    of the image                             2 to 6, varints
    length           of the stream                            1 to 4, varint
    stream           the latents
    CRC-32           of all before and of the decoded symbols 4, little-endian

Varints are little-endian groups of seven bits, the top bit of a byte set if more follow. Besides
the stream a file spends at most 20 bytes (on streams below 256 MiB and images below 200
megapixels, whose sides cannot both need three bytes).
"""

import dataclasses
import struct
import zlib

from common.cli import UserError

MAGIC = b"NT1"
SUFFIX = ".ntc"
_FINGERPRINT_BYTES = 4
_CRC = struct.Struct("<I")


@dataclasses.dataclass(frozen=True)
class Container:
    """The fields of a file.

    Attributes:
      fingerprint: first 8 hexadecimal digits of the fingerprint of the model that wrote it.
      height, width: of the image, in pixels.
      stream: range-coded latents.
    """

    fingerprint: str
    height: int
    width: int
    stream: bytes

    def pack(self, symbols_crc: int) -> bytes:
        """The file's bytes; `symbols_crc` is the CRC-32 of the coded symbols."""
        body = b"".join([
            MAGIC, bytes.fromhex(self.fingerprint), _varint(self.height), _varint(self.width),
            _varint(len(self.stream)), self.stream])
        return body + _CRC.pack(_crc(body, symbols_crc))


def unpack(data: bytes, max_pixels: int) -> tuple[Container, "Check"]:
    """Reads a file's fields, checking sizes before anything depends on them.

    Args:
      data: the whole file.
      max_pixels: larger images are refused.

    Returns:
      The fields, and a check to call with the CRC-32 of the decoded symbols: the fields cannot be
      trusted before it has passed.

    Raises:
      UserError: not a .ntc file, truncated, with bytes after its end, or too large.
    """
    if not data:
        raise UserError("the file is empty")
    if data[:2] != MAGIC[:2]:
        raise UserError("not a .ntc file")
    if data[:3] != MAGIC:
        raise UserError("a .ntc file of another version, or damaged; this program reads version "
                        f"{MAGIC[2:].decode()}")
    position = len(MAGIC) + _FINGERPRINT_BYTES
    fingerprint = data[len(MAGIC):position].hex()
    sizes = []
    for _ in range(3):
        size, position = _read_varint(data, position)
        sizes.append(size)
    height, width, length = sizes
    if not height or not width:
        raise UserError("the file is damaged (its image has no pixels)")
    if height * width > max_pixels:
        raise UserError(f"the file claims an image of {width} x {height}, more than "
                        f"{max_pixels / 1e6:g} megapixels; --max_pixels allows more")
    excess = len(data) - (position + length + _CRC.size)
    if excess:
        state = f"has {excess} bytes after its end" if excess > 0 else f"lacks {-excess} bytes"
        raise UserError(f"the file is damaged (it {state})")
    stream, body = data[position:position + length], data[:-_CRC.size]
    stored, = _CRC.unpack(data[-_CRC.size:])
    return Container(fingerprint, height, width, stream), Check(body, stored)


@dataclasses.dataclass(frozen=True)
class Check:
    """Compares a decoded file with its checksum."""

    body: bytes
    stored: int

    def __call__(self, symbols_crc: int) -> None:
        """Raises UserError unless header, stream and the decoded symbols are what was written."""
        if _crc(self.body, symbols_crc) != self.stored:
            raise UserError("the file is damaged, or was written on a machine whose arithmetic "
                            "differs (its checksum does not match)")


def _crc(body: bytes, symbols_crc: int) -> int:
    return zlib.crc32(_CRC.pack(symbols_crc), zlib.crc32(body))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for i in range(5):
        if position + i >= len(data):
            raise UserError("the file is damaged (it ends within its header)")
        byte = data[position + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, position + i + 1
    raise UserError("the file is damaged (a size in its header is not a number)")
