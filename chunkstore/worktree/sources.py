"""Local sources: chunks that need not be fetched, because files of the node hold them.

What a file holds is only a guess until its bytes have the right digest; every load checks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice

from chunkstore import fsio
from chunkstore.errors import NotFound
from chunkstore.fsio import Directory
from chunkstore.objects import chunklist
from chunkstore.objects.digest import chunk_digest
from chunkstore.objects.entry import Entry
from chunkstore.objects.manifest import Load
from chunkstore.objects.names import printable
from chunkstore.worktree.content import chunks_of, has_content

_BITS = 27
_LOOKED_AT = 16


class TreeChunks:
    """Chunks by the file and offset where they should be. Keeps the last file open."""

    def __init__(self, tree: Directory) -> None:
        self._tree = tree
        self._places: dict[bytes, tuple[bytes, int]] = {}
        self._path: bytes | None = None
        self._descriptor = -1

    def __len__(self) -> int:
        return len(self._places)

    def add(self, digest: bytes, path: bytes, offset: int) -> None:
        """Note where a chunk should be."""
        self._places.setdefault(digest, (path, offset))

    def has(self, digest: bytes) -> bool:
        """Whether a place was noted."""
        return digest in self._places

    def path(self, digest: bytes) -> bytes | None:
        """The file that should hold a chunk; None when no place was noted."""
        return self._places[digest][0] if digest in self._places else None

    def like(self, chunks: Iterable[tuple[bytes, int]]) -> bytes | None:
        """A file that should hold one of the first chunks of another at the same offset."""
        start = 0
        for digest, length in islice(chunks, _LOOKED_AT):
            path, offset = self._places.get(digest, (b"", -1))
            if offset == start:
                return path
            start += length
        return None

    def load(self, digest: bytes, length: int) -> bytes | None:
        """The chunk, or None when the file does not hold it after all."""
        path, offset = self._places[digest]
        try:
            data = fsio.read_at(self._open(path), offset, offset + length)
        except OSError:
            return None
        return data if chunk_digest(data) == digest else None

    def read(self, chunks: Iterable[tuple[bytes, int]]) -> bytes:
        """What should be these chunks, one after the other, and may be anything; by any thread.

        Raises `NotFound` when a file has become shorter, or can't be read.
        """
        parts = []
        for path, start, stop in self._runs(chunks):
            try:
                with fsio.opened(self._tree, path, os.O_RDONLY | os.O_NONBLOCK) as descriptor:
                    data = fsio.read_at(descriptor, start, stop)
            except OSError:
                data = b""
            if len(data) != stop - start:
                where = printable(path)
                raise NotFound(f"{where} was changed here", name=where)
            parts.append(data)
        return b"".join(parts)

    def _runs(self, chunks: Iterable[tuple[bytes, int]]) -> Iterator[tuple[bytes, int, int]]:
        """Where chunks lie: those that follow each other in a file together."""
        current, start, stop = b"", 0, 0
        for digest, length in chunks:
            path, offset = self._places[digest]
            if path == current and offset == stop:
                stop += length
                continue
            if stop > start:
                yield current, start, stop
            current, start, stop = path, offset, offset + length
        if stop > start:
            yield current, start, stop

    def _open(self, path: bytes) -> int:
        if path != self._path:
            self.close()
            self._descriptor = self._tree.open(path, os.O_RDONLY | os.O_NONBLOCK)
            self._path = path
        return self._descriptor

    def forget(self, digest: bytes) -> None:
        """The chunk was not there."""
        del self._places[digest]

    def close(self) -> None:
        """Close the file that is open."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._path = -1, None


class WrittenBefore:
    """Chunks that occur again later in the version being installed: read from the first file.

    Which do is found beforehand by a pass over the manifest with a bit table of fixed size; the
    few that only seem to occur again cost nothing but a note. `unique` and `unique_bytes` are how
    many different chunks there are, by the same table; `total_bytes` is what all files hold, and
    `entries` how many paths there are.
    """

    def __init__(self, tree: Directory, entries: Iterable[Entry], load: Load) -> None:
        self._again: set[bytes] = set()
        self._passed: set[bytes] = set()
        self._load = load
        self._files = TreeChunks(tree)
        self.unique = 0
        self.unique_bytes = 0
        self.total_bytes = 0
        self.entries = 0
        seen = bytearray(1 << (_BITS - 3))
        files = (entry for entry in self._counted(entries) if has_content(entry))
        for digest, length in (pair for entry in files for pair in chunks_of(entry, load)):
            bit = int.from_bytes(digest[:4], "little") >> (32 - _BITS)
            mask = 1 << (bit & 7)
            self.total_bytes += length
            if seen[bit >> 3] & mask:
                self._again.add(digest)
            else:
                self.unique += 1
                self.unique_bytes += length
            seen[bit >> 3] |= mask

    def _counted(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        for entry in entries:
            self.entries += 1
            yield entry

    def written(self, entry: Entry) -> None:
        """A file has its content now: note the chunks that will occur again."""
        if not self._again or not has_content(entry):
            return
        offset = 0
        for digest, length in chunklist.walk(entry, self._load):
            if digest in self._again:
                self._files.add(digest, entry.path, offset)
            offset += length

    def has(self, digest: bytes) -> bool:
        """Whether the chunk came by before; the first time it has to be read from a pack."""
        if digest not in self._again:
            return False
        if digest in self._passed:
            return True
        self._passed.add(digest)
        return False

    def load(self, digest: bytes, length: int) -> bytes | None:
        """The chunk from the file written first, unless it is this very file."""
        return self._files.load(digest, length) if self._files.has(digest) else None

    def close(self) -> None:
        """Close the file that is open."""
        self._files.close()
