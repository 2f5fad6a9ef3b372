"""Writing chunks: new ones are gathered into frames, compressed on threads, laid into packs.

Promises: a chunk is stored once; frames stand in the order their chunks came, tree nodes behind
the content of the same commit, so that a node one version behind reads one run of each. When
`finish` has returned, the packs, their indexes and torrents are durable, packs first. Until then
nothing refers to them: an abandoned writer leaves garbage that `gc` sweeps, never a dangling name.
Memory is the frames under way, and the names of some new chunks, whatever their number.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from chunkstore import fsio
from chunkstore.errors import local_errors
from chunkstore.objects import codec, pack, torrent
from chunkstore.objects.digest import chunk_digest, pack_hasher
from chunkstore.objects.pack import Frame
from chunkstore.storage import layout
from chunkstore.storage.backend import Backend
from chunkstore.storage.threads import Threads

COMPRESSORS: Final = 2
_MAX_UNDER_WAY: Final = 12
_MAX_TREE_BYTES: Final = 16 * 1024 * 1024

_READ_BYTES: Final = 1024 * 1024

_MAX_FRAMES: Final = 2**16
_MAX_CHUNKS: Final = 2**17
"""Well below what an index may hold: what it says is in memory several times over while a pack is
sealed."""
_FRAME_CHUNKS: Final = 2**14
"""A megabyte of files of a few bytes each would be all files of a system."""
_MOST_NEW: Final = 2**17
"""New chunks whose names are kept in memory, beside those of packs under way. More are left to the
catalog, though it takes longer to answer than a tiny file to be read."""

if TYPE_CHECKING:
    from concurrent.futures import Future

    from chunkstore.storage.catalog import Catalog

    Compressed = Future[tuple[int, bytes]]


class NewPack(NamedTuple):
    """A pack that was written: its id, and the sizes of it and its index."""

    id: bytes
    pack_size: int
    index_size: int


class Written(NamedTuple):
    """What a writer stored: its packs, and of the new chunks the number, raw and stored bytes."""

    packs: list[NewPack]
    chunks: int
    raw: int
    stored: int


class _PackFile:
    """A pack being written to the spool."""

    def __init__(self, spool: str) -> None:
        self.path = os.path.join(spool, fsio.fresh_name("pack"))
        with local_errors("can't write a pack"):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o644)
        self._hasher = pack_hasher()
        self.size = 0
        self.frames: list[Frame] = []
        self._chunks: list[bytes] = []
        self._count = 0
        self._append(pack.encode_header())

    def _append(self, data: bytes) -> None:
        with local_errors("can't write a pack"):
            fsio.write_all(self._descriptor, data)
        self._hasher.update(data)
        self.size += len(data)

    def add(self, compressed: tuple[int, bytes], raw: int, chunks: bytes) -> None:
        method, stored = compressed
        count = len(chunks) // pack.CHUNK.size
        self._count += count
        self.frames.append(Frame(self.size, len(stored), raw, count, method))
        self._chunks.append(chunks)
        self._append(stored)

    @property
    def is_full(self) -> bool:
        """Whether the next frame belongs into another pack."""
        return (
            self.size >= pack.TARGET_BYTES
            or len(self.frames) >= _MAX_FRAMES
            or self._count >= _MAX_CHUNKS
        )

    def seal(self, backend: Backend) -> tuple[NewPack, pack.Index]:
        """Complete the file and make it an object; slow, since it waits for the disk."""
        chunks = b"".join(self._chunks)
        self._chunks.clear()
        index = pack.encode_index(self.frames, chunks)
        self._append(index)
        self._append(pack.encode_footer(index))
        self._close()
        pack_id = self._hasher.digest()
        described = self._torrent(pack_id)
        backend.put_file(layout.pack(pack_id), self.path)
        backend.put(layout.index(pack_id), index)
        if described is not None:
            backend.put(layout.torrent(pack_id), described)
        return NewPack(pack_id, self.size, len(index)), pack.Index(self.frames, chunks)

    def _torrent(self, pack_id: bytes) -> bytes | None:
        """How swarms see it. Read again from memory: here only the sealing thread is held up."""
        if self.size > torrent.MAX_PACK:
            return None
        with local_errors("can't read a pack back"), open(self.path, "rb") as file:
            parts = iter(lambda: file.read(_READ_BYTES), b"")
            return torrent.make(pack_id, self.size, parts).encode()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def abandon(self) -> None:
        """Remove what was written so far, unless it has become an object."""
        with suppress(OSError):
            self._close()
        with suppress(OSError):
            os.unlink(self.path)


class _Lane:
    """Chunks gathered for the next frame of one sort."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.parts: list[bytes | memoryview] = []
        self.records: list[bytes] = []
        self.size = 0


class _Job(NamedTuple):
    """A frame at the compressor."""

    result: Compressed
    raw: int
    records: bytes


class ChunkWriter:
    """Stores chunks the catalog does not know. A context manager: leaving early abandons."""

    def __init__(self, backend: Backend, catalog: Catalog, spool: str, compression: str) -> None:
        self._backend = backend
        self._catalog = catalog
        self._spool = spool
        self._compression = compression
        self._pool = Threads(COMPRESSORS, "compress")
        self._sealer = Threads(1, "seal")
        self._sealing: list[Future[tuple[NewPack, pack.Index]]] = []
        self._packs: list[NewPack] = []
        self._files: list[_PackFile] = []
        self._new: set[bytes] = set()
        self._count = 0
        self._content = _Lane()
        self._tree = _Lane()
        self._under_way: deque[_Job] = deque()
        self._tree_jobs: list[_Job] = []
        self._tree_bytes = 0
        self._file: _PackFile | None = None
        self.reused: set[bytes] = set()
        """The packs that hold the chunks `unknown` was asked about and found stored."""
        self.raw = 0
        self.stored = 0

    def __enter__(self) -> ChunkWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()
        self._sealer.close()
        for file in self._files:
            file.abandon()

    def unknown(self, digests: Iterable[bytes]) -> set[bytes]:
        """Which of these chunks are neither in the store nor given to this writer."""
        fresh = set(digests) - self._new
        if fresh and self._catalog.packs:
            stored = self._catalog.packs_of(fresh)
            self.reused.update(stored.values())
            fresh.difference_update(stored)
        return fresh

    def store(self, chunks: list[tuple[bytes, bytes | memoryview]]) -> None:
        """Store those of these chunks (digest, bytes) that are not stored yet.

        The data must not change afterwards.
        """
        fresh = self.unknown([digest for digest, _ in chunks])
        for digest, data in chunks:
            if digest in fresh:
                fresh.discard(digest)
                self.put(digest, data)

    def store_node(self, data: bytes) -> bytes:
        """Store a node of a manifest or chunk list and return its digest."""
        digest = chunk_digest(data)
        self.put_node(digest, data)
        return digest

    def put(self, digest: bytes, data: bytes | memoryview) -> None:
        """Store a chunk of content that is `unknown`. The data must not change afterwards."""
        self._add(self._content, digest, data)

    def put_node(self, digest: bytes, data: bytes) -> None:
        """Store a node of a manifest or chunk list, unless it is known."""
        if self.unknown((digest,)):
            self._add(self._tree, digest, data)

    def _add(self, lane: _Lane, digest: bytes, data: bytes | memoryview) -> None:
        self._new.add(digest)
        self._count += 1
        if lane.size + len(data) > codec.MAX_FRAME or len(lane.parts) >= _FRAME_CHUNKS:
            self._close_frame(lane)
        lane.parts.append(data)
        lane.records.append(pack.CHUNK.pack(digest, len(data)))
        lane.size += len(data)

    def _close_frame(self, lane: _Lane) -> None:
        if not lane.parts:
            return
        data = b"".join(lane.parts)
        result = self._pool.submit(codec.compress, data, self._compression)
        job = _Job(result, len(data), b"".join(lane.records))
        self.raw += len(data)
        lane.clear()
        if lane is self._tree:
            # Kept back until all content stands, so that the nodes lie together behind it.
            self._tree_jobs.append(job)
            self._tree_bytes += job.raw
            if self._tree_bytes > _MAX_TREE_BYTES:
                self._write_tree_pack()
            return
        self._under_way.append(job)
        while len(self._under_way) > _MAX_UNDER_WAY:
            self._write(self._under_way.popleft())

    def _write(self, job: _Job) -> None:
        if self._file is None:
            self._file = _PackFile(self._spool)
            self._files.append(self._file)
        compressed = job.result.result()
        self._file.add(compressed, job.raw, job.records)
        self.stored += len(compressed[1])
        if self._file.is_full:
            self._seal()

    def _seal(self) -> None:
        if self._file is not None:
            if len(self._new) > _MOST_NEW:
                self._learn()
            # Waiting for the disk is left to a thread; only `finish` needs it done.
            self._sealing.append(self._sealer.submit(self._file.seal, self._backend))
            self._file = None

    def _learn(self) -> None:
        """Let the catalog know what is in the packs that are sealed, instead of this writer."""
        sealed = [sealing.result() for sealing in self._sealing]
        self._sealing.clear()
        for new, contents in sealed:
            self._catalog.learn(new.id, contents)
            self._new.difference_update(digest for digest, *_ in contents.places())
            self._packs.append(new)

    def _write_tree_pack(self) -> None:
        content, self._file = self._file, None
        self._write_tree()
        self._seal()
        self._file = content

    def _write_tree(self) -> None:
        for job in self._tree_jobs:
            self._write(job)
        self._tree_jobs.clear()
        self._tree_bytes = 0

    def finish(self) -> Written:
        """Write everything out and wait until it is durable. Raises `LocalError`."""
        self._close_frame(self._content)
        while self._under_way:
            self._write(self._under_way.popleft())
        self._close_frame(self._tree)
        self._write_tree()
        self._seal()
        self._learn()
        return Written(self._packs, self._count, self.raw, self.stored)
