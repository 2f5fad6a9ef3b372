"""The content of many files as one stream of chunks, read ahead while files are written.

`FileContents` walks the entries twice at once: ahead, to say which chunks will be wanted, and
behind, to hand each file its bytes. Memory is the entries in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import tee

from chunkstore.objects import chunklist
from chunkstore.objects.digest import HOLE
from chunkstore.objects.entry import FILE, Entry
from chunkstore.objects.manifest import Load
from chunkstore.storage.chunks import ChunkReader, Reuse, Wanted


def has_content(entry: Entry) -> bool:
    """Whether restoring the entry means writing data: further links of a group do not."""
    return entry.kind == FILE and not entry.link


def chunks_of(entry: Entry, load: Load) -> Iterator[Wanted]:
    """The chunks of a file in order, holes left out; `load` gets list nodes."""
    return (item for item in chunklist.walk(entry, load) if item[0] != HOLE)


class FileContents:
    """Iterate `entries`; for each that comes with True, iterate `content(entry)` to its end.

    `present` says which files need not be written; it is asked once for each, ahead of time.
    """

    def __init__(
        self,
        entries: Iterable[Entry],
        chunks: ChunkReader,
        load: Load,
        *,
        reuse: Reuse | None = None,
        present: Callable[[Entry], bool] = lambda _: False,
    ) -> None:
        decided = ((entry, has_content(entry) and not present(entry)) for entry in entries)
        ahead, self.entries = tee(decided)
        self._load = load
        wanted = (
            pair for entry, is_wanted in ahead if is_wanted for pair in chunks_of(entry, load)
        )
        self._stream = chunks.stream(wanted, reuse)

    def chunks(self, entry: Entry) -> Iterator[Wanted]:
        """The chunks and holes of a file, in order."""
        return chunklist.walk(entry, self._load)

    def content(self, entry: Entry) -> Iterator[tuple[memoryview | None, int]]:
        """The bytes of a file in order, `None` for a hole, each with its length."""
        for digest, length in chunklist.walk(entry, self._load):
            yield (None if digest == HOLE else next(self._stream)), length
