"""A tar header block as it stands: its fields, their numbers, its checksum. Pure.

Understood are the blocks of Unix v7, of POSIX (ustar), of star and of GNU tar, old and new. See
`archive.header` for the layout. Promises: a block whose checksum is wrong, or a number that is
none, is `Corrupt`; nothing is guessed. Leaves what a member means to `members`.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from chunkstore.errors import Corrupt

_LAYOUT: Final = struct.Struct("100s8s8s8s12s12s8sc100s8s64x8s8s155s12x")
_CHECKSUM: Final = slice(148, 156)
_SPACES: Final = 8 * ord(" ")
_BLANK: Final = b" \0"
_OCTAL: Final = frozenset(b"01234567")

POSIX: Final = b"ustar\0"
GNU: Final = b"ustar  \0"


class Header(NamedTuple):
    """The fields of a header block. Owners, devices and modes are numbers, names are cut at NUL.

    `magic` is `POSIX`, `GNU`, or empty for blocks older than both. `mtime` is in seconds. `major`
    and `minor` are the raw fields: only devices have something sensible there.
    """

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    flavour: bytes
    target: bytes
    magic: bytes
    major: bytes
    minor: bytes


def parse(block: bytes, where: str) -> Header:
    """Read a block of 512 bytes. Raises `Corrupt` naming `where`."""
    fields = _LAYOUT.unpack(block)
    name, mode, uid, gid, size, mtime, checksum, flavour, target, mark, major, minor, prefix = (
        fields
    )
    total = sum(block) - sum(block[_CHECKSUM]) + _SPACES
    stated = _octal(checksum)
    if stated != total and stated != _signed(block):
        raise Corrupt(f"{where}: no tar header here: its checksum is wrong", where=where)
    name = name.partition(b"\0")[0]
    magic = b""
    if mark.startswith(POSIX):
        magic = POSIX
        # star keeps times behind a shorter prefix, which then ends with a NUL before them.
        prefix = prefix.partition(b"\0")[0]
        if prefix:
            name = prefix + b"/" + name
    elif mark == GNU:
        magic = GNU
    return Header(
        name,
        number(mode, where) & 0o7777,
        number(uid, where),
        number(gid, where),
        number(size, where),
        number(mtime, where),
        flavour,
        target.partition(b"\0")[0],
        magic,
        major,
        minor,
    )


def _signed(block: bytes) -> int:
    """The checksum as some old programs made it: of bytes with a sign."""
    high = sum(byte > 127 for byte in block) - sum(byte > 127 for byte in block[_CHECKSUM])
    return sum(block) - sum(block[_CHECKSUM]) + _SPACES - 256 * high


def _octal(field: bytes) -> int | None:
    """Octal digits with blanks around them; None for anything else. A blank field is 0."""
    digits = field.lstrip(b" ").partition(b"\0")[0].partition(b" ")[0]
    if not digits:
        return 0 if not field.strip(_BLANK) else None
    return int(digits, 8) if _OCTAL.issuperset(digits) else None


def number(field: bytes, where: str) -> int:
    """A number field: octal, or base-256 in two's complement with the top bit set.

    Raises `Corrupt`.
    """
    if field[0] >= 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & (1 << bits) - 1
        return value - (1 << bits) if value >> bits - 1 else value
    found = _octal(field)
    if found is None:
        raise Corrupt(f"{where}: {field!r} is no number of a tar header", where=where)
    return found
