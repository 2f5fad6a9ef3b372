"""Writing tar archives: members in the order they are given, streamed.

Promises: nothing larger than one block of the caller's data is held; a member's data is as long as
its header said, or `Corrupt` is raised; the same entries and data give the same bytes. Once `add`
has raised, the archive is not worth finishing.

Leaves the order to the caller, which has to give directories before what they hold and a file
before the further names of its inode: the order of a manifest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from chunkstore.archive import sparse
from chunkstore.archive.compression import Sink
from chunkstore.archive.header import BLOCK_SIZE, INODE_FLAGS, header
from chunkstore.errors import Corrupt
from chunkstore.objects.entry import FILE, Entry
from chunkstore.objects.names import printable

RECORD_SIZE: Final = 20 * BLOCK_SIZE
"""Archives end at a multiple of this, as tape drives once wanted and readers still expect."""

_SAYABLE: Final = sum(INODE_FLAGS)


class TarWriter:
    """One archive on its way into a sink.

    `lost` counts, by kind, what was in the entries and can't be said in a tar archive. For `acls`
    see `header`.
    """

    def __init__(self, sink: Sink, *, acls: bool = True) -> None:
        self._sink = sink
        self._acls = acls
        self._written = 0
        self.lost: Counter[str] = Counter()

    def add(
        self,
        entry: Entry,
        data: Iterable[bytes] = (),
        runs: list[sparse.Extent] | None = None,
        *,
        listing: bytes = b"",
    ) -> None:
        """Append a member; `listing` goes with a directory, see `header`.

        A file that is not the further name of another takes `data`, its content in order without
        the holes, and `runs`, where that data lies (`sparse.extents`), unless it has no hole.
        Raises `Corrupt` when they do not agree with the entry's size.
        """
        if entry.flags & ~_SAYABLE:
            self.lost["inode flags"] += 1
        if entry.kind != FILE or entry.link:
            self._write(header(entry, listing=listing, acls=self._acls))
        elif runs is None or not entry.size or runs == [(0, entry.size)]:
            self._write(header(entry, acls=self._acls))
            self._copy(entry, data, entry.size)
        else:
            segments = sparse.widen(runs, entry.size)
            layout = sparse.encode_map(segments, entry.size)
            length = sum(size for _, size in segments)
            self._write(header(entry, len(layout) + length, acls=self._acls))
            self._write(layout)
            self._copy(entry, sparse.fill(runs, segments, data), length)

    def finish(self) -> None:
        """Write the end of the archive; the sink stays open."""
        self._write(bytes(2 * BLOCK_SIZE))
        self._write(bytes(-self._written % RECORD_SIZE))

    def _copy(self, entry: Entry, data: Iterable[bytes], length: int) -> None:
        rest = length
        for block in data:
            rest -= len(block)
            if rest < 0:
                break
            self._write(block)
        if rest:
            place = printable(entry.path)
            raise Corrupt(f"{place}: content is not the {length} bytes it should be", where=place)
        self._write(bytes(-length % BLOCK_SIZE))

    def _write(self, data: bytes) -> None:
        if data:
            self._sink.write(data)
            self._written += len(data)
