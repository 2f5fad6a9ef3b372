"""PAX extended headers: keywords and values for the next member, or for all that follow. Pure.

A record is its own length in decimal, a space, a keyword, "=", the value, and a newline. Values
are bytes; whatever character set they claim, names are kept as they stand.

Promises: a record that is not exactly that is `Corrupt`; time is linear in the header's length,
which the caller bounds. Keywords nobody here knows are passed over, as POSIX wants it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from chunkstore.errors import Corrupt, Unsupported

_LENGTH_DIGITS: Final = 20
_NUMBER: Final = re.compile(rb"[0-9]{1,20}")
_TIME: Final = re.compile(rb"(-?)([0-9]{1,20})(?:\.([0-9]*))?")
_BILLION: Final = 10**9

SPARSE_OFFSET: Final = b"GNU.sparse.offset"
SPARSE_LENGTH: Final = b"GNU.sparse.numbytes"
SPARSE_MAP: Final = b"GNU.sparse.map"

Records = dict[bytes, bytes]

_OF_ONE_MEMBER: Final = (b"path", b"linkpath", b"size", b"GNU.sparse.", b"GNU.dumpdir")
"""What can be true of one member only, or else all were to be the same file."""
_REFUSED: Final = {
    b"GNU.volume.offset": "goes on from another volume: put the volumes together first",
    b"SCHILY.realsize": "has holes as star writes them: make the archive with GNU tar or bsdtar",
}
_MAX_GLOBAL: Final = 1024 * 1024


def records(data: bytes, where: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield (keyword, value) in order. Raises `Corrupt` naming `where`."""
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + _LENGTH_DIGITS + 1)
        digits = data[at:space] if space >= 0 else b""
        stop = at + int(digits) if digits.isdigit() else 0
        equals = data.find(b"=", space + 1, stop)
        if not space < equals - 1 or stop > len(data) or data[stop - 1] != ord("\n"):
            raise Corrupt(f"{where}: bad record in a PAX header", where=where)
        yield data[space + 1 : equals], data[equals + 1 : stop - 1]
        at = stop


def local(data: bytes, where: str) -> Records:
    """The records of a header for one member. Raises `Corrupt`, `Unsupported`.

    GNU's sparse format 0.0 repeats two keywords; its pairs are put together as the map that
    format 0.1 has.
    """
    found: Records = {}
    pairs: list[bytes] = []
    for keyword, value in records(data, where):
        if keyword in (SPARSE_OFFSET, SPARSE_LENGTH):
            if (keyword == SPARSE_LENGTH) != bool(len(pairs) % 2):
                raise Corrupt(f"{where}: half a segment in a map of holes", where=where)
            pairs.append(value)
        elif keyword in _REFUSED:
            raise Unsupported(f"{where}: {_REFUSED[keyword]}", where=where)
        else:
            found[keyword] = value
    if pairs:
        found[SPARSE_MAP] = b",".join(pairs)
    return found


def merge_global(known: Records, data: bytes, where: str) -> Records:
    """`known` with the records of a global header. Raises `Corrupt`, `Unsupported`."""
    merged = dict(known)
    for keyword, value in records(data, where):
        if keyword.startswith(_OF_ONE_MEMBER) or keyword in _REFUSED:
            raise Unsupported(
                f"{where}: a global header gives every member the same {keyword[:80]!r}",
                where=where,
            )
        if value:
            merged[keyword] = value
        else:
            merged.pop(keyword, None)
    if sum(len(keyword) + len(value) for keyword, value in merged.items()) > _MAX_GLOBAL:
        raise Unsupported(f"{where}: global headers of more than {_MAX_GLOBAL} bytes", where=where)
    return merged


def number(value: bytes, where: str) -> int:
    """A decimal number that is not negative. Raises `Corrupt`."""
    if _NUMBER.fullmatch(value) is None:
        raise Corrupt(f"{where}: {value[:80]!r} is no number of a PAX header", where=where)
    return int(value)


def time(value: bytes, where: str) -> int:
    """Decimal seconds, with a fraction of any length, in nanoseconds. Raises `Corrupt`."""
    match = _TIME.fullmatch(value)
    if match is not None:
        sign, seconds, fraction = match.groups()
        nanoseconds = int(seconds) * _BILLION + int((fraction or b"")[:9].ljust(9, b"0"))
        return -nanoseconds if sign else nanoseconds
    raise Corrupt(f"{where}: {value[:80]!r} is no time of a PAX header", where=where)
