"""Files with holes in a tar archive: GNU's sparse format 1.0.

The member's data begins with a map in decimal lines (number of segments, then offset and length of
each), zero-padded to a block; the segments follow back to back. GNU tar expects each to begin at a
block of 512 bytes, libarchive and Python expect them without gaps. Both are right if segments
begin and end at multiples of 512 in the file, so they are widened by zeros to that.

Memory grows with the number of holes of one file, not with its data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from chunkstore.archive.header import BLOCK_SIZE
from chunkstore.objects.digest import HOLE

Extent = tuple[int, int]
"""Where a run of data lies in a file: (offset, length)."""


def extents(records: Iterable[tuple[bytes, int]]) -> list[Extent]:
    """The runs of data in what `chunklist.walk` yields."""
    found: list[Extent] = []
    offset = end = 0
    for digest, length in records:
        if digest != HOLE:
            if found and end == offset:
                found[-1] = found[-1][0], found[-1][1] + length
            else:
                found.append((offset, length))
            end = offset + length
        offset += length
    return found


def widen(runs: list[Extent], size: int) -> list[Extent]:
    """The segments to store for `runs`: block-aligned, merged where they then touch."""
    segments: list[Extent] = []
    for offset, length in runs:
        start = offset - offset % BLOCK_SIZE
        stop = min(size, offset + length + -(offset + length) % BLOCK_SIZE)
        if segments and start <= sum(segments[-1]):
            start = segments.pop()[0]
        segments.append((start, stop - start))
    return segments


def encode_map(segments: list[Extent], size: int) -> bytes:
    """The map, padded to whole blocks."""
    lines = list(segments)
    if not lines or sum(lines[-1]) < size:
        # Says that the file goes on after its last data; GNU tar would leave it short without.
        lines.append((size, 0))
    body = b"%d\n" % len(lines) + b"".join(b"%d\n%d\n" % line for line in lines)
    return body + bytes(-len(body) % BLOCK_SIZE)


def fill(runs: list[Extent], segments: list[Extent], data: Iterable[bytes]) -> Iterator[bytes]:
    """The segments' bytes: the data of `runs`, with zeros where segments are wider.

    Data that does not fit the runs makes the sum of what is yielded differ from the segments'.
    """
    blocks = iter(data)
    pending = iter(runs)
    offset, length = next(pending, (0, 0))
    for start, size in segments:
        position = start
        while length and offset < start + size:
            yield bytes(offset - position)
            position = offset
            while position < offset + length:
                block = next(blocks, None)
                if block is None:
                    return
                position += len(block)
                yield block
            offset, length = next(pending, (0, 0))
        yield bytes(max(0, start + size - position))
    yield from blocks
