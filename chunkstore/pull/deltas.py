"""Deltas in a pull: chunks that come compressed against what the node has.

The remote may have delta packs that lead to the version wanted. A frame of one is used when most of
it is needed and the node's own files hold its bases; all else comes from plain frames. Everything
the remote says of delta packs is a hint: what can't be opened, or turns out to be something else,
is fetched from plain frames after all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Lock
from typing import Final, NamedTuple

from chunkstore.errors import Corrupt, NotFound
from chunkstore.objects import deltapack
from chunkstore.objects.deltapack import DeltaFrame, records
from chunkstore.objects.digest import chunk_digest
from chunkstore.objects.documents import PackUse
from chunkstore.storage import layout
from chunkstore.storage.backend import Reader, Span, abandon
from chunkstore.storage.catalog import FramePlace
from chunkstore.storage.chunks import Range, plan_ranges, read_range
from chunkstore.storage.stage import Stage
from chunkstore.worktree.sources import TreeChunks

LEAST: Final = 256 * 1024
"""Bytes that have to be needed before the remote is asked for delta packs."""
_KEPT: Final = 4
"""Opened frames kept: chunks are wanted in the order in which frames hold them."""


class Offered(NamedTuple):
    """A delta frame of the remote and the pack it lies in."""

    pack: bytes
    frame: DeltaFrame

    @property
    def place(self) -> FramePlace:
        """The same as the place of a frame, for planning and keeping."""
        frame = self.frame
        return FramePlace(self.pack, frame.offset, frame.stored, frame.raw, 0)


def offered(
    reader: Reader, versions: Iterable[bytes], needed: Mapping[bytes, int]
) -> list[Offered]:
    """The delta frames of a remote that hold something needed. Raises `TransferError`."""
    if sum(needed.values()) < LEAST:
        return []
    found = []
    for version in versions:
        for use in _uses(reader, version):
            found += [
                Offered(use.pack, frame)
                for frame in _frames(reader, use)
                if any(digest in needed for digest, _ in records(frame.chunks))
            ]
    return found


def _uses(reader: Reader, version: bytes) -> list[PackUse]:
    with suppress(NotFound, Corrupt):
        limit = deltapack.MAX_DELTAS
        data = reader.get(layout.deltas(version), 0, limit + 1)
        if len(data) <= limit:
            return deltapack.parse_deltas(data, version)
    return []


def _frames(reader: Reader, use: PackUse) -> list[DeltaFrame]:
    name = layout.delta_index(use.pack)
    with suppress(NotFound, Corrupt):
        return deltapack.parse_index(reader.get(name, 0, use.index_size), name)
    return []


def bases(frames: Iterable[Offered]) -> set[bytes]:
    """The chunks that these frames need to be opened."""
    return {digest for item in frames for digest, _ in records(item.frame.bases)}


def chunks(frames: Iterable[Offered]) -> set[bytes]:
    """The chunks that these frames hold."""
    return {digest for item in frames for digest, _ in records(item.frame.chunks)}


def spans(frames: Iterable[Offered]) -> dict[str, list[Span]]:
    """Which parts of which delta packs hold these frames."""
    found: dict[str, list[Span]] = {}
    for place in sorted(item.place for item in frames):
        parts = found.setdefault(layout.delta_pack(place.pack), [])
        parts.append((place.offset, place.offset + place.stored))
    return found


def size(frames: Iterable[Offered]) -> int:
    """The bytes that fetching these frames takes."""
    return sum(item.frame.stored for item in frames)


def choose(
    frames: Iterable[Offered], missing: Collection[bytes], sources: TreeChunks
) -> list[Offered]:
    """The frames that are worth fetching: they bring what no frame before them does."""
    wanted = set(missing)
    chosen = []
    for item in frames:
        brings = dict(records(item.frame.chunks))
        useful = wanted.intersection(brings)
        is_openable = all(sources.has(digest) for digest, _ in records(item.frame.bases))
        if is_openable and 2 * sum(brings[digest] for digest in useful) >= item.frame.raw:
            chosen.append(item)
            wanted -= useful
    return chosen


class DeltaChunks:
    """Chunks of the tree, and those that fetched delta frames make of them: a `Reuse`."""

    def __init__(self, sources: TreeChunks, stage: Stage) -> None:
        self._sources = sources
        self._stage = stage
        self._lock = Lock()
        self._found: dict[bytes, Offered] = {}
        self._opened: OrderedDict[Offered, dict[bytes, memoryview]] = OrderedDict()

    def fetch(self, chosen: list[Offered], reader: Reader, *, threads: int) -> None:
        """Bring frames to the stage, each opened and checked. Those that are not good are left out.

        Raises `TransferError`, `LocalError`.
        """
        missing = [item for item in chosen if not self._is_here(item)]
        by_place = {item.place: item for item in missing}
        pool = ThreadPoolExecutor(threads, thread_name_prefix="deltas")
        try:
            ranges = plan_ranges(by_place)
            for done in [pool.submit(self._fetch, part, by_place, reader) for part in ranges]:
                done.result()
        except KeyboardInterrupt:
            abandon(reader)
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _is_here(self, item: Offered) -> bool:
        """Whether the stage has the frame from a pull that was interrupted."""
        with suppress(Corrupt, NotFound):
            self._open(item, self._stored(item))
            self._take(item)
            return True
        return False

    def _fetch(self, part: Range, by_place: Mapping[FramePlace, Offered], reader: Reader) -> None:
        good = []
        with suppress(Corrupt, NotFound):
            for place, stored in read_range(reader, part, name=layout.delta_pack):
                with suppress(Corrupt, NotFound):
                    self._open(by_place[place], stored)
                    good.append((place, stored))
        if good:
            self._stage.keep(layout.delta_pack(part.pack), good)
            for place, _ in good:
                self._take(by_place[place])

    def _take(self, item: Offered) -> None:
        for digest, _ in records(item.frame.chunks):
            self._found[digest] = item

    def _stored(self, item: Offered) -> bytes:
        frame = item.frame
        name = layout.delta_pack(item.pack)
        return self._stage.get(name, frame.offset, frame.offset + frame.stored)

    def _open(self, item: Offered, stored: bytes | memoryview) -> dict[bytes, memoryview]:
        """The chunks in a frame, checked. Raises `Corrupt`, `NotFound` when a base is gone."""
        where = f"delta pack {item.pack.hex()}, frame at {item.frame.offset}"
        base = b"".join(self._base(*wanted) for wanted in records(item.frame.bases))
        raw = memoryview(deltapack.decompress(stored, base, item.frame.raw, where))
        chunks = {}
        offset = 0
        for digest, length in records(item.frame.chunks):
            chunks[digest] = raw[offset : offset + length]
            if chunk_digest(chunks[digest]) != digest:
                raise Corrupt(f"{where}: chunk {digest.hex()} is damaged", where=where)
            offset += length
        return chunks

    def _base(self, digest: bytes, length: int) -> bytes:
        with self._lock:
            data = self._sources.load(digest, length)
        if data is None:
            raise NotFound(f"chunk {digest.hex()} was changed here", name=digest.hex())
        return data

    def has(self, digest: bytes) -> bool:
        """See `Reuse.has`."""
        return digest in self._found or self._sources.has(digest)

    def load(self, digest: bytes, length: int) -> bytes | None:
        """See `Reuse.load`."""
        item = self._found.get(digest)
        if item is None:
            return self._sources.load(digest, length)
        chunks = self._opened.get(item)
        if chunks is None:
            try:
                chunks = self._open(item, self._stored(item))
            except (Corrupt, NotFound):
                return None
            self._opened[item] = chunks
            if len(self._opened) > _KEPT:
                self._opened.popitem(last=False)
        return bytes(chunks[digest])
