"""gc: beside pulls, checkouts and commits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support.farm import Farm, assert_whole, collect_elsewhere, pack_names
from support.stores import record

from chunkstore.errors import ChunkstoreError, NotFound
from chunkstore.gc import collection
from chunkstore.objects import chunklist, manifest
from chunkstore.objects.digest import chunk_digest
from chunkstore.objects.names import parse_spec
from chunkstore.storage import chunks as chunks_module
from chunkstore.storage.backends.local import LocalBackend
from chunkstore.storage.catalog import Catalog
from chunkstore.storage.chunks import ChunkReader
from chunkstore.storage.repository import RemoteLocator, Repository
from chunkstore.storage.store import Store


class Pull:
    """A pull by another machine: it holds no lock and sees only public objects."""

    def __init__(self, root: str, version_id: bytes) -> None:
        self.backend = LocalBackend(root)
        repository = Repository(self.backend)
        self.version = repository.version(version_id)
        self.locator = RemoteLocator(repository, Catalog(None), version_id)
        self.chunks = ChunkReader(self.backend, self.locator)

    def plan(self) -> list[tuple[bytes, int]]:
        entries = manifest.walk(self.version.root, self.chunks.get)
        return [item for entry in entries for item in chunklist.walk(entry, self.chunks.get)]

    def stream(
        self, wanted: list[tuple[bytes, int]] | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        listed = self.plan() if wanted is None else wanted
        for (digest, _), data in zip(listed, self.chunks.stream(listed), strict=True):
            yield digest, bytes(data)

    def close(self) -> None:
        self.chunks.close()
        self.backend.close()


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many windows for little content, and no frame kept in memory."""
    monkeypatch.setattr(chunks_module, "WINDOW", 30_000)
    monkeypatch.setattr(chunks_module, "RECENT", 1)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("progress", ["resolved", "located", "planned", "reading"])
@pytest.mark.parametrize("grace", [0, 3600])
@pytest.mark.parametrize("number", [0, 5])
def test_a_pull_under_way_is_not_cut_off(
    farm: Farm, monkeypatch: pytest.MonkeyPatch, progress: str, grace: float, number: int
) -> None:
    """With a grace time not even from a dropped version; without, if its version is kept."""
    monkeypatch.setattr(collection, "MANY", 2)
    farm.line(6)
    report = farm.history[number][0]
    is_kept = number == 5
    turn, done = threading.Event(), threading.Event()
    found: list[tuple[bytes, bytes]] = []
    failed: list[ChunkstoreError] = []

    def run() -> None:
        # Made here: a catalog belongs to one thread.
        pull = Pull(farm.store.root, report.version.id)
        if progress == "located":
            pull.chunks.get(pull.version.root.digest)
        source = pull.stream(pull.plan() if progress == "planned" else None)
        if progress == "reading":
            found.append(next(source))
        turn.set()
        done.wait()
        try:
            found.extend(source)
        except ChunkstoreError as error:
            failed.append(error)
        finally:
            pull.close()

    thread = threading.Thread(target=run)
    thread.start()
    turn.wait()
    names = pack_names(farm.store)
    collected = collect_elsewhere(farm.store.root, keep=2, grace=grace)
    assert collected.packs_repacked > 1
    assert names.isdisjoint(pack_names(farm.store)) == (grace == 0)
    done.set()
    thread.join()
    assert all(chunk_digest(data) == digest for digest, data in found)
    if grace or is_kept:
        assert failed == []
        assert sum(len(data) for _, data in found) == report.version.version.root.size
    else:
        # Unless all of it was on the way already.
        assert all(isinstance(error, NotFound) for error in failed)


@pytest.mark.usefixtures("small_windows")
def test_a_checkout_beside_is_not_cut_off(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local reader goes by the catalog that gc changes under its feet."""
    monkeypatch.setattr(collection, "MANY", 2)
    farm.line(6)
    for number, grace in ((0, 3600), (5, 0)):
        version = farm.history[number][0].version.version
        with (
            Store(farm.store.root) as reader,
            reader.chunks() as nodes,
            reader.chunks() as content,
        ):
            wanted = [
                item
                for entry in manifest.walk(version.root, nodes.get)
                for item in chunklist.walk(entry, nodes.get)
            ]
            stream = content.stream(wanted)
            parts = [bytes(next(stream))]
            collect_elsewhere(farm.store.root, keep=2, grace=grace)
            parts += [bytes(part) for part in stream]
            assert sum(map(len, parts)) == version.root.size


def test_pulls_commits_and_collections_get_along(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody at once, for a while; every version that is read is read whole."""
    monkeypatch.setattr(collection, "MANY", 3)
    farm.line(2)
    stop = threading.Event()
    errors: list[Exception] = []
    counts = {"pull": 0, "commit": 0, "gc": 0, "deleted": 0}

    def loop(what: str, work: Callable[[], object]) -> None:
        try:
            while not stop.is_set():
                work()
                counts[what] += 1
        except Exception as error:
            errors.append(error)

    def pull() -> None:
        backend = LocalBackend(farm.store.root)
        found = Repository(backend).resolve(parse_spec("web"))
        backend.close()
        reading = Pull(farm.store.root, found.id)
        try:
            size = sum(len(data) for _, data in reading.stream())
            assert size == found.version.root.size
        finally:
            reading.close()

    def commit() -> None:
        farm.write("changing", 60_000)
        with Store(farm.store.root) as store:
            record(store, farm.tree)
        # The lock knows no queue: without pauses, the others would hardly get their turn.
        time.sleep(0.1)

    def sweep() -> None:
        report = collect_elsewhere(farm.store.root, grace=1)
        counts["deleted"] += report.packs_deleted
        time.sleep(0.1)

    work = {"pull": pull, "commit": commit, "gc": sweep}
    threads = [threading.Thread(target=loop, args=item) for item in work.items()]
    threads += [threading.Thread(target=loop, args=("pull", pull)) for _ in range(2)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while min(counts.values()) < 4 and not errors and time.monotonic() < deadline:
        time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert min(counts.values()) > 3, counts
    assert_whole(farm.store)
