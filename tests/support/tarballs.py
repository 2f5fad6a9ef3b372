"""Tar archives put together by hand, byte by byte, so that anything can be wrong with them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import NamedTuple

from chunkstore.archive.reading.decompression import open_blocks
from chunkstore.archive.reading.members import Member, TarReader
from chunkstore.archive.reading.source import Source

POSIX = b"ustar\x0000"
GNU = b"ustar  \x00"
END = bytes(1024)


def octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def base256(value: int, width: int) -> bytes:
    """As GNU tar writes it."""
    if value < 0:
        return (value & (1 << 8 * width) - 1).to_bytes(width, "big")
    return bytes([0x80]) + value.to_bytes(width - 1, "big")


def block(
    name: bytes = b"./file",
    *,
    flavour: bytes = b"0",
    mode: bytes | int = 0o644,
    uid: bytes | int = 0,
    gid: bytes | int = 0,
    size: bytes | int = 0,
    mtime: bytes | int = 1_700_000_000,
    target: bytes = b"",
    magic: bytes = POSIX,
    major: bytes | int = 0,
    minor: bytes | int = 0,
    prefix: bytes = b"",
    tail: bytes = b"",
    checksum: bytes | None = None,
    signed: bool = False,
) -> bytes:
    """A header block. `tail` stands in place of all from the prefix on."""

    def field(value: bytes | int, width: int) -> bytes:
        return value.ljust(width, b"\0") if isinstance(value, bytes) else octal(value, width)

    parts = [
        name.ljust(100, b"\0"),
        *(field(value, 8) for value in (mode, uid, gid)),
        *(field(value, 12) for value in (size, mtime)),
        b" " * 8,
        flavour,
        target.ljust(100, b"\0"),
        magic.ljust(8, b"\0"),
        bytes(64),
        field(major, 8),
        field(minor, 8),
        (tail or prefix).ljust(167, b"\0"),
    ]
    data = b"".join(parts)
    assert len(data) == 512, len(data)
    total = sum(byte - 256 if signed and byte > 127 else byte for byte in data)
    stated = b"%06o\0 " % total if checksum is None else checksum
    return data[:148] + stated + data[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def record(keyword: bytes, value: bytes) -> bytes:
    rest = len(keyword) + len(value) + 3
    length = rest + len(str(rest))
    return b"%d %b=%b\n" % (rest + len(str(length)), keyword, value)


def pax(*pairs: tuple[bytes, bytes], flavour: bytes = b"x", raw: bytes | None = None) -> bytes:
    """An extended header."""
    data = b"".join(record(*pair) for pair in pairs) if raw is None else raw
    return block(b"PaxHeaders/x", flavour=flavour, size=len(data)) + padded(data)


def gnu_long(name: bytes, flavour: bytes = b"L") -> bytes:
    """A member that holds a long name, or with `K` a long target."""
    data = name + b"\0"
    return block(b"././@LongLink", flavour=flavour, size=len(data), magic=GNU) + padded(data)


def file(name: bytes, data: bytes = b"", **fields: object) -> bytes:
    return block(name, size=len(data), **fields) + padded(data)  # type: ignore[arg-type]


def folder(name: bytes = b"./", **fields: object) -> bytes:
    return block(name, flavour=b"5", **{"mode": 0o755, **fields})  # type: ignore[arg-type]


def symlink(name: bytes, target: bytes) -> bytes:
    return block(name, flavour=b"2", target=target, mode=0o777)


def hardlink(name: bytes, target: bytes) -> bytes:
    return block(name, flavour=b"1", target=target)


class Read(NamedTuple):
    """A member, its content with the holes filled, and where the runs of data lie."""

    member: Member
    content: bytes
    runs: list[tuple[int, int]]


def reader_of(data: bytes, name: str = "test.tar") -> TarReader:
    return TarReader(Source(open_blocks(io.BytesIO(data), name), name))


def read(data: bytes | Iterable[bytes]) -> list[Read]:
    """All members of an archive, with their content."""
    reader = reader_of(data if isinstance(data, bytes) else b"".join(data))
    found = []
    for member in reader:
        content = bytearray(min(member.size, 1 << 24))
        runs = []
        for offset, length, parts in reader.runs():
            joined = b"".join(parts)
            assert len(joined) == length
            content[offset : offset + length] = joined
            runs.append((offset, length))
        found.append(Read(member, bytes(content), runs))
    return found
