"""The .ntc file: one image, range-coded.

    "NT2"            magic and version                               3 bytes
    fingerprint      first bytes of the model's                      4
    height, width    of the image, varints                           2 to 5 (up to 200 megapixels)
    stream           the latents
    CRC-32           of the decoded symbols (int32, in the order     4, little-endian
                     of the stream), xor that of the header, all
                     before the stream
    CRC-32           of all bytes before                             4, little-endian

The last checksum is checked before anything is decoded, so that damage is found at once. The one
before it is checked after decoding: it tells if a decoder's arithmetic led to other symbols than
the encoder's, or if the header is not the one that these symbols were written with. Files of
version 1, which are read too, begin with "NT1"; their first checksum is of the symbols only. The
stream's length follows from the file's. Varints are little-endian groups of seven bits, the top bit
of a byte set if more follow. Besides the stream a file spends at most 20 bytes.
"""

import dataclasses
import struct
import zlib
from collections.abc import Iterable

from common.errors import UserError

MAGIC = b"NT2"
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
      symbols_crc: CRC-32 of the symbols that the stream decodes to.
      version: of the format.
      header_crc: CRC-32 of the header that the encoder wrote, by default of this one.
    """

    fingerprint: str
    height: int
    width: int
    stream: bytes
    symbols_crc: int
    version: int = int(MAGIC[-1:])
    header_crc: int | None = dataclasses.field(default=None, compare=False)

    @property
    def _header(self) -> tuple[bytes, str, tuple[int, int]]:
        """Magic, fingerprint, and numbers."""
        magic = MAGIC[:-1] + str(self.version).encode()
        return magic, self.fingerprint, (self.height, self.width)

    def _own_header_crc(self):
        return 0 if self.version == 1 else zlib.crc32(_join(*self._header))

    def pack(self) -> bytes:
        """The file's bytes."""
        header_crc = self._own_header_crc() if self.header_crc is None else self.header_crc
        return seal(*self._header, self.stream, self.symbols_crc ^ header_crc)

    @classmethod
    def unpack(cls, data: bytes, max_pixels: int) -> "Container":
        """Reads a file, and trusts no field before its checksum has been compared.

        Args:
          data: the whole file.
          max_pixels: larger images are refused.

        Raises:
          UserError: not a .ntc file, damaged, truncated, with bytes after its end, or too large.
        """
        fingerprint, rest, crc = unseal(data, MAGIC, SUFFIX)
        (height, width), stream = read_varints(rest, 2)
        if not height or not width:
            raise UserError("the file is malformed (its image has no pixels)")
        if height * width > max_pixels:
            raise UserError(f"the file claims an image of {width} x {height}, more than "
                            f"{max_pixels / 1e6:g} megapixels; max_pixels allows more")
        file = cls(fingerprint, height, width, stream, crc, int(data[2:3]))
        header_crc = file._own_header_crc()
        return dataclasses.replace(file, symbols_crc=crc ^ header_crc, header_crc=header_crc)


def seal(magic: bytes, fingerprint: str, numbers: Iterable[int], stream: bytes,
         symbols_crc: int) -> bytes:
    """A file: magic, fingerprint, varints, stream and both checksums."""
    body = _join(magic, fingerprint, numbers) + stream + _CRC.pack(symbols_crc)
    return body + _CRC.pack(zlib.crc32(body))


def _join(magic, fingerprint, numbers):
    """The header, all before the stream."""
    return b"".join([magic, bytes.fromhex(fingerprint), *map(_varint, numbers)])


def unseal(data: bytes, magic: bytes, suffix: str) -> tuple[str, bytes, int]:
    """The fingerprint in a file, its varints and stream, and the CRC-32 of its symbols.

    Args:
      data: the whole file.
      magic: that of its kind; the last byte is the version, a digit. Earlier ones are read too.
      suffix: what to call its kind.

    Raises:
      UserError: another kind of file, damaged, truncated, or with bytes after its end.
    """
    if not data:
        raise UserError("the file is empty")
    if data[:len(magic) - 1] != magic[:-1]:
        raise UserError(f"not a {suffix} file")
    newest = magic[-1:].decode()
    if not b"1" <= data[len(magic) - 1:len(magic)] <= magic[-1:]:
        raise UserError(f"a {suffix} file of another version, or damaged; this program reads "
                        f"version {newest if newest == '1' else f'1 to {newest}'}")
    body, crc = data[:-_CRC.size], data[-_CRC.size:]
    if crc != _CRC.pack(zlib.crc32(body)):
        raise UserError("the file is damaged: bytes have been lost, added or changed (its "
                        "checksum does not match)")
    if len(body) < len(magic) + _FINGERPRINT_BYTES + _CRC.size:
        raise UserError("the file is malformed (it is too short for a header)")
    content, symbols_crc = body[len(magic):-_CRC.size], body[-_CRC.size:]
    return (content[:_FINGERPRINT_BYTES].hex(), content[_FINGERPRINT_BYTES:],
            *_CRC.unpack(symbols_crc))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def read_varints(data: bytes, count: int) -> tuple[list[int], bytes]:
    """The next `count` numbers, and the bytes after them. Raises UserError for malformed ones."""
    values, position = [], 0
    for _ in range(count):
        value = 0
        for i, byte in enumerate(data[position:position + 5]):
            value |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                break
        else:
            raise UserError("the file is malformed (a size in its header is not a number)")
        values.append(value)
        position += i + 1
    return values, data[position:]
