"""Interrupted, nobody waits for a slow server: calls under way are cut."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from support import stores
from support.servers import SOON, BadServer, Step, reply

from chunkstore.errors import ChunkstoreError, Usage
from chunkstore.storage.backend import Reader, abandon
from chunkstore.storage.backends.http import HttpReader
from chunkstore.storage.backends.local import LocalBackend
from chunkstore.storage.backends.memory import MemoryBackend
from chunkstore.storage.backends.throttle import Throttle, ThrottledReader
from chunkstore.storage.chunks import ChunkReader
from chunkstore.storage.metered import MeteredReader
from chunkstore.storage.stage import Stage

LONG = 3600.0
"""Seconds that nobody waits here."""


@pytest.fixture
def server() -> Iterator[Callable[..., BadServer]]:
    servers: list[BadServer] = []

    def start(*steps: Step | bytes) -> BadServer:
        servers.append(BadServer(steps))
        return servers[0]

    yield start
    for each in servers:
        each.close()


def reading(reader: Reader) -> Future[bytes]:
    """A thread that reads and does not come to an end."""
    future: Future[bytes] = Future()

    def work() -> None:
        try:
            future.set_result(reader.get("packs/a", 0, 100_000))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def await_request(server: BadServer, asked: Callable[[], bool]) -> None:
    deadline = threading.Event()
    for _ in range(2000):
        if asked():
            return
        deadline.wait(0.01)
    raise AssertionError("no request came")


@pytest.mark.parametrize(
    "step",
    [
        Step(b"", "stall"),
        Step(reply(200, b"x" * 100, length=100_000), "stall"),
        Step(reply(503, b"", "Retry-After: 30"), "keep"),
    ],
    ids=["no head", "in the body", "before another attempt"],
)
def test_a_call_under_way_ends(step: Step, server: Callable[..., BadServer]) -> None:
    bad = server(step)
    reader = HttpReader(bad.url, timeout=LONG)
    under_way = reading(reader)
    await_request(bad, lambda: bool(bad.requests))
    abandon(reader)
    assert isinstance(under_way.exception(timeout=SOON - 5), ChunkstoreError)
    with pytest.raises(Usage, match="closed"):
        reader.get("packs/a", 0, 1)


def test_a_throttled_call_ends(server: Callable[..., BadServer]) -> None:
    bad = server(reply(200, b"x" * 100_000))
    reader = HttpReader(bad.url, timeout=LONG, throttle=Throttle(1))
    under_way = reading(MeteredReader(reader))
    await_request(bad, lambda: bad.sent > 0)
    abandon(MeteredReader(reader))
    under_way.exception(timeout=SOON - 5)


def test_a_throttled_path_ends(tmp_path: Path) -> None:
    backend = LocalBackend(str(tmp_path))
    backend.put("packs/a", b"x" * 1000)
    reader = ThrottledReader(backend, Throttle(1))
    under_way = reading(reader)
    abandon(reader)
    # Read, or refused because it was closed by then.
    under_way.exception(timeout=SOON - 5)


def test_readers_that_know_nothing_of_it_are_left_alone() -> None:
    backend = MemoryBackend()
    backend.put("a", b"x")
    abandon(backend)
    assert backend.get("a", 0, 9) == b"x"


class _Stuck(MemoryBackend):
    """Interrupts the main thread at the first read of a pack, and does not answer it."""

    def __init__(self) -> None:
        super().__init__()
        self.abandoned = threading.Event()

    def get(self, name: str, start: int, stop: int) -> bytes:
        if name.endswith(".pack") and not self.abandoned.is_set():
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)
            assert self.abandoned.wait(SOON), "was waited for"
        return super().get(name, start, stop)

    def abandon(self) -> None:
        self.abandoned.set()


@pytest.fixture
def stuck(place: Path) -> Iterator[tuple[_Stuck, stores.Store]]:
    tree = place / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"data" * 5000)
    store = stores.make_store(place / "store")
    stores.record(store, tree)
    backend = _Stuck()
    for name in stores.listing(store):
        backend.put(name, Path(store.root, name).read_bytes())
    yield backend, store
    store.backend.close()


def test_an_interrupted_stream_waits_for_nothing(
    stuck: tuple[_Stuck, stores.Store], place: Path
) -> None:
    backend, _ = stuck
    with pytest.raises(KeyboardInterrupt):
        stores.bring(backend, "web", place / "node")
    assert backend.abandoned.is_set()


def test_an_interrupted_fetch_waits_for_nothing(
    stuck: tuple[_Stuck, stores.Store], place: Path
) -> None:
    backend, store = stuck
    digests = stores.chunks_of(store, store.resolve(stores.parse_spec("web")).version.root)
    needs: dict[object, list[object]] = {}
    for digest, where in store.catalog.places(digests).items():
        needs.setdefault(where.frame, []).append((digest, where))
    with pytest.raises(KeyboardInterrupt):
        Stage(str(place / "stage")).fetch(needs, backend, threads=2)  # type: ignore[arg-type]
    assert backend.abandoned.is_set()


def test_a_failure_abandons_nothing(stuck: tuple[_Stuck, stores.Store]) -> None:
    # The caller may go on with the same reader, as pull does after packs were repacked.
    backend, store = stuck
    with pytest.raises(ZeroDivisionError), ChunkReader(backend, store.catalog):
        raise ZeroDivisionError
    assert not backend.abandoned.is_set()
