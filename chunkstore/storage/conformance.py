"""The contracts of `chunkstore.storage.backend`, as checks that any implementation can run.

    from chunkstore.storage.conformance import check_backend
    def test_mine() -> None:
        check_backend(lambda: MyBackend("..."))

For a report line per contract, run the members of `READER_CHECKS` and `BACKEND_CHECKS` one by one.
Every check works below a prefix of its own, so the place may hold other things and may be used
again. A broken contract is an `AssertionError` that names it. Durability can't be seen from
inside a process; it is not checked here.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from chunkstore.errors import ChunkstoreError, Conflict, LocalError, NotFound, TransferError, Usage
from chunkstore.storage.backend import Backend, Polled, Reader
from chunkstore.storage.polling import poll

MakeReader = Callable[[], Reader]
"""Opens a reader of one and the same place each time."""
MakeBackend = Callable[[], Backend]
Fill = Callable[[str, bytes], None]
"""Puts an object where those readers find it."""
ReaderCheck = Callable[[MakeReader, Fill], None]
BackendCheck = Callable[[MakeBackend], None]

BAD_NAMES: Final = (
    "",
    "/",
    "/packs/a",
    "packs/",
    "packs//a",
    "packs/../a",
    "..",
    "packs/.",
    "packs/.new-1",
    "packs/a\0",
    "packs/a\n",
    "packs/a b",
    "packs/a\\b",
    "packs/\udcff",
    "packs/%2e%2e/a",
    "packs/a?b",
    "local/keys",
    "packs/" + "a" * 256,
    "/".join(["a"] * 600),
)
"""No place may take these for objects: they lead outside, or can't be written everywhere."""

_THREADS: Final = 8


def check_reader(make: MakeReader, fill: Fill) -> None:
    """Run all checks of `Reader`. Raises `AssertionError`."""
    for check in READER_CHECKS:
        check(make, fill)


def check_backend(make: MakeBackend) -> None:
    """Run all checks of `Backend`, those of `Reader` included. Raises `AssertionError`."""
    for check in BACKEND_CHECKS:
        check(make)


def _expect(holds: bool, contract: str) -> None:
    if not holds:
        raise AssertionError(contract)


def _raised(action: Callable[[], object]) -> Exception | None:
    try:
        action()
    except ChunkstoreError as error:
        return error
    return None


def _expect_raises(
    kinds: type[ChunkstoreError] | tuple[type[ChunkstoreError], ...],
    action: Callable[[], object],
    contract: str,
) -> Exception:
    error = _raised(action)
    if not isinstance(error, kinds):
        raise AssertionError(f"{contract}; got {error!r}") from error
    return error


def _fresh() -> str:
    """A prefix nobody has used."""
    return f"conformance-{os.urandom(6).hex()}/"


def _noise(length: int) -> bytes:
    return os.urandom(length)


def _whole(reader: Reader, name: str) -> bytes:
    return reader.get(name, 0, reader.size(name))


def _absent(reader: Reader, name: str) -> bool:
    return isinstance(_raised(lambda: reader.get(name, 0, 1)), NotFound)


# Reader


def reads_any_range(make: MakeReader, fill: Fill) -> None:
    """`get` gives exactly the bytes of the range, fewer when the object ends before."""
    name, data = _fresh() + "object", _noise(1000)
    fill(name, data)
    reader = make()
    edges = (0, 1, 2, 499, 998, 999, 1000, 1001, 5000)
    for start in edges:
        for stop in edges:
            got = reader.get(name, start, stop)
            _expect(type(got) is bytes, "get returns bytes")
            _expect(got == data[start:stop], f"get gives bytes {start} to {stop} of 1000")
    _expect(reader.get(name, 0, 2**62) == data, "a range may end far behind the object")
    reader.close()


def reads_large_objects(make: MakeReader, fill: Fill) -> None:
    """Ranges that don't fit a buffer come whole and in order."""
    name, data = _fresh() + "object", _noise(5_000_011)
    fill(name, data)
    reader = make()
    for start, stop in ((0, 5_000_011), (1, 3_000_000), (65_535, 131_073), (4_999_999, 5_000_011)):
        _expect(reader.get(name, start, stop) == data[start:stop], f"get {start} to {stop}")
    reader.close()


def reads_empty_objects(make: MakeReader, fill: Fill) -> None:
    """An object without bytes is an object."""
    name = _fresh() + "object"
    fill(name, b"")
    reader = make()
    _expect(reader.get(name, 0, 100) == b"", "an empty object reads as nothing")
    _expect(reader.get(name, 10, 100) == b"", "so does what lies behind its end")
    _expect(reader.size(name) == 0, "an empty object has size 0")
    reader.close()


def tells_sizes(make: MakeReader, fill: Fill) -> None:
    """`size` is the object's length."""
    prefix = _fresh()
    reader = make()
    for length in (1, 255, 70_000):
        fill(f"{prefix}{length}", _noise(length))
        _expect(reader.size(f"{prefix}{length}") == length, f"size of {length} bytes")
    reader.close()


def tells_what_is_missing(make: MakeReader, fill: Fill) -> None:
    """What is not there is `NotFound`, which carries the name."""
    prefix = _fresh()
    fill(prefix + "there", b"x")
    reader = make()
    names = [prefix + "missing", prefix + "no/such/object", prefix[:-1], prefix + "there/below"]
    for name in names:
        for action in (partial(reader.get, name, 0, 10), partial(reader.size, name)):
            error = _expect_raises(NotFound, action, f"{name} is NotFound")
            _expect(getattr(error, "name", None) == name, "NotFound.name is the object's name")
    _expect(_whole(reader, prefix + "there") == b"x", "a reader goes on after NotFound")
    reader.close()


def refuses_bad_names(make: MakeReader, fill: Fill) -> None:
    """A name that can't name an object, or a range before its start, is `Usage`."""
    name = _fresh() + "object"
    fill(name, b"x")
    reader = make()
    for bad in BAD_NAMES:
        _expect_raises(Usage, partial(reader.get, bad, 0, 1), f"get refuses the name {bad!r}")
        _expect_raises(Usage, partial(reader.size, bad), f"size refuses the name {bad!r}")
    _expect_raises(Usage, lambda: reader.get(name, -1, 1), "get refuses a negative start")
    _expect_raises(Usage, lambda: reader.get(name, 0, -1), "get refuses a negative stop")
    reader.close()


def sees_what_is_new(make: MakeReader, fill: Fill) -> None:
    """An open reader sees objects that come, and the newest bytes of one that is replaced."""
    name = _fresh() + "object"
    reader = make()
    _expect(_absent(reader, name), "not there yet")
    for data in (b"one", b"another", b""):
        fill(name, data)
        _expect(reader.get(name, 0, 100) == data, "get sees what was stored last")
        _expect(reader.size(name) == len(data), "size sees what was stored last")
    reader.close()


def polls_what_changes(make: MakeReader, fill: Fill) -> None:
    """A poll brings bytes that were not seen before, always, and no others."""
    name = _fresh() + "object"
    reader, other = make(), make()
    _expect_raises(NotFound, lambda: poll(reader, name, None, limit=99), "nothing to poll yet")
    seen, last = None, None
    # Some of one length, and at once: neither a size nor a time in seconds tells these apart.
    for data in (b"one", b"two", b"two", b"six", b"two", b"", b"longer"):
        fill(name, data)
        found = poll(reader, name, seen, limit=99)
        expected = None if data == last else data
        _expect(found.data == expected, "a poll brings what was stored last, if it is new")
        seen, last = found.validator, data
        for again in (reader, other):
            _expect(poll(again, name, seen, limit=99).data is None, "what was seen is not new")
    _expect(poll(reader, name, None, limit=4).data == b"long", "a poll is bounded")
    _expect_raises(Usage, lambda: poll(reader, "../x", None, limit=9), "a bad name is Usage")
    reader.close()
    other.close()


def reads_from_many_threads(make: MakeReader, fill: Fill) -> None:
    """One reader serves many threads at once without mixing anything up."""
    prefix = _fresh()
    contents = [_noise(30_000 + 1000 * number) for number in range(_THREADS)]
    for number, data in enumerate(contents):
        fill(f"{prefix}{number}", data)
    reader = make()

    def read(turn: int) -> bool:
        number, start = turn % _THREADS, turn * 97 % 20_000
        data = contents[number]
        return reader.get(f"{prefix}{number}", start, start + 9000) == data[start : start + 9000]

    with ThreadPoolExecutor(_THREADS) as threads:
        _expect(all(threads.map(read, range(25 * _THREADS))), "threads get what they asked for")
    reader.close()


def closes_twice(make: MakeReader, fill: Fill) -> None:
    """`close` may be called again, as a failing program does, and ends only its own reader."""
    name = _fresh() + "object"
    fill(name, b"x")
    first, second = make(), make()
    _expect(first.get(name, 0, 1) == b"x", "the object is there")
    first.close()
    first.close()
    fill(name, b"y")
    if second is not first:
        _expect(second.get(name, 0, 1) == b"y", "another reader goes on")
        second.close()


# Backend


def fulfils_reader(make: MakeBackend) -> None:
    """All that a `Reader` promises."""

    backend = make()
    _expect(isinstance(backend, Backend), "a backend has all methods of the protocol")
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
    backend, prefix = make(), _fresh()
    for data in (_noise(10), b"", _noise(2_000_003), b"short"):
        for name in (prefix + "a", prefix + "deep/below/folders/b", prefix[:-1] + ".json"):
            backend.put(name, data)
            _expect(_whole(backend, name) == data, "put stores all bytes")
    backend.delete(prefix[:-1] + ".json")
    backend.close()


def stores_files(make: MakeBackend) -> None:
    """`put_file` stores a file's bytes, replaces, and takes the file away."""
    backend, name = make(), _fresh() + "packs/a"
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file")
        for data in (_noise(3_000_001), b"", b"again"):
            with open(path, "wb") as file:
                file.write(data)
            backend.put_file(name, path)
            _expect(_whole(backend, name) == data, "put_file stores all bytes")
            _expect(not os.path.exists(path), "put_file takes the file away")
        _expect_raises(
            (LocalError, NotFound),
            lambda: backend.put_file(name, path),
            "put_file without a file is LocalError or NotFound",
        )
        _expect(_whole(backend, name) == b"again", "and leaves the old object")
    backend.close()


def replaces_atomically(make: MakeBackend) -> None:
    """While an object is replaced, readers see the old bytes or the new ones, never a mixture."""
    backend, name = make(), _fresh() + "object"
    versions = [bytes([number]) * (40_000 + 7000 * number) for number in range(4)]
    backend.put(name, versions[0])

    def read(_: int) -> bool:
        return backend.get(name, 0, 100_000) in versions

    with ThreadPoolExecutor(_THREADS) as threads:
        seen = threads.map(read, range(50 * _THREADS))
        for turn in range(40):
            backend.put(name, versions[turn % 4])
        _expect(all(seen), "a reader sees one whole object")
    backend.close()


def lists_names(make: MakeBackend) -> None:
    """`list` yields the names below a prefix, all, sorted as strings, and nothing else."""
    backend, prefix = make(), _fresh()
    # '-' and '.' sort before '/', digits and letters after it: a walk by folders gets this wrong.
    below = ["a", "b-c", "b.c", "b/a", "b/d/e", "b/d-e", "b0", "ba/a", "c/x"]
    for name in reversed(below):
        backend.put(f"{prefix}in/{name}", b"x")
    for name in ("in2/a", "in-a", "im/z"):
        backend.put(prefix + name, b"x")
    want = sorted(f"{prefix}in/{name}" for name in below)
    _expect(list(backend.list(prefix + "in/")) == want, "list yields all names in order")
    want = [f"{prefix}in/b/{name}" for name in ("a", "d-e", "d/e")]
    _expect(list(backend.list(prefix + "in/b/")) == want, "list yields what is below, no more")
    _expect(list(backend.list(prefix + "none/")) == [], "an empty list is no error")
    for bad in ("", "/", prefix[:-1], "../", "/etc/", ".hidden/", "local/"):
        _expect_raises(Usage, partial(backend.list, bad), f"list refuses the prefix {bad!r}")
    backend.close()


def deletes_objects(make: MakeBackend) -> None:
    """`delete` removes, is content when there is nothing, and may go on while listing."""
    backend, prefix = make(), _fresh()
    for number in range(5):
        backend.put(f"{prefix}folder/{number}", b"x")
    _expect(backend.get(f"{prefix}folder/0", 0, 1) == b"x", "the object is there")
    for name in backend.list(prefix):
        backend.delete(name)
        _expect(_absent(backend, name), "what was deleted is not found")
        backend.delete(name)
    _expect(list(backend.list(prefix)) == [], "what was deleted is not listed")
    backend.delete(f"{prefix}never/was")
    backend.put(f"{prefix}folder/0", b"again")
    _expect(_whole(backend, f"{prefix}folder/0") == b"again", "a deleted name can be used again")
    backend.close()


def swaps_objects(make: MakeBackend) -> None:
    """`swap` replaces, creates and removes, and only what it was told is there."""
    backend, name = make(), _fresh() + "images/web/ref"

    def refuses(old: bytes | None, new: bytes | None, now: bytes | None) -> None:
        _expect_raises(Conflict, lambda: backend.swap(name, old, new), "another old is Conflict")
        there = None if _absent(backend, name) else _whole(backend, name)
        _expect(there == now, "a refused swap changes nothing")

    refuses(b"", b"new", None)
    refuses(b"old", None, None)
    backend.swap(name, None, None)
    _expect(_absent(backend, name), "nothing swapped for nothing is nothing")
    backend.swap(name, None, b"first")
    refuses(None, b"second", b"first")
    refuses(None, None, b"first")
    refuses(b"", b"second", b"first")
    refuses(b"firs", b"second", b"first")
    refuses(b"first ", b"second", b"first")
    backend.swap(name, b"first", b"second, longer")
    _expect(_whole(backend, name) == b"second, longer", "swap replaces")
    backend.swap(name, b"second, longer", b"")
    refuses(None, b"third", b"")
    backend.swap(name, b"", None)
    _expect(_absent(backend, name), "swap removes")
    backend.close()


def swaps_one_at_a_time(make: MakeBackend) -> None:
    """Of several who swap at once, one wins and the others are told."""
    backend, prefix = make(), _fresh()

    def create(number: int) -> bool:
        return _raised(lambda: backend.swap(prefix + "new", None, b"%d" % number)) is None

    def count(_: int) -> None:
        while True:
            old = _whole(backend, prefix + "counter")
            try:
                return backend.swap(prefix + "counter", old, b"%d" % (int(old) + 1))
            except Conflict:
                continue

    backend.swap(prefix + "counter", None, b"100")
    with ThreadPoolExecutor(_THREADS) as threads:
        winners = [number for number, won in enumerate(threads.map(create, range(20))) if won]
        list(threads.map(count, range(40)))
    _expect(len(winners) == 1, "one of twenty creates the object")
    _expect(_whole(backend, prefix + "new") == b"%d" % winners[0], "and it is the winner's")
    _expect(_whole(backend, prefix + "counter") == b"140", "no swap is lost")
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
                _expect_raises(Usage, action, f"the name {bad!r} is refused")
        _expect(os.path.exists(file.name), "the file of a refused put_file is still there")
    backend.close()


def fails_declared(make: MakeBackend) -> None:
    """What can't be stored for want of a place is a declared error, and harms nothing."""
    backend, prefix = make(), _fresh()
    backend.put(prefix + "a", b"x")
    # An object where a folder is needed; a bucket has no folders and takes both.
    error = _raised(lambda: backend.put(prefix + "a/b", b"y"))
    _expect(error is None or isinstance(error, LocalError | TransferError), "a declared error")
    _expect(_whole(backend, prefix + "a") == b"x", "the object is as it was")
    backend.close()


READER_CHECKS: Final[tuple[ReaderCheck, ...]] = (
    reads_any_range,
    reads_large_objects,
    reads_empty_objects,
    tells_sizes,
    tells_what_is_missing,
    refuses_bad_names,
    sees_what_is_new,
    polls_what_changes,
    reads_from_many_threads,
    closes_twice,
)
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
