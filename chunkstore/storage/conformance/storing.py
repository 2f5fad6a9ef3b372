"""The contract of `Backend`, that of `Reader` included: a check for each part of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from chunkstore.errors import Conflict, LocalError, NotFound, TransferError, Usage
from chunkstore.storage.backend import Backend, Polled
from chunkstore.storage.conformance.claims import (
    BAD_NAMES,
    THREADS,
    absent,
    expect,
    expect_raises,
    fresh,
    noise,
    raised,
    whole,
)
from chunkstore.storage.conformance.reading import READER_CHECKS
from chunkstore.storage.polling import poll

MakeBackend = Callable[[], Backend]

BackendCheck = Callable[[MakeBackend], None]


def fulfils_reader(make: MakeBackend) -> None:
    """All that a `Reader` promises."""

    backend = make()
    expect(isinstance(backend, Backend), "a backend has all methods of the protocol")
    # Another call of `make` may lead to another place, so the checks have to share one backend.
    for check in READER_CHECKS:
        check(lambda: _Unclosed(backend), backend.put)
    backend.close()
    backend.close()


class _Unclosed:
    """A backend as a reader whose `close` does nothing yet."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner

    def get(self, name: str, start: int, stop: int) -> bytes:
        return self._inner.get(name, start, stop)

    def size(self, name: str) -> int:
        return self._inner.size(name)

    def poll(self, name: str, seen: str | None, *, limit: int) -> Polled:
        return poll(self._inner, name, seen, limit=limit)

    def close(self) -> None:
        pass


def stores_objects(make: MakeBackend) -> None:
    """`put` stores, and replaces; in names with and without folders."""
    backend, prefix = make(), fresh()
    for data in (noise(10), b"", noise(2_000_003), b"short"):
        for name in (prefix + "a", prefix + "deep/below/folders/b", prefix[:-1] + ".json"):
            backend.put(name, data)
            expect(whole(backend, name) == data, "put stores all bytes")
    backend.delete(prefix[:-1] + ".json")
    backend.close()


def stores_files(make: MakeBackend) -> None:
    """`put_file` stores a file's bytes, replaces, and takes the file away."""
    backend, name = make(), fresh() + "packs/a"
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file")
        for data in (noise(3_000_001), b"", b"again"):
            with open(path, "wb") as file:
                file.write(data)
            backend.put_file(name, path)
            expect(whole(backend, name) == data, "put_file stores all bytes")
            expect(not os.path.exists(path), "put_file takes the file away")
        expect_raises(
            (LocalError, NotFound),
            lambda: backend.put_file(name, path),
            "put_file without a file is LocalError or NotFound",
        )
        expect(whole(backend, name) == b"again", "and leaves the old object")
    backend.close()


def replaces_atomically(make: MakeBackend) -> None:
    """While an object is replaced, readers see the old bytes or the new ones, never a mixture."""
    backend, name = make(), fresh() + "object"
    versions = [bytes([number]) * (40_000 + 7000 * number) for number in range(4)]
    backend.put(name, versions[0])

    def read(_: int) -> bool:
        return backend.get(name, 0, 100_000) in versions

    with ThreadPoolExecutor(THREADS) as threads:
        seen = threads.map(read, range(50 * THREADS))
        for turn in range(40):
            backend.put(name, versions[turn % 4])
        expect(all(seen), "a reader sees one whole object")
    backend.close()


def lists_names(make: MakeBackend) -> None:
    """`list` yields the names below a prefix, all, sorted as strings, and nothing else."""
    backend, prefix = make(), fresh()
    # '-' and '.' sort before '/', digits and letters after it: a walk by folders gets this wrong.
    below = ["a", "b-c", "b.c", "b/a", "b/d/e", "b/d-e", "b0", "ba/a", "c/x"]
    for name in reversed(below):
        backend.put(f"{prefix}in/{name}", b"x")
    for name in ("in2/a", "in-a", "im/z"):
        backend.put(prefix + name, b"x")
    want = sorted(f"{prefix}in/{name}" for name in below)
    expect(list(backend.list(prefix + "in/")) == want, "list yields all names in order")
    want = [f"{prefix}in/b/{name}" for name in ("a", "d-e", "d/e")]
    expect(list(backend.list(prefix + "in/b/")) == want, "list yields what is below, no more")
    expect(list(backend.list(prefix + "none/")) == [], "an empty list is no error")
    for bad in ("", "/", prefix[:-1], "../", "/etc/", ".hidden/", "local/"):
        expect_raises(Usage, partial(backend.list, bad), f"list refuses the prefix {bad!r}")
    backend.close()


def deletes_objects(make: MakeBackend) -> None:
    """`delete` removes, is content when there is nothing, and may go on while listing."""
    backend, prefix = make(), fresh()
    for number in range(5):
        backend.put(f"{prefix}folder/{number}", b"x")
    expect(backend.get(f"{prefix}folder/0", 0, 1) == b"x", "the object is there")
    for name in backend.list(prefix):
        backend.delete(name)
        expect(absent(backend, name), "what was deleted is not found")
        backend.delete(name)
    expect(list(backend.list(prefix)) == [], "what was deleted is not listed")
    backend.delete(f"{prefix}never/was")
    backend.put(f"{prefix}folder/0", b"again")
    expect(whole(backend, f"{prefix}folder/0") == b"again", "a deleted name can be used again")
    backend.close()


def swaps_objects(make: MakeBackend) -> None:
    """`swap` replaces, creates and removes, and only what it was told is there."""
    backend, name = make(), fresh() + "images/web/ref"

    def refuses(old: bytes | None, new: bytes | None, now: bytes | None) -> None:
        expect_raises(Conflict, lambda: backend.swap(name, old, new), "another old is Conflict")
        there = None if absent(backend, name) else whole(backend, name)
        expect(there == now, "a refused swap changes nothing")

    refuses(b"", b"new", None)
    refuses(b"old", None, None)
    backend.swap(name, None, None)
    expect(absent(backend, name), "nothing swapped for nothing is nothing")
    backend.swap(name, None, b"first")
    refuses(None, b"second", b"first")
    refuses(None, None, b"first")
    refuses(b"", b"second", b"first")
    refuses(b"firs", b"second", b"first")
    refuses(b"first ", b"second", b"first")
    backend.swap(name, b"first", b"second, longer")
    expect(whole(backend, name) == b"second, longer", "swap replaces")
    backend.swap(name, b"second, longer", b"")
    refuses(None, b"third", b"")
    backend.swap(name, b"", None)
    expect(absent(backend, name), "swap removes")
    backend.close()


def swaps_one_at_a_time(make: MakeBackend) -> None:
    """Of several who swap at once, one wins and the others are told."""
    backend, prefix = make(), fresh()

    def create(number: int) -> bool:
        return raised(lambda: backend.swap(prefix + "new", None, b"%d" % number)) is None

    def count(_: int) -> None:
        while True:
            old = whole(backend, prefix + "counter")
            try:
                return backend.swap(prefix + "counter", old, b"%d" % (int(old) + 1))
            except Conflict:
                continue

    backend.swap(prefix + "counter", None, b"100")
    with ThreadPoolExecutor(THREADS) as threads:
        winners = [number for number, won in enumerate(threads.map(create, range(20))) if won]
        list(threads.map(count, range(40)))
    expect(len(winners) == 1, "one of twenty creates the object")
    expect(whole(backend, prefix + "new") == b"%d" % winners[0], "and it is the winner's")
    expect(whole(backend, prefix + "counter") == b"140", "no swap is lost")
    backend.close()


def refuses_to_write_bad_names(make: MakeBackend) -> None:
    """No call that writes takes a bad name."""
    backend = make()
    with tempfile.NamedTemporaryFile() as file:
        for bad in BAD_NAMES:
            actions: tuple[Callable[[], object], ...] = (
                partial(backend.put, bad, b"x"),
                partial(backend.put_file, bad, file.name),
                partial(backend.delete, bad),
                partial(backend.swap, bad, None, b"x"),
            )
            for action in actions:
                expect_raises(Usage, action, f"the name {bad!r} is refused")
        expect(os.path.exists(file.name), "the file of a refused put_file is still there")
    backend.close()


def fails_declared(make: MakeBackend) -> None:
    """What can't be stored for want of a place is a declared error, and harms nothing."""
    backend, prefix = make(), fresh()
    backend.put(prefix + "a", b"x")
    # An object where a folder is needed; a bucket has no folders and takes both.
    error = raised(lambda: backend.put(prefix + "a/b", b"y"))
    expect(error is None or isinstance(error, LocalError | TransferError), "a declared error")
    expect(whole(backend, prefix + "a") == b"x", "the object is as it was")
    backend.close()


BACKEND_CHECKS: Final[tuple[BackendCheck, ...]] = (
    fulfils_reader,
    stores_objects,
    stores_files,
    replaces_atomically,
    lists_names,
    deletes_objects,
    swaps_objects,
    swaps_one_at_a_time,
    refuses_to_write_bad_names,
    fails_declared,
)
