"""A local store: a repository that can be written to.

Promises: `publish` makes a version reachable only after everything it names is durable, in the
order packs, indexes, version, locate, ref. Every ref is signed, unless the store was made without
keys, and only on top of one that was signed here. Writers hold the store's lock; readers need none.
The catalog follows the packs that are there, whoever put them. What `gc` has doomed can be read
until it is deleted, but no writer relies on it, and writing it anew takes it off the list. What
reads and writes chunks is loaded when it is wanted: many verbs only look at refs and versions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING

from chunkstore import fsio
from chunkstore.errors import ChunkstoreError, Corrupt, NotFound, Usage, local_errors
from chunkstore.objects import documents
from chunkstore.objects.digest import version_digest
from chunkstore.objects.documents import PackUse, Ref, Tag, Version
from chunkstore.objects.names import LATEST, NAME
from chunkstore.objects.pack import Index
from chunkstore.storage import doomed, layout, lock, sequences
from chunkstore.storage.authority import Authority
from chunkstore.storage.backends.local import LocalBackend
from chunkstore.storage.repository import Repository, Resolved

if TYPE_CHECKING:
    from chunkstore.storage.catalog import Catalog, Place
    from chunkstore.storage.chunks import ChunkReader
    from chunkstore.storage.writer import ChunkWriter
    from chunkstore.trust.keys import Signer

PATIENCE = 600.0
"""Seconds a writer waits for another before it gives up."""


class Store(Repository):
    """A store in a directory of this machine. `waiting` is told who holds the lock.

    `signers` sign its refs, instead of the online key that is kept with the store. `notice` is told
    what went wrong and was put right, or done without.
    """

    def __init__(
        self,
        root: str,
        *,
        waiting: Callable[[str], None] | None = None,
        signers: Sequence[Signer] = (),
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self.root = root
        self.backend = LocalBackend(root)
        self.local = os.path.join(root, layout.LOCAL)
        self._doomed_list = os.path.join(self.local, "doomed")
        self._sequences = os.path.join(self.local, "sequences")
        self._waiting = waiting
        self._notice = notice
        super().__init__(self.backend)
        try:
            self._store_id = self.settings.store_id
            self.authority = Authority(self.backend, self.local, self.settings, signers)
        except BaseException:
            self.backend.close()
            raise

    @cached_property
    def catalog(self) -> Catalog:
        """Where chunks lie, brought up to date with the packs that are there."""
        from chunkstore.storage.catalog import Catalog

        path: str | None = os.path.join(self.local, "catalog.sqlite")
        if not os.access(self.local, os.W_OK):
            path = None  # a read-only store: learn what is needed in memory
        catalog = Catalog(path, notice=self._notice)
        self._follow_packs(catalog)
        return catalog

    def _follow_packs(self, catalog: Catalog) -> None:
        there = set(self.packs()) - self._doomed_packs()
        catalog.forget(catalog.packs - there)
        for pack_id in sorted(there - catalog.packs):
            # Only by the index in the pack itself. A writer leaves out what the catalog knows, and
            # an `.idx` of another pack, or of one cut short, would make it leave out what is lost.
            with suppress(NotFound, Corrupt):
                catalog.learn(pack_id, self.own_index(pack_id))

    @cached_property
    def _spare(self) -> Catalog:
        """Packs no writer may rely on but readers can use: doomed ones, and damaged ones."""
        from chunkstore.storage.catalog import Catalog

        catalog = Catalog(None)
        for pack_id in set(self.packs()) - self.catalog.packs:
            with suppress(NotFound, Corrupt):
                catalog.learn(pack_id, self.index(pack_id))
        return catalog

    def close(self) -> None:
        """Give back all descriptors; the store can't be used afterwards."""
        self._drop("catalog", "_spare")
        self.backend.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drop(self, *catalogs: str) -> None:
        for name in catalogs:
            catalog = self.__dict__.pop(name, None)
            if catalog is not None:
                catalog.close()

    def packs(self) -> Iterator[bytes]:
        """The ids of all packs that are there."""
        for name in self.backend.list(layout.PACKS):
            found = layout.PACK_FILE.fullmatch(name)
            if found is not None and found["suffix"] == "pack":
                yield bytes.fromhex(found["id"])

    def doomed(self) -> dict[str, int]:
        """Objects that `gc` has given up and only keeps for pulls under way, and since when."""
        return doomed.read(self._doomed_list)

    def _doomed_packs(self) -> set[bytes]:
        found = map(layout.PACK_FILE.fullmatch, self.doomed())
        return {bytes.fromhex(match["id"]) for match in found if match is not None}

    def doom(self, objects: Mapping[str, int]) -> None:
        """Replace the list of what is doomed; the caller holds the lock."""
        if objects == self.doomed():
            return
        doomed.write(self._doomed_list, objects)
        self._drop("_spare")
        if "catalog" in self.__dict__:
            self._follow_packs(self.catalog)

    def _revive(self, names: Iterable[str]) -> None:
        """Take objects off the list, before a ref makes them needed again."""
        needed = set(names)
        self.doom({name: since for name, since in self.doomed().items() if name not in needed})

    def history(self, version_id: bytes) -> Iterator[Resolved]:
        """See `Repository.history`; ends also where `gc` has given up the older ones."""
        given_up = self.doomed()
        for found in super().history(version_id):
            if layout.version(found.id) in given_up:
                return
            yield found

    def places(self, digests: Iterable[bytes]) -> dict[bytes, Place]:
        """Where all of these chunks lie. Raises `NotFound`."""
        wanted = list(digests)
        found = self.catalog.places(wanted)
        missing = [digest for digest in wanted if digest not in found]
        if missing:
            # Another process may have committed since.
            self._follow_packs(self.catalog)
            found.update(self.catalog.places(missing))
            missing = [digest for digest in missing if digest not in found]
        if missing:
            found.update(self._spare.places(missing))
            missing = [digest for digest in missing if digest not in found]
        if missing:
            name = missing[0].hex()
            raise NotFound(f"chunk {name} is in no pack of the store", name=name)
        return found

    def refresh(self) -> bool:
        """Build the catalog anew from the packs."""
        self._drop("_spare")
        there = sorted(set(self.packs()) - self._doomed_packs())
        self.catalog.rebuild(self._own_indexes(there))
        return True

    def _own_indexes(self, packs: Iterable[bytes]) -> Iterator[tuple[bytes, Index]]:
        for pack_id in packs:
            with suppress(NotFound, Corrupt):
                yield pack_id, self.own_index(pack_id)

    def chunks(self, *, threads: int = 2) -> ChunkReader:
        """A reader of this store's chunks."""
        from chunkstore.storage.chunks import ChunkReader

        return ChunkReader(self.backend, self, threads=threads)

    def images(self) -> list[str]:
        """The names of all images."""
        found = []
        for name in self.backend.list(layout.IMAGES):
            image, _, rest = name.removeprefix(layout.IMAGES).partition("/")
            if rest == "ref" and NAME.fullmatch(image):
                found.append(image)
        return found

    @contextmanager
    def locked(self, purpose: str) -> Iterator[None]:
        """Hold the store's lock; a second writer waits, in the end raises `Conflict`."""
        path = os.path.join(self.local, "lock")
        with lock.exclusive(path, purpose, wait=PATIENCE, waiting=self._waiting):
            self._sweep_spool()
            # What was known before may have been doomed since; a writer opens the catalog anew.
            self._drop("catalog", "_spare")
            yield

    def _sweep_spool(self) -> None:
        """Remove what a killed writer left; only the holder of the lock writes there."""
        spool = os.path.join(self.local, "spool")
        with local_errors("can't use the store's spool"):
            os.makedirs(spool, exist_ok=True)
            for name in os.listdir(spool):
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(spool, name))

    def writer(self) -> ChunkWriter:
        """A writer of chunks; the caller holds the lock."""
        return self._writer(self.catalog)

    def rewriter(self) -> ChunkWriter:
        """A writer that stores chunks again which the store has; the caller holds the lock."""
        from chunkstore.storage.catalog import Catalog

        return self._writer(Catalog(None))

    def _writer(self, catalog: Catalog) -> ChunkWriter:
        from chunkstore.storage.writer import ChunkWriter

        spool = os.path.join(self.local, "spool")
        return ChunkWriter(self.backend, catalog, spool, self.settings.compression)

    def publish(
        self, image: str, version: Version, uses: list[PackUse], *, tags: Iterable[str], now: int
    ) -> bytes:
        """Record a version whose chunks are durable, as `latest` and by `tags`. Returns its id."""
        data = version.encode()
        version_id = version_digest(data)
        # A pack or version that was just written may have the bytes, and so the name, of one that
        # is doomed.
        self._revive(layout.pack(use.pack) for use in uses)
        for use in uses:
            self._complete(use.pack)
        self.backend.put(layout.version(version_id), data)
        self.backend.put(layout.locate(version_id), documents.encode_locate(version_id, uses))
        named = [Tag(name, version_id, len(data)) for name in (LATEST, *tags)]
        self.change_ref(image, named, now=now)
        return version_id

    def uses(self, version_id: bytes) -> list[PackUse]:
        """The packs that a version may need: those its hint names, or else all there are."""
        try:
            return self.locate(version_id)
        except ChunkstoreError:
            # A lost hint is made good by naming every pack that may be relied on: gc will write an
            # exact one.
            return [self.pack_use(pack_id) for pack_id in sorted(self.catalog.packs)]

    def _complete(self, pack_id: bytes) -> None:
        """Put a pack's index beside it if a writer was killed between the two."""
        try:
            self.backend.size(layout.index(pack_id))
        except NotFound:
            self.backend.put(layout.index(pack_id), self.index_in_pack(pack_id))

    def change_ref(
        self, image: str, tags: Iterable[Tag] = (), *, drop: Iterable[str] = (), now: int
    ) -> Ref:
        """Set and drop tags of an image, under the next sequence number, and sign that.

        Raises `Conflict`; `Untrusted` when the ref that is there was not signed by this store.
        """
        before: bytes | None
        try:
            before = self._ref_data(image)
            ref = self.authority.opened(before, image)
        except NotFound:
            last = sequences.read(self._sequences).get(image, 0)
            ref = Ref(self.settings.store_id, image, 0, last, 0, 0, ())
            before = None
        changed = ref
        for name in drop:
            changed = changed.without_tag(name)
        for tag in tags:
            changed = changed.with_tag(tag)
        if changed == ref:
            return ref
        changed, data = self.authority.sealed(changed, now=now)
        self._revive(layout.version(tag.version) for tag in changed.tags)
        self.backend.swap(layout.ref(image), before, data)
        return changed

    def sign_again(self, image: str, *, now: int) -> Ref:
        """Sign what a ref says anew, under the next sequence number. Raises as `change_ref`."""
        before = self._ref_data(image)
        ref, data = self.authority.sealed(self.authority.opened(before, image), now=now)
        self.backend.swap(layout.ref(image), before, data)
        return ref

    def ref(self, image: str) -> Ref:
        """The ref of an image, which this store itself has signed. Raises `NotFound`, `Untrusted`.

        It may have expired: nodes look at that, and here it can be renewed.
        """
        return self.authority.opened(self._ref_data(image), image)

    def remove_image(self, image: str) -> None:
        """Take an image's ref away; its content stays until `gc`. Raises `NotFound`."""
        data = self._ref_data(image)
        sequences.remember(self._sequences, image, self.authority.opened(data, image).sequence)
        self.backend.swap(layout.ref(image), data, None)
        with suppress(OSError):
            os.rmdir(os.path.join(self.root, layout.IMAGES, image))

    def change_lifetime(self, lifetime: int) -> None:
        """From now on sign refs for so many seconds, 0 for ever; the caller holds the lock."""
        settings = self.settings._replace(lifetime=lifetime)
        with local_errors("can't change the store's settings"):
            fsio.write_durably(os.path.join(self.root, layout.SETTINGS), settings.encode())
        self.__dict__["settings"] = settings
        self.authority = Authority(self.backend, self.local, settings, self.authority.signers)


def check_new_tag(name: str) -> str:
    """Return `name` if people may set it. Raises `Usage`."""
    if NAME.fullmatch(name) is None:
        raise Usage(f"{name!r} can't name a tag")
    return name
