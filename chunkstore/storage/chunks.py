"""Reading chunks: a stream of digests in, the verified bytes of each out, in the same order.

The reader looks ahead: it finds the places of the next chunks, merges neighbouring frames into
ranges, fetches and decompresses those on threads while the caller works on what came before.
Promises: every chunk handed out has the digest that was asked for; memory is a few windows,
whatever the number of chunks. Leaves finding places to a `Locator` and bytes to a `Reader`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol

from chunkstore.errors import Corrupt, NotFound
from chunkstore.objects.digest import chunk_digest
from chunkstore.storage import layout
from chunkstore.storage.backend import Reader, abandon, doubt
from chunkstore.storage.ranges import MAX_GAP, Range, open_frame, plan_ranges, read_range
from chunkstore.storage.threads import Threads

if TYPE_CHECKING:
    from concurrent.futures import Future

    from chunkstore.storage.catalog import FramePlace, Place

Wanted = tuple[bytes, int]
"""A chunk's digest and length."""

WINDOW: Final = 16 * 1024 * 1024
"""Raw bytes looked ahead at a time, of chunks or of the frames they are in; two windows are under
way at once."""
RECENT: Final = 48 * 1024 * 1024
"""Raw bytes of frames kept for the chunks that come later: packs of several commits interleave."""
_STEP: Final = 32
_LEAST: Final = 2048
"""What a chunk counts for in a window at least: many tiny ones take memory too."""


class Locator(Protocol):
    """Finds places of chunks."""

    def places(self, digests: Iterable[bytes]) -> dict[bytes, Place]:
        """Where all of these chunks lie. Raises `NotFound` when one can't be found."""
        ...

    def refresh(self) -> bool:
        """Learn anew what may have moved; False when there is nothing new to learn."""
        ...


class Nowhere:
    """A locator that finds nothing: for readers that are to live on reuse alone."""

    def places(self, digests: Iterable[bytes]) -> dict[bytes, Place]:
        """See `Locator.places`."""
        for digest in digests:
            raise NotFound(f"chunk {digest.hex()} is not on this node: pull again")
        return {}

    def refresh(self) -> bool:
        """See `Locator.refresh`."""
        return False


class Reuse(Protocol):
    """Chunks that can be had without reading a pack, such as from files already written."""

    def has(self, digest: bytes) -> bool:
        """Asked once per wanted chunk, in order, before it is read."""
        ...

    def load(self, digest: bytes, length: int) -> bytes | memoryview | None:
        """The chunk, its digest checked; None when it is not there after all."""
        ...


class _Loaded:
    """A frame in memory and which of its chunks have been checked."""

    __slots__ = ("checked", "data")

    def __init__(self, data: bytes, needs: Iterable[tuple[bytes, Place]]) -> None:
        self.data = data
        self.checked = {digest for digest, place in needs if self._holds(digest, place)}

    def has(self, needs: Iterable[tuple[bytes, Place]]) -> bool:
        """Whether all of these were found to be right."""
        return all(digest in self.checked for digest, _ in needs)

    def _holds(self, digest: bytes, place: Place) -> bool:
        return chunk_digest(self._slice(place)) == digest

    def _slice(self, place: Place) -> memoryview:
        return memoryview(self.data)[place.offset : place.offset + place.length]

    def chunk(self, digest: bytes, place: Place) -> memoryview:
        """The chunk, checked here unless it was checked on arrival. Raises `Corrupt`."""
        if digest not in self.checked:
            if not self._holds(digest, place):
                pack = place.frame.pack.hex()
                raise Corrupt(
                    f"chunk {digest.hex()} is damaged: pack {pack}, frame at {place.frame.offset}, "
                    f"offset {place.offset}",
                    where=pack,
                )
            self.checked.add(digest)
        return self._slice(place)


if TYPE_CHECKING:
    _Arriving = Future[dict[FramePlace, _Loaded]]


class _Window:
    """Chunks looked ahead for, where they lie, and the frames on their way."""

    def __init__(self, generation: int) -> None:
        self.wanted: list[Wanted] = []
        self.reused: set[int] = set()
        self.places: dict[bytes, Place] = {}
        self.frames: dict[FramePlace, _Arriving] = {}
        self.generation = generation
        """How often the locator had been refreshed when the places were found."""


class ChunkReader:
    """Streams chunks of one store or remote. A context manager, since it owns threads."""

    def __init__(
        self, reader: Reader, locator: Locator, *, threads: int = 2, max_gap: int = MAX_GAP
    ) -> None:
        self._reader = reader
        self._locator = locator
        self._max_gap = max_gap
        self._pool = Threads(threads, "chunks")
        self._recent: OrderedDict[FramePlace, _Arriving] = OrderedDict()
        self._recent_bytes = 0
        self._generation = 0
        self.read = 0
        """Chunks of streams that were read from packs, not reused."""
        self.read_bytes = 0

    def __enter__(self) -> ChunkReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):
            # Interrupted. A range on a slow line, or a throttled one, takes minutes to come.
            abandon(self._reader)
        self.close()

    def close(self) -> None:
        """Stop the threads; what is under way is given up."""
        self._pool.close()

    def get(self, digest: bytes) -> bytes:
        """One chunk. Raises `NotFound`, `Corrupt`, `TransferError`."""
        return self.get_many([digest])[digest]

    def get_many(self, digests: Iterable[bytes]) -> dict[bytes, bytes]:
        """Several chunks, which all have to fit into memory, fetched together."""
        unique = list(dict.fromkeys(digests))
        window = _Window(self._generation)
        window.wanted = [(digest, 0) for digest in unique]
        self._plan(window, unique)
        return {
            digest: bytes(self._take(window, position)) for position, digest in enumerate(unique)
        }

    def stream(self, wanted: Iterable[Wanted], reuse: Reuse | None = None) -> Iterator[memoryview]:
        """Yield each wanted chunk's bytes in order; `reuse` is asked first. Raises as `get`."""
        source = iter(wanted)
        windows: deque[_Window] = deque()
        while True:
            while len(windows) < 2 and (window := self._look_ahead(source, reuse)) is not None:
                windows.append(window)
            if not windows:
                return
            yield from self._drain(windows.popleft(), reuse)

    def _look_ahead(self, source: Iterator[Wanted], reuse: Reuse | None) -> _Window | None:
        window = _Window(self._generation)
        needed: dict[bytes, None] = {}
        frames: set[FramePlace] = set()
        total = 0
        # In steps, since small chunks may be scattered over large frames: those take the memory.
        while total < WINDOW and sum(frame.raw for frame in frames) < WINDOW:
            before = len(window.wanted)
            fresh = []
            for digest, length in islice(source, _STEP):
                if reuse is not None and reuse.has(digest):
                    window.reused.add(len(window.wanted))
                elif digest not in needed:
                    needed[digest] = None
                    fresh.append(digest)
                window.wanted.append((digest, length))
                total += max(length, _LEAST)
                if total >= WINDOW:
                    break
            if len(window.wanted) == before:
                break
            window.places.update(self._find(fresh))
            frames.update(window.places[digest].frame for digest in fresh)
        if not window.wanted:
            return None
        self._set_off(window, list(needed))
        return window

    def _plan(self, window: _Window, digests: list[bytes]) -> None:
        """Find the places of `digests` and set off for their frames."""
        window.places.update(self._find(digests))
        self._set_off(window, digests)

    def _set_off(self, window: _Window, digests: list[bytes]) -> None:
        """Set off for the frames of `digests` that are not on their way."""
        needs: dict[FramePlace, list[tuple[bytes, Place]]] = {}
        for digest in digests:
            place = window.places[digest]
            needs.setdefault(place.frame, []).append((digest, place))
        missing = []
        for frame in needs:
            arriving = self._recent.get(frame)
            if arriving is None:
                missing.append(frame)
            else:
                self._recent.move_to_end(frame)
                window.frames[frame] = arriving
        for wanted in plan_ranges(missing, max_gap=self._max_gap):
            parts = {frame: needs[frame] for frame in wanted.frames}
            arriving = self._pool.submit(self._fetch, wanted, parts)
            for frame in wanted.frames:
                window.frames[frame] = self._recent[frame] = arriving
                self._recent_bytes += frame.raw
        while self._recent_bytes > RECENT:
            frame, _ = self._recent.popitem(last=False)
            self._recent_bytes -= frame.raw

    def _find(self, digests: list[bytes]) -> dict[bytes, Place]:
        try:
            return self._locator.places(digests)
        except (NotFound, Corrupt):
            # The hint, or an index it names, may be of packs that were repacked meanwhile.
            if not self._refresh():
                raise
            return self._locator.places(digests)

    def _refresh(self) -> bool:
        """Let the locator learn anew; what was fetched from places known before is dropped."""
        if not self._locator.refresh():
            return False
        self._generation += 1
        self._recent.clear()
        self._recent_bytes = 0
        return True

    def _fetch(
        self, wanted: Range, needs: dict[FramePlace, list[tuple[bytes, Place]]]
    ) -> dict[FramePlace, _Loaded]:
        while True:
            try:
                loaded = {
                    frame: _Loaded(open_frame(frame, stored), needs[frame])
                    for frame, stored in read_range(self._reader, wanted)
                }
                if all(found.has(needs[frame]) for frame, found in loaded.items()):
                    return loaded
            except Corrupt:
                if not self._is_elsewhere(wanted):
                    raise
            else:
                # Nobody has it better: whoever takes the chunk says what is wrong.
                if not self._is_elsewhere(wanted):
                    return loaded

    def _is_elsewhere(self, wanted: Range) -> bool:
        return doubt(self._reader, layout.pack(wanted.pack), wanted.start, wanted.stop)

    def _drain(self, window: _Window, reuse: Reuse | None = None) -> Iterator[memoryview]:
        for position, (digest, length) in enumerate(window.wanted):
            data: memoryview | None = None
            if reuse is not None and position in window.reused:
                kept = reuse.load(digest, length)
                if kept is not None:
                    data = memoryview(kept)
                elif digest not in window.places:
                    self._plan(window, [digest])
            if data is None:
                data = self._take(window, position)
                if length and position not in window.reused:
                    self.read += 1
                    self.read_bytes += len(data)
            if length and len(data) != length:
                raise Corrupt(f"chunk {digest.hex()} has {len(data)} bytes, not {length}")
            yield data

    def _take(self, window: _Window, position: int) -> memoryview:
        digest = window.wanted[position][0]
        try:
            return self._chunk(window, digest)
        except (NotFound, Corrupt):
            # The pack may have been repacked, or the catalog be wrong: what both say is a hint.
            # The windows looked ahead are of the same mind; one refresh serves them all.
            if window.generation == self._generation and not self._refresh():
                raise
        rest = window.wanted[position:]
        self._plan(window, list({item[0]: None for item in rest if item[0] in window.places}))
        window.generation = self._generation
        return self._chunk(window, digest)

    def _chunk(self, window: _Window, digest: bytes) -> memoryview:
        place = window.places[digest]
        return window.frames[place.frame].result()[place.frame].chunk(digest, place)
