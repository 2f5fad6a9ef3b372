"""Deltas in a pull: chunks that come compressed against what the node has.

The remote may have delta packs that lead to the version wanted. A frame of one is used when most of
it is needed and the node's own files hold its bases; all else comes from plain frames. Everything
the remote says of delta packs is a hint: what can't be opened, or turns out to be something else,
is fetched from plain frames after all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Final, NamedTuple

from chunkstore.errors import Corrupt, NotFound
from chunkstore.objects import deltapack
from chunkstore.objects.deltapack import DeltaFrame, records
from chunkstore.objects.digest import chunk_digest
from chunkstore.objects.documents import PackUse
from chunkstore.storage import layout
from chunkstore.storage.backend import Reader, Span, abandon
from chunkstore.storage.catalog import FramePlace
from chunkstore.storage.ranges import Range, plan_ranges, read_range
from chunkstore.storage.stage import Stage
from chunkstore.storage.threads import Threads
from chunkstore.worktree.sources import TreeChunks

LEAST: Final = 256 * 1024
"""Bytes that have to be needed before the remote is asked for delta packs."""
_KEPT: Final = 4
"""Opened frames kept: chunks are wanted in the order in which frames hold them."""
_AHEAD: Final = 32
"""Frames, of a MiB at most, that are opened ahead of time."""
_OPENERS: Final = 2


class _Opening:
    """A frame that is being opened, and how many chunks of it are still to be taken."""

    __slots__ = ("due", "future")

    def __init__(self, future: Future[dict[bytes, memoryview]]) -> None:
        self.future = future
        self.due = 1


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
    frames: Iterable[Offered],
    missing: Collection[bytes],
    sources: TreeChunks,
    is_as_noted: Callable[[bytes], bool],
) -> list[Offered]:
    """The frames that are worth fetching: they bring what no frame before them does.

    Bases in a file that was changed here are read, to see whether they are still in it;
    `is_as_noted` says of which files that need not be done.
    """
    is_as_noted = cache(is_as_noted)

    def is_there(digest: bytes, length: int) -> bool:
        path = sources.path(digest)
        if path is None:
            return False
        return is_as_noted(path) or sources.load(digest, length) is not None

    wanted = set(missing)
    chosen = []
    for item in frames:
        brings = dict(records(item.frame.chunks))
        useful = wanted.intersection(brings)
        is_useful = 2 * sum(brings[digest] for digest in useful) >= item.frame.raw
        if is_useful and all(is_there(*base) for base in records(item.frame.bases)):
            chosen.append(item)
            wanted -= useful
    return chosen


class DeltaChunks:
    """Chunks of the tree, and those that fetched delta frames make of them: a `Reuse`.

    A frame is opened when one of its chunks comes near in the stream, by a thread, and once: what
    was fetched is a few MB, what comes out of it may be the whole of an image. A context manager.
    """

    def __init__(self, sources: TreeChunks, stage: Stage) -> None:
        self._sources = sources
        self._stage = stage
        self._threads = Threads(_OPENERS, "deltas")
        self._found: dict[bytes, Offered] = {}
        self._opened: OrderedDict[Offered, _Opening] = OrderedDict()

    def __enter__(self) -> DeltaChunks:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.close()

    def fetch(self, chosen: list[Offered], reader: Reader, *, threads: int) -> None:
        """Bring frames to the stage; what is in them is looked at when they are opened.

        Raises `TransferError`, `LocalError`.
        """
        missing = [item for item in chosen if not self._is_here(item)]
        by_place = {item.place: item for item in missing}
        pool = ThreadPoolExecutor(threads, thread_name_prefix="deltas")
        try:
            ranges = plan_ranges(by_place)
            for done in [pool.submit(self._fetch, part, reader) for part in ranges]:
                for place in done.result():
                    self._take(by_place[place])
        except KeyboardInterrupt:
            abandon(reader)
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _is_here(self, item: Offered) -> bool:
        """Whether the stage has the frame from a pull that was interrupted."""
        with suppress(Corrupt, NotFound):
            self._open(item)
            self._take(item)
            return True
        return False

    def _fetch(self, part: Range, reader: Reader) -> list[FramePlace]:
        with suppress(Corrupt, NotFound):
            parts = read_range(reader, part, name=layout.delta_pack)
            self._stage.keep(layout.delta_pack(part.pack), parts)
            return [place for place, _ in parts]
        return []

    def _take(self, item: Offered) -> None:
        for digest, _ in records(item.frame.chunks):
            self._found[digest] = item

    def _open(self, item: Offered) -> dict[bytes, memoryview]:
        """The chunks in a frame, checked. Raises `Corrupt`, `NotFound` when a base is gone."""
        frame, pack = item.frame, layout.delta_pack(item.pack)
        stored = self._stage.get(pack, frame.offset, frame.offset + frame.stored)
        where = f"delta pack {item.pack.hex()}, frame at {frame.offset}"
        # Not checked: over another base the chunks come out wrong, and those are checked.
        base = self._sources.read(records(frame.bases))
        raw = memoryview(deltapack.decompress(stored, base, frame.raw, where))
        chunks = {}
        offset = 0
        for digest, length in records(frame.chunks):
            chunks[digest] = raw[offset : offset + length]
            if chunk_digest(chunks[digest]) != digest:
                raise Corrupt(f"{where}: chunk {digest.hex()} is damaged", where=where)
            offset += length
        return chunks

    def count(self, digests: Iterable[bytes]) -> int:
        """How many of these chunks come from delta frames, for all that is known."""
        return sum(digest in self._found for digest in digests)

    def lacks(self, digests: Iterable[bytes]) -> list[bytes]:
        """Those of these chunks that have to be fetched."""
        return [item for item in digests if item not in self._found and not self._sources.has(item)]

    def has(self, digest: bytes) -> bool:
        """See `Reuse.has`."""
        item = self._found.get(digest)
        if item is None:
            return self._sources.has(digest)
        opening = self._opened.get(item)
        if opening is not None:
            opening.due += 1
        elif len(self._opened) < _AHEAD:
            self._opened[item] = _Opening(self._threads.submit(self._open, item))
        return True

    def load(self, digest: bytes, length: int) -> bytes | memoryview | None:
        """See `Reuse.load`."""
        item = self._found.get(digest)
        if item is None:
            return self._sources.load(digest, length) if self._sources.has(digest) else None
        opening = self._opened.get(item)
        if opening is None:
            opening = self._opened[item] = _Opening(self._threads.submit(self._open, item))
        opening.due -= 1
        try:
            chunks = opening.future.result()
        except (Corrupt, NotFound):
            self._give_up(item)
            return None
        if opening.due <= 0:
            self._make_room()
        return chunks[digest]

    def _give_up(self, item: Offered) -> None:
        """A frame is not what it should be: what it was to bring comes from plain frames."""
        self._opened.pop(item, None)
        for digest, _ in records(item.frame.chunks):
            if self._found.get(digest) is item:
                del self._found[digest]

    def _make_room(self) -> None:
        """Drop frames that nothing announced is waiting for, the oldest first."""
        spare = [item for item, opening in self._opened.items() if opening.due <= 0]
        for item in spare[: max(len(spare) - _KEPT, 0)]:
            del self._opened[item]
