"""The file format: every malformed file is one clear error."""

import dataclasses
import zlib

import pytest

from common.container import Container
from common.errors import UserError

FILE = Container("0123abcd", 513, 70_000, bytes(range(200)), 0xDEADBEEF)


def unpack(data, max_pixels=10**9):
    return Container.unpack(data, max_pixels)


def with_checksum(body):
    return body + zlib.crc32(body).to_bytes(4, "little")


def test_round_trip():
    assert unpack(FILE.pack()) == FILE
    assert unpack(dataclasses.replace(FILE, stream=b"", height=1, width=1).pack()).stream == b""


def test_files_of_the_first_version_are_read():
    old = dataclasses.replace(FILE, version=1)
    header = b"NT1" + bytes.fromhex("0123abcd") + b"\x81\x04" + b"\xf0\xa2\x04"
    data = header + FILE.stream + FILE.symbols_crc.to_bytes(4, "little")
    assert old.pack() == with_checksum(data)
    assert unpack(old.pack()) == old
    # It differs from one of today in the magic and in what its checksum covers.
    new = b"NT2" + header[3:]
    crc = (FILE.symbols_crc ^ zlib.crc32(new)).to_bytes(4, "little")
    assert FILE.pack() == with_checksum(new + FILE.stream + crc)


@pytest.mark.parametrize("changes", [
    dict(height=512), dict(width=70_001), dict(height=70_000, width=513),
    dict(fingerprint="1123abcd"), dict(version=1)])
def test_a_header_with_which_the_symbols_were_not_written(changes):
    """The same symbols, and a checksum that was made anew: not those that were written."""
    read = unpack(FILE.pack())
    forged = unpack(dataclasses.replace(read, **changes).pack())
    assert forged.stream == read.stream and forged.symbols_crc != read.symbols_crc
    assert unpack(read.pack()) == read


@pytest.mark.parametrize("height, width", [(1, 1), (512, 768), (16_384, 12_000), (1, 2 * 10**8)])
def test_at_most_20_bytes_beyond_the_stream(height, width):
    assert len(Container("0123abcd", height, width, bytes(9999), 0).pack()) - 9999 <= 20


def test_every_truncation_and_every_appended_byte_is_an_error():
    data = FILE.pack()
    for end in range(len(data)):
        with pytest.raises(UserError):
            unpack(data[:end])
    for extra in (b"\0", b"\xff" * 9):
        with pytest.raises(UserError, match="lost, added or changed"):
            unpack(data + extra)


def test_every_flipped_bit_is_an_error():
    data = FILE.pack()
    for position in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises(UserError):
                unpack(bytes(damaged))


def test_claims_are_checked_against_the_limit():
    assert unpack(FILE.pack(), max_pixels=513 * 70_000) == FILE
    with pytest.raises(UserError, match="70000 x 513.*max_pixels allows"):
        unpack(FILE.pack(), max_pixels=513 * 70_000 - 1)


@pytest.mark.parametrize("data, message", [
    (b"", "empty"),
    (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a .ntc file"),
    (b"NT", "version"),
    (b"NT9" + bytes(100), "version.*reads version 1 to 2"),
    (b"NT0" + bytes(100), "version"),
    (with_checksum(b"NT2" + bytes(4) + b"\x00\x01" + bytes(4)), "no pixels"),
    (with_checksum(b"NT2" + bytes(4) + b"\xff" * 30), "not a number"),
    (with_checksum(b"NT2"), "too short"),
    (with_checksum(b"NT2" + bytes(4)), "too short"),
    (with_checksum(b"NT2" + bytes(8)), "not a number"),
])
def test_other_files(data, message):
    with pytest.raises(UserError, match=message):
        unpack(data)
