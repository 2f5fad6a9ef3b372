"""Polling a ref: what it costs over HTTP, and that no change is ever missed."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from email.utils import formatdate
from pathlib import Path

import pytest
from support.servers import BadServer, Step, nginx, reply

from chunkstore.errors import NotFound, TransferError, Usage
from chunkstore.server import Access, running
from chunkstore.storage.backends.http import HttpReader
from chunkstore.storage.backends.http_tag import RESTED
from chunkstore.storage.backends.local import LocalBackend
from chunkstore.storage.backends.memory import MemoryBackend
from chunkstore.storage.polling import poll

REF = "images/web/ref"
HOUR_AGO = time.time() - 3600

Answered = Callable[[], list[int]]
"""The statuses that a server has answered polls with so far."""


@pytest.fixture
def ref(place: Path) -> Path:
    path = place / "store" / REF
    path.parent.mkdir(parents=True)
    path.write_bytes(b"first")
    os.utime(path, (HOUR_AGO, HOUR_AGO))
    return path


@pytest.fixture(params=["serve", "nginx"])
def server(
    request: pytest.FixtureRequest, place: Path, ref: Path
) -> Iterator[tuple[str, Answered]]:
    store = place / "store"
    if request.param == "serve":
        accesses: list[Access] = []
        with running(store, on_request=accesses.append) as url:
            yield url, lambda: [access.status for access in accesses]
        return
    if shutil.which("nginx") is None:
        pytest.skip("needs nginx")
    with nginx(store, place / "nginx") as url:
        log = place / "nginx" / "access.log"
        yield url, lambda: [int(status) for status in re.findall(r'" (\d{3}) ', log.read_text())]


def replace(ref: Path, data: bytes, when: float) -> None:
    """As a store does: a new file under the old name."""
    new = ref.with_name("new")
    new.write_bytes(data)
    os.utime(new, (when, when))
    new.rename(ref)


def settled(answered: Answered, count: int) -> list[int]:
    """The statuses, once the server has written down so many."""
    deadline = time.monotonic() + 20
    while len(answered()) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return answered()


def test_what_has_not_changed_is_not_sent(server: tuple[str, Answered], ref: Path) -> None:
    url, answered = server
    with closing(HttpReader(url)) as reader:
        first = poll(reader, REF, None, limit=100)
        assert first.data == b"first"
        for _ in range(3):
            assert poll(reader, REF, first.validator, limit=100) == (None, first.validator)
        replace(ref, b"other", HOUR_AGO + 2)
        second = poll(reader, REF, first.validator, limit=100)
        assert second.data == b"other"
        assert poll(reader, REF, second.validator, limit=100).data is None
        assert settled(answered, 6) == [200, 304, 304, 304, 200, 304]
        assert reader.traffic.requests == 6


def test_two_changes_within_a_second(server: tuple[str, Answered], ref: Path) -> None:
    # nginx makes its tag of the time in seconds and the size: both states have the same.
    url, _ = server
    now = int(time.time())
    with closing(HttpReader(url)) as reader:
        replace(ref, b"one", now)
        seen = poll(reader, REF, None, limit=100)
        replace(ref, b"two", now + 0.5)
        assert poll(reader, REF, seen.validator, limit=100).data == b"two"


def test_what_is_gone_is_not_found(server: tuple[str, Answered], ref: Path) -> None:
    url, _ = server
    with closing(HttpReader(url)) as reader:
        seen = poll(reader, REF, None, limit=100).validator
        ref.unlink()
        with pytest.raises(NotFound, match="404"):
            poll(reader, REF, seen, limit=100)


def test_a_validator_holds_for_every_way_to_the_place(
    server: tuple[str, Answered], ref: Path
) -> None:
    local = LocalBackend(str(ref.parents[2]))
    memory = MemoryBackend()
    memory.put(REF, b"first")
    with closing(HttpReader(server[0])) as reader:
        validators = [poll(each, REF, None, limit=100).validator for each in (reader, local)]
        for each in (reader, local, memory):
            assert [poll(each, REF, seen, limit=100).data for seen in validators] == [None, None]


# Servers that are not as they should be


@pytest.fixture
def scripted() -> Iterator[Callable[..., tuple[HttpReader, BadServer]]]:
    opened: list[HttpReader | BadServer] = []

    def start(*steps: Step | bytes) -> tuple[HttpReader, BadServer]:
        server = BadServer(steps)
        reader = HttpReader(server.url, sleep=lambda _: None)
        opened.extend((reader, server))
        return reader, server

    yield start
    for each in opened:
        each.close()


Scripted = Callable[..., tuple[HttpReader, BadServer]]


def conditions(server: BadServer) -> list[str | None]:
    return [request.headers.get("if-none-match") for request in server.requests]


def twice(reader: HttpReader) -> list[bytes | None]:
    first = poll(reader, REF, None, limit=100)
    return [first.data, poll(reader, REF, first.validator, limit=100).data]


@pytest.mark.parametrize("tag", ['"5f-6"', 'W/"5f-6"', '""'])
def test_a_tag_is_sent_back_as_it_came(tag: str, scripted: Scripted) -> None:
    reader, server = scripted(reply(200, b"x", f"ETag: {tag}"), reply(304, b"", f"ETag: {tag}"))
    assert twice(reader) == [b"x", None]
    assert conditions(server) == [None, tag]


@pytest.mark.parametrize(
    "tag", ["", "5f-6", '"a b"', '"a"b"', '"ä"', f'"{"a" * 300}"', '"a', "*", "W/", 'w/"a"']
)
def test_what_is_no_tag_is_not_sent_back(tag: str, scripted: Scripted) -> None:
    line = f"ETag: {tag}"
    reader, server = scripted(*[reply(200, b"x", line)] * 3)
    assert twice(reader) == [b"x", None]
    assert conditions(server) == [None, None]
    assert " " not in poll(reader, REF, None, limit=100).validator


@pytest.mark.parametrize(
    ("modified", "date", "taken"),
    [
        (0.0, RESTED, True),
        (0.0, RESTED - 1, False),
        (10.0, 0.0, False),
        ("soon", 0.0, False),
        (0.0, "", False),
        ("Mon, 99 Foo 99999999999999 00:00:00 GMT", RESTED, False),
    ],
)
def test_a_tag_is_taken_once_the_object_has_rested(
    modified: float | str, date: float | str, taken: bool, scripted: Scripted
) -> None:
    def shown(when: float | str) -> str:
        return when if isinstance(when, str) else formatdate(1_700_000_000 + when, usegmt=True)

    lines = ('ETag: "t"', f"Last-Modified: {shown(modified)}", f"Date: {shown(date)}")
    reader, server = scripted(*[reply(200, b"x", *lines)] * 2)
    assert twice(reader) == [b"x", None]
    assert conditions(server) == [None, '"t"' if taken else None]


def test_mirrors_that_tag_differently(scripted: Scripted) -> None:
    reader, server = scripted(*[reply(200, b"x", f'ETag: "{number}"') for number in range(4)])
    seen = None
    found = []
    for _ in range(4):
        data, seen = poll(reader, REF, seen, limit=100)
        found.append(data)
    assert found == [b"x", None, None, None]
    assert conditions(server) == [None, '"0"', '"1"', '"2"']


def test_a_refusal_to_send_that_nobody_asked_for(scripted: Scripted) -> None:
    for seen in (None, poll(scripted(reply(200, b"x"))[0], REF, None, limit=100).validator):
        with pytest.raises(TransferError, match="304"):
            poll(scripted(reply(304))[0], REF, seen, limit=100)


@pytest.mark.parametrize("status", [206, 416])
def test_a_part_nobody_asked_for(status: int, scripted: Scripted) -> None:
    reader, server = scripted(*[reply(status, b"x", "Content-Range: bytes 0-0/1")] * 5)
    with pytest.raises(TransferError, match="asks for all"):
        poll(reader, REF, None, limit=100)
    assert len(server.requests) == 1


def test_no_more_is_read_than_the_limit(scripted: Scripted) -> None:
    reader, _ = scripted(reply(200, b"x" * 5_000_000))
    assert poll(reader, REF, None, limit=100).data == b"x" * 100
    assert reader.traffic.received < 1_000_000


def test_an_interrupted_poll_begins_anew(scripted: Scripted) -> None:
    # Going on at the byte where it stopped would mix two refs of the same length.
    reader, server = scripted(Step(reply(200, b"old ref")[:-3], "close"), reply(200, b"new ref"))
    assert poll(reader, REF, None, limit=100).data == b"new ref"
    assert [request.range for request in server.requests] == ["", ""]


def test_what_may_pass_is_polled_again(scripted: Scripted) -> None:
    reader, _ = scripted(reply(503), Step(b"", "close"), reply(200, b"x"))
    assert poll(reader, REF, None, limit=100).data == b"x"


def test_a_validator_from_elsewhere_sends_no_header(scripted: Scripted) -> None:
    reader, server = scripted(*[reply(200, b"x")] * 2)
    for seen in ('0 a"\r\nX: y', "0 *"):
        assert poll(reader, REF, seen, limit=100).data == b"x"
    assert conditions(server) == [None, None]


def test_bounds_are_checked(scripted: Scripted) -> None:
    reader, server = scripted()
    with pytest.raises(Usage):
        poll(reader, REF, None, limit=-1)
    assert server.requests == []
