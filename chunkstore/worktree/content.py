"""The content of many files as one stream of chunks, read ahead while files are written.

`FileContents` walks the entries twice at once: ahead, to say which chunks will be wanted, and
behind, to hand each file its bytes. Memory is the entries in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import tee

from chunkstore.objects import chunklist
from chunkstore.objects.digest import HOLE
from chunkstore.objects.entry import FILE, Entry
from chunkstore.objects.manifest import Load
from chunkstore.storage.chunks import ChunkReader, Reuse, Wanted


def has_content(entry: Entry) -> bool:
    """Whether restoring the entry means writing data: further links of a group do not."""
    return entry.kind == FILE and not entry.link


def wanted_chunks(entries: Iterable[Entry], load: Load) -> Iterator[Wanted]:
    """The chunks of all files among the entries, in order; `load` gets list nodes."""
    for entry in entries:
        if has_content(entry):
            for digest, length in chunklist.walk(entry, load):
                if digest != HOLE:
                    yield digest, length


class FileContents:
    """Iterate `entries`, and for each that `has_content` iterate `content(entry)` to its end."""

    def __init__(
        self,
        entries: Iterable[Entry],
        chunks: ChunkReader,
        load: Load,
        reuse: Reuse | None = None,
    ) -> None:
        ahead, self.entries = tee(entries)
        self._load = load
        self._stream = chunks.stream(wanted_chunks(ahead, load), reuse)

    def content(self, entry: Entry) -> Iterator[tuple[memoryview | None, int]]:
        """The bytes of a file in order, `None` for a hole, each with its length."""
        for digest, length in chunklist.walk(entry, self._load):
            yield (None if digest == HOLE else next(self._stream)), length
