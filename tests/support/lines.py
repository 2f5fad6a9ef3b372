"""A node that follows a store, and remotes that note what is asked of them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from chunkstore.pull import PullReport
from chunkstore.storage import layout
from chunkstore.storage.backends.local import LocalBackend
from chunkstore.storage.backends.memory import MemoryBackend
from chunkstore.storage.store import Store
from support import stores, trees
from support.stores import bring, record, settle


def same(one: Path, other: Path) -> None:
    """By system calls alone: for the many comparisons of small trees."""
    assert trees.differences(trees.facts(one), trees.facts(other)) == []


class Recorder:
    """Notes every range that is asked for."""

    def __init__(self, inner: MemoryBackend | LocalBackend) -> None:
        self.inner = inner
        self.ranges: list[tuple[str, int, int]] = []
        self._lock = threading.Lock()

    def get(self, name: str, start: int, stop: int) -> bytes:
        with self._lock:
            self.ranges.append((name, start, stop))
        return self.inner.get(name, start, stop)

    def size(self, name: str) -> int:
        return self.inner.size(name)

    def close(self) -> None:
        self.inner.close()

    def fetched(self, store: Store) -> list[bytes]:
        """The chunks of all frames that lie wholly in a range that was asked for."""
        found = []
        for pack_id in store.packs():
            index = store.own_index(pack_id)
            name = layout.pack(pack_id)
            wanted = [(start, stop) for got, start, stop in self.ranges if got == name]
            for digest, number, _, _ in index.places():
                frame = index.frames[number]
                end = frame.offset + frame.stored
                found += [digest for start, stop in wanted if start <= frame.offset and end <= stop]
        return found


class Line:
    """A store, its tree, and one node that follows it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.tree = place / "tree"
        self.tree.mkdir()
        self.node = place / "node"
        self.store = stores.make_store(place / "store")

    def commit(self) -> set[bytes]:
        """Record the tree; the chunks of its content."""
        settle()
        root = record(self.store, self.tree).version.version.root
        return stores.chunks_of(self.store, root)

    def pull(self, spec: str = "web") -> tuple[PullReport, Recorder]:
        recorder = Recorder(stores.in_memory(self.store))
        return bring(recorder, spec, self.node), recorder

    def same(self) -> None:
        trees.assert_same(self.tree, self.node)


def fill(tree: Path) -> None:
    for folder in ("a/deep", "b"):
        (tree / folder).mkdir(parents=True)
    for name in ("a/1", "a/deep/2", "b/3", "top"):
        (tree / name).write_bytes(trees.pseudo_random(name, 60_000))
    os.link(tree / "a/1", tree / "b/linked")
    os.symlink("1", tree / "a/symlink")
