"""A local store: a repository that can be written to.

Promises: `publish` makes a version reachable only after everything it names is durable, in the
order packs, indexes, version, locate, ref. Writers hold the store's lock; readers need none.
The catalog follows the packs that are there, whoever put them.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property

from chunkstore import fsio
from chunkstore.errors import Conflict, NotFound, Usage, local_errors
from chunkstore.objects import documents
from chunkstore.objects.chunker import Parameters
from chunkstore.objects.digest import version_digest
from chunkstore.objects.documents import PackUse, Ref, Settings, Tag, Version
from chunkstore.objects.names import LATEST, NAME
from chunkstore.storage import layout, lock
from chunkstore.storage.backends.local import LocalBackend
from chunkstore.storage.catalog import Catalog, Place
from chunkstore.storage.chunks import ChunkReader
from chunkstore.storage.repository import Repository
from chunkstore.storage.writer import ChunkWriter

PATIENCE = 600.0
"""Seconds a writer waits for another before it gives up."""


def create(root: str, *, compression: str = "auto", chunker: Parameters | None = None) -> Store:
    """Make an empty store in a new or empty directory. Raises `Conflict` when one is there."""
    with local_errors("can't make a store"):
        os.makedirs(root, exist_ok=True)
        if os.path.exists(os.path.join(root, layout.SETTINGS)):
            raise Conflict(f"there is a store in {root} already")
        if os.listdir(root):
            raise Conflict(f"{root} is not empty: a store needs a directory of its own")
        for folder in (layout.IMAGES, layout.VERSIONS, layout.PACKS, layout.LOCATE):
            os.mkdir(os.path.join(root, folder))
        os.makedirs(os.path.join(root, layout.LOCAL, "spool"), mode=0o700)
        os.chmod(os.path.join(root, layout.LOCAL), 0o700)
        settings = Settings(os.urandom(16), chunker or Parameters(), compression)
        fsio.write_durably(os.path.join(root, layout.SETTINGS), settings.encode())
    return Store(root)


class Store(Repository):
    """A store in a directory of this machine. `waiting` is told who holds the lock."""

    def __init__(self, root: str, *, waiting: Callable[[str], None] | None = None) -> None:
        self.root = root
        self.backend = LocalBackend(root)
        self.local = os.path.join(root, layout.LOCAL)
        self._waiting = waiting
        super().__init__(self.backend)
        self._store_id = self.settings.store_id

    @cached_property
    def catalog(self) -> Catalog:
        """Where chunks lie, brought up to date with the packs that are there."""
        path: str | None = os.path.join(self.local, "catalog.sqlite")
        if not os.access(self.local, os.W_OK):
            path = None  # a read-only store: learn what is needed in memory
        catalog = Catalog(path)
        self._follow_packs(catalog)
        return catalog

    def _follow_packs(self, catalog: Catalog) -> None:
        there = set(self.packs()) - self.doomed()
        catalog.forget(catalog.packs - there)
        for pack_id in sorted(there - catalog.packs):
            catalog.learn(pack_id, self.index(pack_id))

    def packs(self) -> Iterator[bytes]:
        """The ids of all packs that are there."""
        for name in self.backend.list(layout.PACKS):
            stem, _, suffix = name.removeprefix(layout.PACKS).partition(".")
            if suffix == "pack" and len(stem) == 64:
                yield bytes.fromhex(stem)

    def doomed(self) -> set[bytes]:
        """Packs that `gc` has given up and only keeps for pulls under way."""
        try:
            with open(os.path.join(self.local, "doomed")) as lines:
                return {bytes.fromhex(line.split()[0]) for line in lines if line.strip()}
        except FileNotFoundError:
            return set()

    def places(self, digests: Iterable[bytes]) -> dict[bytes, Place]:
        """Where all of these chunks lie. Raises `NotFound`."""
        wanted = list(digests)
        try:
            found = self.catalog.places(wanted)
        except sqlite3.DatabaseError:
            self.refresh()
            found = self.catalog.places(wanted)
        if len(found) < len(set(wanted)):
            missing = next(digest for digest in wanted if digest not in found)
            raise NotFound(f"chunk {missing.hex()} is in no pack of the store", name=missing.hex())
        return found

    def refresh(self) -> bool:
        """Build the catalog anew from the indexes."""
        self.catalog.reset()
        self._follow_packs(self.catalog)
        return True

    def chunks(self, *, threads: int = 2) -> ChunkReader:
        """A reader of this store's chunks."""
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
        spool = os.path.join(self.local, "spool")
        return ChunkWriter(self.backend, self.catalog, spool, self.settings.compression)

    def publish(
        self, image: str, version: Version, uses: list[PackUse], *, tags: Iterable[str], now: int
    ) -> bytes:
        """Record a version whose chunks are durable, as `latest` and by `tags`. Returns its id."""
        data = version.encode()
        version_id = version_digest(data)
        self.backend.put(layout.version(version_id), data)
        self.backend.put(layout.locate(version_id), documents.encode_locate(version_id, uses))
        named = [Tag(name, version_id, len(data)) for name in (LATEST, *tags)]
        self.change_ref(image, named, now=now)
        return version_id

    def change_ref(
        self, image: str, tags: Iterable[Tag] = (), *, drop: Iterable[str] = (), now: int
    ) -> Ref:
        """Set and drop tags of an image, under the next sequence number. Raises `Conflict`."""
        try:
            ref: Ref = self.ref(image)
            before: bytes | None = ref.encode()
        except NotFound:
            ref = Ref(self.settings.store_id, image, 0, 0, 0, ())
            before = None
        changed = ref
        for name in drop:
            changed = changed.without_tag(name)
        for tag in tags:
            changed = changed.with_tag(tag)
        if changed == ref:
            return ref
        changed = changed._replace(sequence=ref.sequence + 1, time=now)
        self.backend.swap(layout.ref(image), before, changed.encode())
        return changed

    def remove_image(self, image: str) -> None:
        """Take an image's ref away; its content stays until `gc`. Raises `NotFound`."""
        before = self.ref(image).encode()
        self.backend.swap(layout.ref(image), before, None)
        with suppress(OSError):
            os.rmdir(os.path.join(self.root, layout.IMAGES, image))


def open_or_create(root: str, *, waiting: Callable[[str], None] | None = None) -> Store:
    """The store in `root`, made with the defaults when nothing is there."""
    if not os.path.exists(os.path.join(root, layout.SETTINGS)):
        create(root)
    return Store(root, waiting=waiting)


def check_new_tag(name: str) -> str:
    """Return `name` if people may set it. Raises `Usage`."""
    if NAME.fullmatch(name) is None:
        raise Usage(f"{name!r} can't name a tag")
    return name
