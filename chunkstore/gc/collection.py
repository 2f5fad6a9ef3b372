"""One collection, step by step: look, then change, then report.

Looking changes nothing and refuses a store in which a kept version is incomplete. The steps of
changing are in the order that makes a crash between any two of them harmless; see the package.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from chunkstore.errors import Corrupt, NotFound
from chunkstore.gc.census import Census, Move
from chunkstore.gc.mark import Marker, kept_versions
from chunkstore.objects import documents, pack
from chunkstore.objects.pack import Index
from chunkstore.progress import Progress
from chunkstore.storage import layout
from chunkstore.storage.chunks import ChunkReader, Wanted
from chunkstore.storage.repository import Resolved
from chunkstore.storage.store import Store
from chunkstore.storage.writer import NewPack

SMALL: Final = pack.TARGET_BYTES // 4
MANY: Final = 16
"""So many small packs are merged: a node that reads old content asks each pack separately."""


@dataclass(frozen=True)
class GcReport:
    """What a collection did, or with `dry_run` would do; sizes in bytes.

    `freed` is gone now, `pending` goes when the grace time is over, `written` is what rewriting
    packs took. `packs_doomed` counts those given up in this run, repacked ones among them.
    """

    versions_kept: int
    versions_dropped: int
    packs_kept: int
    packs_doomed: int
    packs_repacked: int
    packs_written: int
    packs_deleted: int
    leftovers: int
    freed: int
    pending: int
    written: int


@dataclass
class _Pack:
    """A pack by its index: `raw` bytes in it. Without an index of its own it is `damaged`."""

    id: bytes
    size: int
    raw: int = 0
    damaged: bool = False


class Collection:
    """One run. Packs are known by their numbers in `_packs`, as the census has it."""

    def __init__(
        self, store: Store, census: Census, chunks: ChunkReader, now: int, before: int
    ) -> None:
        self._store = store
        self._census = census
        self._chunks = chunks
        self._marker = Marker(chunks.get, census)
        self._now = now
        self._before = before
        self._kept: list[Resolved] = []
        self._packs: list[_Pack] = []
        self._chosen: set[int] = set()
        self._known = store.doomed()
        self._gone: set[str] = set()
        self._freed = 0
        self._new: list[NewPack] = []

    # Looking

    def look(self, keep: int | None) -> None:
        """Find out what is needed, and who has it. Changes nothing."""
        self._kept = kept_versions(self._store, keep)
        for version_id, version in self._kept:
            try:
                self._marker.mark(version.root)
            except (NotFound, Corrupt) as error:
                raise Corrupt(
                    f"version {version_id.hex()[:12]} can't be read whole, nothing was dropped; "
                    f"'imgstore verify' says more: {error}",
                    where=layout.version(version_id),
                ) from error
        for pack_id in sorted(self._store.packs()):
            self._take_stock(pack_id)
        self._claim()
        self._chosen = self._choose()

    def _take_stock(self, pack_id: bytes) -> None:
        found = _Pack(pack_id, self._store.reader.size(layout.pack(pack_id)))
        index = self._index(found)
        if index is not None:
            found.raw = sum(frame.raw for frame in index.frames)
            self._census.take_stock(len(self._packs), index)
        self._packs.append(found)

    def _index(self, found: _Pack) -> Index | None:
        # The `.idx` may be of another pack, and is a last resort.
        for read in (self._store.own_index, self._store.index):
            try:
                return read(found.id)
            except (NotFound, Corrupt):
                found.damaged = True
        return None

    def _claim(self) -> None:
        """Give each needed chunk one home: the fullest whole pack that is not doomed, if any."""
        sizes = self._census.sizes()

        def preference(number: int) -> tuple[bool, bool, float]:
            found = self._packs[number]
            is_doomed = layout.pack(found.id) in self._known
            return found.damaged, is_doomed, -sizes[number] / found.raw

        for number in sorted(sizes, key=preference):
            self._census.claim(number)
        if homeless := self._census.homeless():
            raise Corrupt(
                f"{homeless} chunks that kept versions need are in no pack, nothing was dropped: "
                "'imgstore verify' names what is affected"
            )

    def _choose(self) -> set[int]:
        """The packs to rewrite: those less than half needed, and small ones if there are many."""
        shares = self._census.shares()
        chosen = {
            number
            for number, share in shares.items()
            if share.size * 2 < self._packs[number].raw or self._packs[number].damaged
        }
        small = {number for number in shares if self._packs[number].size < SMALL}
        return chosen | small if len(small) >= MANY else chosen

    def _unneeded(self) -> set[str]:
        """Names of the packs and versions that are there and not needed."""
        shares = self._census.shares()
        packs = {
            layout.pack(found.id)
            for number, found in enumerate(self._packs)
            if number not in shares
        }
        kept = {layout.version(item.id) for item in self._kept}
        versions = {
            name
            for name in self._store.backend.list(layout.VERSIONS)
            if layout.VERSION_FILE.fullmatch(name) and name not in kept
        }
        return (packs | versions) - self._gone

    # Changing

    def change(self, progress: Progress) -> None:
        """Do it."""
        # First what was doomed long ago, for the room: no hint has named it since then.
        unneeded = self._unneeded()
        self._delete({name: since for name, since in self._known.items() if name in unneeded})
        if self._chosen:
            self._repack(progress)
        self._write_hints()
        doomed = {name: self._known.get(name, self._now) for name in self._unneeded()}
        # Listed before any of it goes: until then, writers would rely on it.
        self._store.doom(doomed)
        self._delete(doomed)
        self._store.doom({name: doomed[name] for name in self._unneeded()})

    def _repack(self, progress: Progress) -> None:
        shares = self._census.shares()
        progress.expect(size=sum(shares[number].size for number in self._chosen))
        ahead: deque[Move] = deque()

        def wanted() -> Iterator[Wanted]:
            for move in self._census.moves(self._chosen):
                ahead.append(move)
                yield move.digest, move.length

        with self._store.rewriter() as writer:
            for data in self._chunks.stream(wanted()):
                move = ahead.popleft()
                # A copy, since the view would hold its whole frame in memory.
                put = writer.put_node if move.is_node else writer.put
                put(move.digest, bytes(data))
                progress.advance(size=move.length)
            self._new = writer.finish().packs
        numbers = {found.id: number for number, found in enumerate(self._packs)}
        for new in self._new:
            # A pack that comes out as it was is none to give up.
            number = numbers.setdefault(new.id, len(self._packs))
            contents = self._store.own_index(new.id)
            if number == len(self._packs):
                raw = sum(frame.raw for frame in contents.frames)
                self._packs.append(_Pack(new.id, new.pack_size, raw))
            self._census.move(number, contents)

    def _write_hints(self) -> None:
        """Let every kept version's hint name the packs it needs, and no other, newest first."""
        shares = self._census.shares()
        order = sorted(shares, key=lambda number: shares[number].newest, reverse=True)
        uses = {}
        for number in order:
            pack_id = self._packs[number].id
            uses[number] = self._store.pack_use(pack_id)
            self._put(layout.index(pack_id), self._store.index_in_pack(pack_id))
        for version_id, version in self._kept:
            homes = self._marker.homes(version.root)
            named = [uses[number] for number in order if homes >> number & 1]
            self._put(layout.locate(version_id), documents.encode_locate(version_id, named))

    def _put(self, name: str, data: bytes) -> None:
        """Write an object unless it is there as it should be."""
        with suppress(NotFound):
            if self._store.reader.get(name, 0, len(data) + 1) == data:
                return
        self._store.backend.put(name, data)

    def _delete(self, doomed: Mapping[str, int]) -> None:
        """Delete what was doomed long enough ago, versions before the packs they need."""
        for name in sorted(doomed, reverse=True):
            if doomed[name] <= self._before:
                self._freed += self._size(name)
                for part in _parts(name):
                    self._store.backend.delete(part)
                self._gone.add(name)

    def _size(self, name: str) -> int:
        size = 0
        for part in _parts(name):
            with suppress(NotFound):
                size += self._store.reader.size(part)
        return size

    # Reporting

    def report(self, *, swept: int, dry_run: bool) -> GcReport:
        """What was done, or if nothing was, what would be."""
        unneeded = self._unneeded()
        if dry_run:
            unneeded |= {layout.pack(self._packs[number].id) for number in self._chosen}
            now = {name for name in unneeded if self._known.get(name, self._now) <= self._before}
            self._freed = sum(map(self._size, now))
            self._gone = now
        pending = unneeded - self._gone
        fresh = (unneeded | self._gone) - self._known.keys()
        return GcReport(
            versions_kept=len(self._kept),
            versions_dropped=_count(layout.VERSIONS, fresh),
            packs_kept=len(self._census.shares()),
            packs_doomed=_count(layout.PACKS, fresh),
            packs_repacked=len(self._chosen),
            packs_written=len(self._new),
            packs_deleted=_count(layout.PACKS, self._gone),
            leftovers=swept,
            freed=self._freed,
            pending=sum(map(self._size, pending)),
            written=sum(new.pack_size + new.index_size for new in self._new),
        )


def _parts(name: str) -> tuple[str, ...]:
    """The objects that go with a version or a pack, in the order they are deleted.

    The hint before the version: one that is left alone says that its version was lost, not
    dropped. The pack last: an index without its pack says the same.
    """
    if name.startswith(layout.VERSIONS):
        return layout.LOCATE + name.removeprefix(layout.VERSIONS), name
    stem = name.removesuffix(".pack")
    return f"{stem}.torrent", f"{stem}.idx", name


def _count(prefix: str, names: Iterable[str]) -> int:
    return sum(name.startswith(prefix) for name in names)
