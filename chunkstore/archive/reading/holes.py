"""Maps of files with holes, as GNU tar and others write them: old GNU, PAX 0.0, 0.1 and 1.0.

    old GNU   in the header: 4 pairs of number fields from byte 386, a byte at 482 that says whether
              blocks of 21 pairs follow (with such a byte at 504), the file's length at 483
    0.0, 0.1  in the PAX header: decimal numbers with commas between them
    1.0       at the beginning of the data: decimal lines, first the number of pairs

A map is a list of segments (offset, length): where the data that follows lies, back to back.

Promises: segments are in order, apart, inside the file, and add up to the data there is, or the map
is `Corrupt`; there are at most `MAX_SEGMENTS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from chunkstore.archive.header import BLOCK_SIZE
from chunkstore.archive.reading import fields
from chunkstore.archive.reading.source import Source
from chunkstore.archive.sparse import Extent
from chunkstore.errors import Corrupt, Unsupported

MAX_SEGMENTS: Final = 2**20
MAX_SIZE: Final = 2**63 - 1

_FIELD: Final = 12
_OLD_FIRST: Final = 386
_OLD_PAIRS: Final = 4
_OLD_GOES_ON: Final = 482
_OLD_SIZE: Final = slice(483, 495)
_BLOCK_PAIRS: Final = 21
_BLOCK_GOES_ON: Final = 504
_DIGITS: Final = 20


def from_header(block: bytes, source: Source, where: str) -> tuple[list[Extent], int]:
    """An old GNU map and the file's length; reads the blocks that follow the header."""
    size = fields.number(block[_OLD_SIZE], where)
    segments = list(_fields(block, _OLD_FIRST, _OLD_PAIRS, where))
    goes_on = block[_OLD_GOES_ON]
    while goes_on:
        more = source.take(BLOCK_SIZE)
        segments.extend(_fields(more, 0, _BLOCK_PAIRS, where))
        _check_number(len(segments), where)
        goes_on = more[_BLOCK_GOES_ON]
    return segments, size


def _fields(block: bytes, start: int, count: int, where: str) -> Iterator[Extent]:
    for at in range(start, start + count * 2 * _FIELD, 2 * _FIELD):
        if block[at] == 0:  # not even a digit: the rest of the table is unused
            return
        middle = at + _FIELD
        yield (
            fields.number(block[at:middle], where),
            fields.number(block[middle : middle + _FIELD], where),
        )


def from_record(value: bytes, where: str) -> list[Extent]:
    """A map of a PAX header."""
    _check_number(value.count(b",") // 2, where)
    numbers = [_decimal(item, where) for item in value.split(b",")] if value else []
    return _pairs(numbers, where)


def from_data(source: Source, stored: int, where: str) -> list[Extent]:
    """A map at the beginning of `stored` bytes of data; reads it up to the end of its block."""
    numbers: list[int] = []
    needed = 1
    rest = b""
    while len(numbers) < needed:
        stored -= BLOCK_SIZE
        if stored < 0 or len(rest) > _DIGITS:
            raise Corrupt(f"{where}: its map of holes does not end", where=where)
        *lines, rest = (rest + source.take(BLOCK_SIZE)).split(b"\n")
        for line in lines:
            if len(numbers) == needed:
                break
            numbers.append(_decimal(line, where))
            if needed == 1:
                _check_number(numbers[0], where)
                needed += 2 * numbers[0]
    return _pairs(numbers[1:], where)


def _decimal(text: bytes, where: str) -> int:
    if not text.isdigit() or len(text) > _DIGITS:
        raise Corrupt(f"{where}: {text[:40]!r} is no number of a map of holes", where=where)
    return int(text)


def _pairs(numbers: list[int], where: str) -> list[Extent]:
    if len(numbers) % 2:
        raise Corrupt(f"{where}: half a segment in its map of holes", where=where)
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _check_number(segments: int, where: str) -> None:
    if segments > MAX_SEGMENTS:
        raise Unsupported(f"{where}: more than {MAX_SEGMENTS} runs of data", where=where)


def check(segments: Iterable[Extent], size: int, stored: int, where: str) -> list[Extent]:
    """The segments that hold something. Raises `Corrupt` unless they describe `stored` bytes."""
    found: list[Extent] = []
    end = total = 0
    for offset, length in segments:
        if length < 0 or not end <= offset <= size - length:
            raise Corrupt(f"{where}: its map of holes makes no sense", where=where)
        end = offset + length
        total += length
        if length:
            found.append((offset, length))
    if total != stored or size > MAX_SIZE:
        raise Corrupt(f"{where}: its map of holes is of {total} bytes, not {stored}", where=where)
    return found
