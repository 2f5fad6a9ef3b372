"""Writing delta packs: what is new in a version, compressed against what the one before has.

A new file is mostly an old one. Its new chunks are stored a second time, beside their plain frames,
as frames that need chunks of the old file to be opened: whoever has those moves far fewer bytes.
Promises: nothing is written that does not pay; what is written is a hint, and every chunk that
comes of it is checked by its digest. Memory is the frames under way.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from chunkstore import fsio
from chunkstore.errors import Corrupt, LocalError, NotFound, local_errors
from chunkstore.objects import chunklist, delta, deltapack
from chunkstore.objects.codec import MAX_FRAME
from chunkstore.objects.deltapack import DeltaFrame
from chunkstore.objects.digest import HOLE, delta_pack_hasher
from chunkstore.objects.documents import PackUse
from chunkstore.objects.entry import Entry
from chunkstore.objects.manifest import Load
from chunkstore.objects.pack import CHUNK, TARGET_BYTES
from chunkstore.storage import layout
from chunkstore.storage.catalog import Place
from chunkstore.storage.predecessors import Succession, successions
from chunkstore.storage.repository import Resolved
from chunkstore.storage.store import Store
from chunkstore.storage.threads import Threads
from chunkstore.storage.writer import Written

if TYPE_CHECKING:
    from concurrent.futures import Future

LEAST_GAIN: Final = 256 * 1024
"""Bytes an update has to become smaller by, for delta packs to be written at all."""
_WORTH_ASKING: Final = 256 * 1024
"""Bytes that have to be new before it is asked what they come from."""
_WORTHWHILE: Final = 0.8
"""Part of its plain size that a frame may have at most."""
_AROUND: Final = 256 * 1024
"""Bytes of the old file before and behind the place of a new chunk that are its bases."""
_THREADS: Final = 2
_UNDER_WAY: Final = 6
_AT_ONCE: Final = 1000

Wanted = tuple[bytes, int]
"""A chunk's digest and length."""


class DeltaReport(NamedTuple):
    """What was written: chunks, their bytes, stored bytes, and what they take in plain frames."""

    chunks: int
    raw: int
    stored: int
    plain: int


class _Group:
    """Chunks for one frame and its bases, each once; `plain` is what they take without it."""

    def __init__(self) -> None:
        self.chunks: list[Wanted] = []
        self.bases: dict[bytes, int] = {}
        self.raw = 0
        self.base = 0
        self.plain = 0.0


def try_deltas(store: Store, new: Resolved, old: Resolved, written: Written) -> DeltaReport | None:
    """`write_deltas` for what a writer stored, if that may pay.

    They are a hint: trouble with them is none.
    """
    if written.raw < _WORTH_ASKING:
        return None
    with suppress(OSError, LocalError, Corrupt, NotFound):
        return write_deltas(store, new, old, [pack.id for pack in written.packs])
    return None


def write_deltas(
    store: Store, new: Resolved, old: Resolved, new_packs: Collection[bytes]
) -> DeltaReport | None:
    """Write delta packs for who goes from `old` to `new`, whose own packs are `new_packs`.

    The caller holds the store's lock, and `new` is published. Returns None when they would not pay,
    and then nothing is written. Raises `LocalError`, `Corrupt`.
    """
    with store.chunks() as nodes:
        differences = delta.diff(old.version.root, new.version.root, nodes.get)
        pairs = successions(differences, old.version.root, nodes.get)
        groups = _groups(store, pairs, set(new_packs), nodes.get)
        with _Writer(store) as writer:
            for group, data, base in _read(store, groups):
                writer.add(group, data, base)
            return writer.finish(new.id)


def _groups(
    store: Store, pairs: Iterable[Succession], new_packs: set[bytes], load: Load
) -> Iterator[_Group]:
    """What is to become frames, in path order. Each new chunk is in one of them at most."""
    taken: set[bytes] = set()
    group = _Group()
    for old, new in pairs:
        chunks = list(chunklist.walk(new, load))
        places = _new_places(store, chunks, new_packs)
        fresh = [digest for digest in places if digest not in taken]
        if not fresh:
            continue
        taken.update(fresh)
        old_chunks = list(chunklist.walk(old, load))
        for piece in _pieces(old, new, old_chunks, chunks, {d: places[d] for d in fresh}):
            joined = {**group.bases, **piece.bases}
            is_full = group.raw + piece.raw > MAX_FRAME or sum(joined.values()) > deltapack.MAX_BASE
            if is_full:
                yield group
                group, joined = _Group(), piece.bases
            group.chunks += piece.chunks
            group.bases = joined
            group.raw += piece.raw
            group.plain += piece.plain
    if group.chunks:
        yield group


def _new_places(
    store: Store, chunks: Iterable[Wanted], new_packs: set[bytes]
) -> dict[bytes, Place]:
    """Where those of the chunks lie that are in the new packs."""
    digests = list(dict.fromkeys(digest for digest, _ in chunks if digest != HOLE))
    found: dict[bytes, Place] = {}
    for start in range(0, len(digests), _AT_ONCE):
        places = store.places(digests[start : start + _AT_ONCE])
        found.update(item for item in places.items() if item[1].frame.pack in new_packs)
    return found


def _pieces(
    old: Entry,
    new: Entry,
    old_chunks: list[Wanted],
    chunks: list[Wanted],
    fresh: dict[bytes, Place],
) -> Iterator[_Group]:
    """The fresh chunks of one file in runs that fit into a frame, with bases from around them."""
    scale = old.size / new.size
    piece = _Group()
    offset = first = last = 0
    for digest, length in chunks:
        place = fresh.pop(digest, None)
        if place is not None:
            is_far = offset > last + _AROUND
            if piece.chunks and (is_far or piece.raw + length > MAX_FRAME):
                piece.bases = _bases(old_chunks, first, last, scale)
                yield piece
                piece = _Group()
            if not piece.chunks:
                first = offset
            piece.chunks.append((digest, length))
            piece.raw += length
            piece.plain += length * place.frame.stored / place.frame.raw
            last = offset + length
        offset += length
    if piece.chunks:
        piece.bases = _bases(old_chunks, first, last, scale)
        yield piece


def _bases(chunks: list[Wanted], start: int, stop: int, scale: float) -> dict[bytes, int]:
    """The chunks of the old file that lie around a part of the new one."""
    low, high = start * scale - _AROUND, stop * scale + _AROUND
    bases: dict[bytes, int] = {}
    offset = total = 0
    for digest, length in chunks:
        is_near = low < offset + length and offset < high
        if digest != HOLE and is_near and total + length <= deltapack.MAX_BASE:
            if digest not in bases:
                total += length
            bases[digest] = length
        offset += length
    return bases


def _read(store: Store, groups: Iterable[_Group]) -> Iterator[tuple[_Group, bytes, bytes]]:
    """Each group with the bytes of its chunks and those of its bases."""
    ahead: deque[_Group] = deque()

    def wanted() -> Iterator[Wanted]:
        for group in groups:
            if group.bases:
                ahead.append(group)
                yield from group.bases.items()
                yield from group.chunks

    with store.chunks() as reader:
        stream = reader.stream(wanted())
        for part in stream:
            group = ahead.popleft()
            parts = [part, *(next(stream) for _ in range(len(group.bases) + len(group.chunks) - 1))]
            base = b"".join(parts[: len(group.bases)])
            yield group, b"".join(parts[len(group.bases) :]), base


class _Writer:
    """Compresses groups on threads, and lays those that pay into delta packs in the spool."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pool = Threads(_THREADS, "delta")
        self._under_way: deque[tuple[_Group, Future[bytes]]] = deque()
        self._files: list[_File] = []
        self._report = DeltaReport(0, 0, 0, 0)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()
        for file in self._files:
            file.abandon()

    def add(self, group: _Group, data: bytes, base: bytes) -> None:
        self._under_way.append((group, self._pool.submit(deltapack.compress, data, base)))
        while len(self._under_way) > _UNDER_WAY:
            self._take(*self._under_way.popleft())

    def _take(self, group: _Group, result: Future[bytes]) -> None:
        stored = result.result()
        if len(stored) >= min(group.plain * _WORTHWHILE, group.raw):
            return
        if not self._files or self._files[-1].is_full:
            self._files.append(_File(os.path.join(self._store.local, "spool")))
        file = self._files[-1]
        chunks = b"".join(CHUNK.pack(*item) for item in group.chunks)
        bases = b"".join(CHUNK.pack(*item) for item in group.bases.items())
        file.add(stored, group.raw, chunks, bases)
        so_far = self._report
        self._report = DeltaReport(
            so_far.chunks + len(group.chunks),
            so_far.raw + group.raw,
            so_far.stored + len(stored) + len(chunks) + len(bases),
            so_far.plain + int(group.plain),
        )

    def finish(self, new_id: bytes) -> DeltaReport | None:
        while self._under_way:
            self._take(*self._under_way.popleft())
        if self._report.plain - self._report.stored < LEAST_GAIN:
            return None
        backend = self._store.backend
        uses = []
        for file in self._files:
            use, index = file.seal()
            backend.put_file(layout.delta_pack(use.pack), file.path)
            backend.put(layout.delta_index(use.pack), index)
            uses.append(use)
        # Last, like a locate hint: whoever finds it finds what it names.
        backend.put(layout.deltas(new_id), deltapack.encode_deltas(new_id, uses))
        return self._report


class _File:
    """A delta pack being written to the spool."""

    def __init__(self, spool: str) -> None:
        self.path = os.path.join(spool, fsio.fresh_name("delta"))
        with local_errors("can't write a delta pack"):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self.path, flags, 0o644)
        self._hasher = delta_pack_hasher()
        self._size = 0
        self._records = 0
        self._frames: list[DeltaFrame] = []
        self._append(deltapack.encode_header())

    def _append(self, data: bytes) -> None:
        with local_errors("can't write a delta pack"):
            fsio.write_all(self._descriptor, data)
        self._hasher.update(data)
        self._size += len(data)

    def add(self, stored: bytes, raw: int, chunks: bytes, bases: bytes) -> None:
        self._frames.append(DeltaFrame(self._size, len(stored), raw, chunks, bases))
        self._records += max(len(chunks), len(bases)) // CHUNK.size
        self._append(stored)

    @property
    def is_full(self) -> bool:
        # One more frame must fit, with as many records as a frame of tiny chunks may have.
        return (
            self._size >= TARGET_BYTES
            or len(self._frames) >= deltapack.MAX_FRAMES
            or self._records >= deltapack.MAX_RECORDS // 2
        )

    def seal(self) -> tuple[PackUse, bytes]:
        index = deltapack.encode_index(self._frames)
        self._append(index)
        self._append(deltapack.encode_footer(index))
        self._close()
        return PackUse(self._hasher.digest(), self._size, len(index)), index

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def abandon(self) -> None:
        """Remove what was written, unless it has become an object."""
        self._close()
        with local_errors("can't sweep up"):
            if os.path.exists(self.path):
                os.unlink(self.path)
