"""Ranges: frames that lie close together in a pack, to be read by one request.

Promises: a range is no longer than what it is made of and its gaps; a pack that ends too early is
`Corrupt`, and so is a frame that is not what it says. What chunks a frame holds is the reader's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from chunkstore.errors import Corrupt
from chunkstore.objects import codec
from chunkstore.storage import layout
from chunkstore.storage.backend import Reader

if TYPE_CHECKING:
    from chunkstore.storage.catalog import FramePlace

MAX_RANGE: Final = 2 * 1024 * 1024
MAX_GAP: Final = 32 * 1024
"""Stored bytes read for nothing rather than asking again."""


class Range(NamedTuple):
    """Frames of one pack that are read by one request."""

    pack: bytes
    start: int
    stop: int
    frames: list[FramePlace]


def plan_ranges(
    frames: Iterable[FramePlace], *, max_gap: int = MAX_GAP, max_range: int = MAX_RANGE
) -> list[Range]:
    """Merge frames that lie close together into ranges, pack by pack in the order given."""
    by_pack: dict[bytes, list[FramePlace]] = {}
    for frame in frames:
        by_pack.setdefault(frame.pack, []).append(frame)
    ranges: list[Range] = []
    for pack, members in by_pack.items():
        members.sort(key=lambda frame: frame.offset)
        current: list[FramePlace] = []
        start = stop = 0
        for frame in members:
            end = frame.offset + frame.stored
            if current and (frame.offset - stop > max_gap or end - start > max_range):
                ranges.append(Range(pack, start, stop, current))
                current = []
            if not current:
                start = frame.offset
            current.append(frame)
            stop = end
        if current:
            ranges.append(Range(pack, start, stop, current))
    return ranges


def read_range(
    reader: Reader, wanted: Range, *, name: Callable[[bytes], str] = layout.pack
) -> list[tuple[FramePlace, memoryview]]:
    """The stored bytes of each frame of a range. Raises `Corrupt` for a pack that is too short.

    `name` says what the object of a pack is called.
    """
    data = memoryview(reader.get(name(wanted.pack), wanted.start, wanted.stop))
    where = f"pack {wanted.pack.hex()}"
    if len(data) != wanted.stop - wanted.start:
        raise Corrupt(f"{where}: ends before byte {wanted.stop}", where=where)
    parts = []
    for frame in wanted.frames:
        start = frame.offset - wanted.start
        parts.append((frame, data[start : start + frame.stored]))
    return parts


def open_frame(frame: FramePlace, stored: bytes | memoryview) -> bytes:
    """The raw bytes of a frame. Raises `Corrupt`."""
    where = f"pack {frame.pack.hex()}, frame at {frame.offset}"
    return codec.decompress(frame.codec, stored, frame.raw, where)
