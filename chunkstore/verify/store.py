"""Checking a store: packs first, then the documents, then what each version needs.

The lists of what is there are taken before the look and again after one that found something. If
the store has changed meanwhile, it is looked at again: what a commit or `gc` was in the middle of
then has settled, and packs that were found whole are not read a second time.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Final

from chunkstore.database import database_errors
from chunkstore.errors import Corrupt, LocalError, NotFound, Untrusted, local_errors
from chunkstore.objects import pack
from chunkstore.objects.documents import PackUse, Ref, Tag
from chunkstore.progress import Progress, Unwatched
from chunkstore.storage import layout
from chunkstore.storage.catalog import Catalog, Place
from chunkstore.storage.chunks import ChunkReader
from chunkstore.storage.repository import Resolved
from chunkstore.storage.store import Store
from chunkstore.verify.deltas import check_deltas
from chunkstore.verify.findings import Findings, StoreReport, damage
from chunkstore.verify.ledger import Ledger
from chunkstore.verify.listing import Listing, look_around
from chunkstore.verify.packs import CheckedPack, check_pack
from chunkstore.verify.strays import strays
from chunkstore.verify.trees import Homes, Trees

_ATTEMPTS: Final = 4
_MOST_THREADS: Final = 8


def verify_store(store: Store, *, progress: Progress | None = None) -> StoreReport:
    """Check everything in a store. Raises `LocalError` when this machine refuses to read it."""
    with (
        local_errors("can't verify the store"),
        database_errors("can't keep the books of the verification"),
        closing(_Verification(store, progress or Unwatched())) as verification,
    ):
        return verification.run()


class _GoodChunks:
    """Finds chunks that were found good."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def places(self, digests: Iterable[bytes]) -> dict[bytes, Place]:
        wanted = list(digests)
        found = self._catalog.places(wanted)
        for digest in wanted:
            if digest not in found:
                raise NotFound(f"chunk {digest.hex()} is in no good pack", name=digest.hex())
        return found

    def refresh(self) -> bool:
        return False


class _Verification:
    """One verification, of as many looks as it takes."""

    def __init__(self, store: Store, progress: Progress) -> None:
        self._store = store
        self._progress = progress
        self._catalog = Catalog("")
        self._ledger = Ledger()
        self._chunks = ChunkReader(store.reader, _GoodChunks(self._catalog))
        self._whole: set[bytes] = set()
        self._figures: dict[bytes, tuple[int, int]] = {}
        self._begin(look_around(self._store))

    def close(self) -> None:
        self._chunks.close()
        self._ledger.close()
        self._catalog.close()

    def run(self) -> StoreReport:
        self._progress.expect(files=len(self._there), size=sum(map(self._size, self._there)))
        for looks_left in reversed(range(_ATTEMPTS)):
            self._check_packs()
            self._check_documents()
            self._check_versions()
            self._check_deltas()
            after = look_around(self._store) if self._findings else self._listing
            if after == self._listing or not looks_left:
                break
            self._begin(after)
        return self._report()

    def _begin(self, listing: Listing) -> None:
        self._listing = listing
        self._there = listing.packs("pack")
        self._findings = Findings()
        self._homes = Homes()
        self._uses: dict[bytes, PackUse] = {}
        self._without_hint: dict[bytes, str] = {}
        self._reached: dict[bytes, tuple[Resolved, list[str]]] = {}
        # A pack that went takes along what was whole by it.
        self._ledger.clear_trees()

    # Packs

    def _check_packs(self) -> None:
        self._catalog.forget(self._catalog.packs - self._there)
        self._whole &= self._there
        ahead = deque(sorted(self._there - self._whole))
        threads = min(max(os.cpu_count() or 1, 2), _MOST_THREADS)
        under_way: deque[Future[CheckedPack]] = deque()
        with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
            while ahead or under_way:
                while ahead and len(under_way) < 2 * threads:
                    under_way.append(pool.submit(check_pack, self._store, ahead.popleft()))
                self._take(under_way.popleft().result())
        for pack_id in sorted(self._listing.packs("idx") - self._there):
            self._note_lost(pack_id)

    def _size(self, pack_id: bytes) -> int:
        try:
            return self._store.reader.size(layout.pack(pack_id))
        except (NotFound, LocalError):
            return 0

    def _take(self, checked: CheckedPack) -> None:
        name = layout.pack(checked.id)
        for fault in checked.faults:
            self._findings.problem(name, fault)
        if checked.hint_fault and checked.is_without_hint:
            self._without_hint[checked.id] = checked.hint_fault
        elif checked.hint_fault:
            self._findings.problem(layout.index(checked.id), checked.hint_fault)
        if checked.torrent_fault:
            self._findings.problem(layout.torrent(checked.id), checked.torrent_fault)
        self._catalog.forget([checked.id])
        if checked.index is not None:
            self._catalog.learn(checked.id, checked.index, without=checked.damaged)
        self._ledger.spoil(checked.id, checked.damaged)
        if checked.is_whole:
            self._whole.add(checked.id)
        chunks = 0 if checked.index is None else len(checked.index.chunks) // pack.CHUNK.size
        self._figures[checked.id] = (chunks, checked.size)
        self._progress.advance(files=1, size=checked.size)

    def _note_lost(self, pack_id: bytes) -> None:
        """An index whose pack is missing says what was in it."""
        self._findings.problem(layout.pack(pack_id), "is missing, though its index is there")
        with suppress(Corrupt, NotFound):
            index = self._store.index(pack_id)
            self._ledger.spoil(pack_id, (digest for digest, *_ in index.places()))

    # Documents

    def _check_documents(self) -> None:
        for name, what in self._store.authority.faults():
            self._findings.problem(name, what)
        for version_id in self._listing.ids(layout.VERSIONS):
            try:
                self._store.version(version_id)
            except (NotFound, Corrupt, LocalError) as error:
                self._findings.problem(layout.version(version_id), damage(error))
        for version_id in self._listing.ids(layout.LOCATE):
            try:
                self._store.locate(version_id)
            except (NotFound, Corrupt, LocalError) as error:
                self._findings.problem(layout.locate(version_id), damage(error))
        for image, data in self._listing.refs.items():
            name = layout.ref(image)
            if data is None:
                self._findings.problem(name, "is missing, and with it what the image's tags named")
                continue
            try:
                ref = self._store.authority.opened(data, image)
            except (Corrupt, NotFound, Untrusted) as error:
                self._findings.problem(name, damage(error), [image])
                continue
            self._follow_tags(ref)

    def _check_deltas(self) -> None:
        for name, fault in check_deltas(self._store, self._listing):
            self._findings.problem(name, fault)

    def _follow_tags(self, ref: Ref) -> None:
        for tag in ref.tags:
            label = f"{ref.image}:{tag.name}"
            found = self._record(tag.version, label)
            if found is None:
                if layout.version(tag.version) not in self._listing.names:
                    self._findings.problem(layout.version(tag.version), "is missing", [label])
                continue
            self._check_length(tag, found, layout.ref(ref.image), label)
            self._follow_history(ref.image, found)

    def _check_length(self, tag: Tag, found: Resolved, name: str, label: str) -> None:
        length = len(found.version.encode())
        if length != tag.length:
            what = f"says that a record has {tag.length} bytes which has {length}"
            self._findings.problem(name, what, [label])

    def _record(self, version_id: bytes, label: str) -> Resolved | None:
        """A version record; one that is damaged affects `label`."""
        name = layout.version(version_id)
        if name not in self._listing.names:
            return None
        try:
            return Resolved(version_id, self._store.version(version_id))
        except (NotFound, Corrupt, LocalError) as error:
            self._findings.problem(name, damage(error), [label])
            return None

    def _follow_history(self, image: str, found: Resolved | None) -> None:
        while found is not None:
            label = f"{image}:{found.id.hex()[:12]}"
            _, labels = self._reached.setdefault(found.id, (found, []))
            if label in labels:
                return
            labels.append(label)
            parent = found.version.parent
            name = layout.version(parent)
            if not parent or name in self._listing.doomed:
                return
            if name not in self._listing.names and layout.locate(parent) in self._listing.names:
                # gc deletes the hint first, so it was not gc.
                what = "is missing, though its locate hint is there"
                self._findings.problem(name, what, [f"{image}:{parent.hex()[:12]}"])
            found = self._record(parent, f"{image}:{parent.hex()[:12]}")

    # Versions

    def _check_versions(self) -> None:
        args = (self._catalog, self._ledger, self._homes, self._findings)
        trees = Trees(self._chunks.get, *args)
        for resolved, labels in self._reached.values():
            self._check_hint(resolved.id, labels, trees.check(resolved, labels))

    def _check_hint(self, version_id: bytes, labels: list[str], homes: int | None) -> None:
        name = layout.locate(version_id)
        if name not in self._listing.names:
            self._findings.problem(
                name, "is missing; nodes can't find this version's chunks", labels
            )
            return
        try:
            uses = self._store.locate(version_id)
        except (NotFound, Corrupt, LocalError) as error:
            self._findings.problem(name, damage(error), labels)
            return
        for use in uses:
            # Without a version that needs it, the pack is what a killed commit or gc left.
            if fault := self._without_hint.get(use.pack):
                self._findings.problem(layout.index(use.pack), fault)
            if use.pack not in self._there:
                self._findings.problem(layout.pack(use.pack), "is missing", labels)
                self._findings.problem(name, "names a pack that is not there", labels)
            elif self._pack_use(use) != use:
                self._findings.problem(name, "gives a pack another size than it has", labels)
        named = {use.pack for use in uses}
        if homes is not None and self._homes.uncovered(homes, named):
            self._findings.problem(name, "leaves out packs that hold this version's chunks", labels)

    def _pack_use(self, use: PackUse) -> PackUse:
        """How the pack really is to be named; as the hint does if the pack can't tell."""
        if use.pack not in self._uses:
            try:
                self._uses[use.pack] = self._store.pack_use(use.pack)
            except (NotFound, Corrupt, LocalError):
                return use
        return self._uses[use.pack]

    def _report(self) -> StoreReport:
        notes = tuple(strays(self._store.root))
        figures = [self._figures[pack_id] for pack_id in self._there]
        return StoreReport(
            packs=len(self._there),
            chunks=sum(chunks for chunks, _ in figures),
            size=sum(size for _, size in figures),
            versions=len(self._reached),
            problems=tuple(self._findings.problems()),
            notes=notes,
        )
