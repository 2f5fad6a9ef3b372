"""The contract of `Reader`, a check for each part of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from chunkstore.errors import NotFound, Usage
from chunkstore.storage.backend import Reader
from chunkstore.storage.conformance.claims import (
    BAD_NAMES,
    THREADS,
    absent,
    expect,
    expect_raises,
    fresh,
    noise,
    whole,
)
from chunkstore.storage.polling import poll

MakeReader = Callable[[], Reader]
"""Opens a reader of one and the same place each time."""
Fill = Callable[[str, bytes], None]
"""Puts an object where those readers find it."""
ReaderCheck = Callable[[MakeReader, Fill], None]


def reads_any_range(make: MakeReader, fill: Fill) -> None:
    """`get` gives exactly the bytes of the range, fewer when the object ends before."""
    name, data = fresh() + "object", noise(1000)
    fill(name, data)
    reader = make()
    edges = (0, 1, 2, 499, 998, 999, 1000, 1001, 5000)
    for start in edges:
        for stop in edges:
            got = reader.get(name, start, stop)
            expect(type(got) is bytes, "get returns bytes")
            expect(got == data[start:stop], f"get gives bytes {start} to {stop} of 1000")
    expect(reader.get(name, 0, 2**62) == data, "a range may end far behind the object")
    reader.close()


def reads_large_objects(make: MakeReader, fill: Fill) -> None:
    """Ranges that don't fit a buffer come whole and in order."""
    name, data = fresh() + "object", noise(5_000_011)
    fill(name, data)
    reader = make()
    for start, stop in ((0, 5_000_011), (1, 3_000_000), (65_535, 131_073), (4_999_999, 5_000_011)):
        expect(reader.get(name, start, stop) == data[start:stop], f"get {start} to {stop}")
    reader.close()


def reads_empty_objects(make: MakeReader, fill: Fill) -> None:
    """An object without bytes is an object."""
    name = fresh() + "object"
    fill(name, b"")
    reader = make()
    expect(reader.get(name, 0, 100) == b"", "an empty object reads as nothing")
    expect(reader.get(name, 10, 100) == b"", "so does what lies behind its end")
    expect(reader.size(name) == 0, "an empty object has size 0")
    reader.close()


def tells_sizes(make: MakeReader, fill: Fill) -> None:
    """`size` is the object's length."""
    prefix = fresh()
    reader = make()
    for length in (1, 255, 70_000):
        fill(f"{prefix}{length}", noise(length))
        expect(reader.size(f"{prefix}{length}") == length, f"size of {length} bytes")
    reader.close()


def tells_what_is_missing(make: MakeReader, fill: Fill) -> None:
    """What is not there is `NotFound`, which carries the name."""
    prefix = fresh()
    fill(prefix + "there", b"x")
    reader = make()
    names = [prefix + "missing", prefix + "no/such/object", prefix[:-1], prefix + "there/below"]
    for name in names:
        for action in (partial(reader.get, name, 0, 10), partial(reader.size, name)):
            error = expect_raises(NotFound, action, f"{name} is NotFound")
            expect(getattr(error, "name", None) == name, "NotFound.name is the object's name")
    expect(whole(reader, prefix + "there") == b"x", "a reader goes on after NotFound")
    reader.close()


def refuses_bad_names(make: MakeReader, fill: Fill) -> None:
    """A name that can't name an object, or a range before its start, is `Usage`."""
    name = fresh() + "object"
    fill(name, b"x")
    reader = make()
    for bad in BAD_NAMES:
        expect_raises(Usage, partial(reader.get, bad, 0, 1), f"get refuses the name {bad!r}")
        expect_raises(Usage, partial(reader.size, bad), f"size refuses the name {bad!r}")
    expect_raises(Usage, lambda: reader.get(name, -1, 1), "get refuses a negative start")
    expect_raises(Usage, lambda: reader.get(name, 0, -1), "get refuses a negative stop")
    reader.close()


def sees_what_is_new(make: MakeReader, fill: Fill) -> None:
    """An open reader sees objects that come, and the newest bytes of one that is replaced."""
    name = fresh() + "object"
    reader = make()
    expect(absent(reader, name), "not there yet")
    for data in (b"one", b"another", b""):
        fill(name, data)
        expect(reader.get(name, 0, 100) == data, "get sees what was stored last")
        expect(reader.size(name) == len(data), "size sees what was stored last")
    reader.close()


def polls_what_changes(make: MakeReader, fill: Fill) -> None:
    """A poll brings bytes that were not seen before, always, and no others."""
    name = fresh() + "object"
    reader, other = make(), make()
    expect_raises(NotFound, lambda: poll(reader, name, None, limit=99), "nothing to poll yet")
    seen, last = None, None
    # Some of one length, and at once: neither a size nor a time in seconds tells these apart.
    for data in (b"one", b"two", b"two", b"six", b"two", b"", b"longer"):
        fill(name, data)
        found = poll(reader, name, seen, limit=99)
        expected = None if data == last else data
        expect(found.data == expected, "a poll brings what was stored last, if it is new")
        seen, last = found.validator, data
        for again in (reader, other):
            expect(poll(again, name, seen, limit=99).data is None, "what was seen is not new")
    expect(poll(reader, name, None, limit=4).data == b"long", "a poll is bounded")
    expect_raises(Usage, lambda: poll(reader, "../x", None, limit=9), "a bad name is Usage")
    reader.close()
    other.close()


def reads_from_many_threads(make: MakeReader, fill: Fill) -> None:
    """One reader serves many threads at once without mixing anything up."""
    prefix = fresh()
    contents = [noise(30_000 + 1000 * number) for number in range(THREADS)]
    for number, data in enumerate(contents):
        fill(f"{prefix}{number}", data)
    reader = make()

    def read(turn: int) -> bool:
        number, start = turn % THREADS, turn * 97 % 20_000
        data = contents[number]
        return reader.get(f"{prefix}{number}", start, start + 9000) == data[start : start + 9000]

    with ThreadPoolExecutor(THREADS) as threads:
        expect(all(threads.map(read, range(25 * THREADS))), "threads get what they asked for")
    reader.close()


def closes_twice(make: MakeReader, fill: Fill) -> None:
    """`close` may be called again, as a failing program does, and ends only its own reader."""
    name = fresh() + "object"
    fill(name, b"x")
    first, second = make(), make()
    expect(first.get(name, 0, 1) == b"x", "the object is there")
    first.close()
    first.close()
    fill(name, b"y")
    if second is not first:
        expect(second.get(name, 0, 1) == b"y", "another reader goes on")
        second.close()


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
