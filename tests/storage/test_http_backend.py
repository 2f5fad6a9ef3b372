"""HttpReader against servers that err and lie. Honest ones are in `test_backends`."""

import email.utils
import os
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.servers import SOON, BadServer, Step, reply

from chunkstore.errors import ChunkstoreError, NotFound, TransferError, Usage
from chunkstore.storage.backends import http, http_pace, http_range
from chunkstore.storage.backends.http import HttpReader

DATA = bytes(range(256)) * 40
NAME = "packs/a.pack"


Serve = Callable[..., BadServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[BadServer] = []

    def start(*steps: Step | bytes, tls: ssl.SSLContext | None = None) -> BadServer:
        servers.append(BadServer(steps, tls))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(autouse=True)
def ends_soon() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < SOON


def part(start: int, stop: int, *, total: int | str = len(DATA), **options: int | None) -> bytes:
    where = f"Content-Range: bytes {start}-{stop - 1}/{total}"
    return reply(206, DATA[start:stop], where, **options)


def chunked(*chunks: bytes, start: int = 0) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    stop = start + sum(map(len, chunks))
    return reply(
        206,
        body,
        f"Content-Range: bytes {start}-{stop - 1}/{len(DATA)}",
        "Transfer-Encoding: chunked",
        length=None,
    )


class Client(NamedTuple):
    reader: HttpReader
    sleeps: list[float]


Connect = Callable[..., Client]


@pytest.fixture
def connect() -> Iterator[Connect]:
    readers: list[HttpReader] = []

    def start(server: BadServer | str, **options: object) -> Client:
        sleeps: list[float] = []
        url = server if isinstance(server, str) else server.url
        options = {"timeout": SOON, "sleep": sleeps.append} | options
        readers.append(HttpReader(url, **options))
        return Client(readers[-1], sleeps)

    yield start
    for reader in readers:
        reader.close()


def fails(reader: HttpReader, *, start: int = 0, stop: int = 1000) -> TransferError:
    with pytest.raises(TransferError) as caught:
        reader.get(NAME, start, stop)
    return caught.value


# Requests


def test_a_request_is_polite_and_for_a_single_range(serve: Serve, connect: Connect) -> None:
    server = serve(part(10, 20))
    assert connect(server).reader.get(NAME, 10, 20) == DATA[10:20]
    (request,) = server.requests
    assert (request.method, request.path) == ("GET", "/store/packs/a.pack")
    assert request.range == "bytes=10-19"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["user-agent"].startswith("imgstore")
    assert request.headers["host"] == server.authority
    assert "authorization" not in request.headers


def test_a_connection_is_used_again(serve: Serve, connect: Connect) -> None:
    server = serve(
        part(0, 10),
        chunked(DATA[:3], DATA[3:9]),
        reply(404, b"no such file"),
        reply(416, b"", "Content-Range: bytes */10240"),
        reply(200, b"", length=77),
        reply(200, DATA[:10]),
        part(5, 10),
    )
    reader, sleeps = connect(server)
    assert reader.get(NAME, 0, 10) == DATA[:10]
    assert reader.get(NAME, 0, 9) == DATA[:9]
    with pytest.raises(NotFound):
        reader.get(NAME, 0, 10)
    assert reader.get(NAME, 20_000, 20_001) == b""
    assert reader.size(NAME) == 77
    assert reader.get(NAME, 0, 10) == DATA[:10]
    assert reader.get(NAME, 5, 10) == DATA[5:10]
    assert server.connections == 1
    assert sleeps == []
    assert reader.traffic == (7, server.sent, 0)


def test_an_empty_range_needs_no_request(serve: Serve, connect: Connect) -> None:
    server = serve()
    assert connect(server).reader.get(NAME, 5, 5) == b""
    assert server.requests == []


def test_no_more_connections_than_allowed(serve: Serve, connect: Connect) -> None:
    server = serve(*[part(0, 1000)] * 60)
    reader = connect(server, connections=2).reader
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: reader.get(NAME, 0, 1000), range(60))) == {DATA[:1000]}
    assert server.connections <= 2
    assert reader.traffic.requests == 60


# Interruptions


@pytest.mark.parametrize("then", ["close", "stall", "reset"])
def test_an_interrupted_body_is_resumed(then: str, serve: Serve, connect: Connect) -> None:
    first = Step(part(100, 1100)[:-400], then)
    second = Step(part(700, 1100)[:-1], then)
    server = serve(first, second, part(1099, 1100))
    reader, sleeps = connect(server, timeout=0.5)
    assert reader.get(NAME, 100, 1100) == DATA[100:1100]
    if then == "reset":
        # A reset may overtake the data before it, but what came is not asked for again.
        starts = [int(text.split("-")[0]) for text in server.ranges]
        assert starts == sorted(starts)
    else:
        assert server.ranges == ["100-1099", "700-1099", "1099-1099"]
        assert reader.traffic.retries == len(sleeps) == 2


def test_an_interruption_is_told(serve: Serve, connect: Connect) -> None:
    for step in (Step(part(0, 1000)[:-1], "close"), Step(b"", "close")):
        error = fails(connect(serve(step), attempts=1).reader)
        assert error.retryable
        assert "broke off" in str(error)


def test_an_interrupted_chunked_body_is_resumed(serve: Serve, connect: Connect) -> None:
    server = serve(Step(chunked(DATA[:600], DATA[600:1000])[:-207], "close"), part(800, 1000))
    assert connect(server).reader.get(NAME, 0, 1000) == DATA[:1000]
    assert server.ranges == ["0-999", "800-999"]


def test_less_than_asked_for_is_continued(serve: Serve, connect: Connect) -> None:
    server = serve(part(0, 400), part(400, 1000))
    assert connect(server).reader.get(NAME, 0, 1000) == DATA[:1000]
    assert server.ranges == ["0-999", "400-999"]


def test_an_object_of_unknown_length(serve: Serve, connect: Connect) -> None:
    server = serve(part(0, 400, total="*"), reply(416, b"", "Content-Range: bytes */*"))
    assert connect(server).reader.get(NAME, 0, 1000) == DATA[:400]


def test_an_object_that_changes_is_read_anew(serve: Serve, connect: Connect) -> None:
    server = serve(Step(part(0, 1000)[:-400], "close"), part(600, 1000, total=5000), part(0, 1000))
    assert connect(server).reader.get(NAME, 0, 1000) == DATA[:1000]
    assert server.ranges == ["0-999", "600-999", "0-999"]


def test_giving_up(serve: Serve, connect: Connect) -> None:
    server = serve(*[Step(b"", "close")] * 9)
    reader, sleeps = connect(server, attempts=4)
    error = fails(reader)
    assert error.retryable
    assert "gave up after 4 attempts" in str(error)
    assert len(server.requests) == 4
    assert reader.traffic.retries == len(sleeps) == 3
    assert all(0 <= wait <= 2.0**number for number, wait in enumerate(sleeps))


def test_where_nobody_listens_it_is_tried_twice(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        authority = f"127.0.0.1:{listener.getsockname()[1]}"
    reader, sleeps = connect(f"http://{authority}/store")
    error = fails(reader)
    assert error.retryable
    assert f"{authority}/store/{NAME}: nothing listens there" in str(error)
    assert "gave up after 2 attempts" in str(error)
    assert len(sleeps) == 1


@pytest.mark.parametrize(("answer", "tries"), [(socket.EAI_NONAME, 2), (socket.EAI_AGAIN, 5)])
def test_a_host_that_does_not_exist_is_tried_twice(
    answer: int, tries: int, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: object, **_named: object) -> object:
        raise socket.gaierror(answer, "as the resolver says")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    reader, sleeps = connect("http://no-such-host.invalid/store")
    assert "as the resolver says" in str(fails(reader))
    assert len(sleeps) == tries - 1


def test_a_server_that_has_answered_is_waited_for(serve: Serve, connect: Connect) -> None:
    """It may be starting again: a node in the middle of a pull does not give up at once."""
    server = serve(Step(reply(404), "close"))
    reader, sleeps = connect(server, attempts=4)
    with pytest.raises(NotFound):
        reader.get(NAME, 0, 10)
    server.close()
    assert "gave up after 4 attempts" in str(fails(reader))
    assert len(sleeps) == 3


def test_waits_grow_and_differ(serve: Serve, connect: Connect) -> None:
    server = serve(*[reply(503)] * 40)
    waits = []
    for _ in range(5):
        reader, sleeps = connect(server, attempts=8)
        fails(reader)
        waits.append(sleeps)
    assert len({tuple(sleeps) for sleeps in waits}) == 5
    assert max(max(sleeps) for sleeps in waits) > 2
    assert max(max(sleeps) for sleeps in waits) <= http.MAX_WAIT


def _in_an_hour() -> str:
    return email.utils.formatdate(time.time() + 3600, usegmt=True)


@pytest.mark.parametrize(
    ("asks", "least", "most"),
    [
        ("7", 7, 8),
        ("100000", 30, 31),
        ("99999999999999999999", 0, 1),
        (_in_an_hour(), 30, 31),
        ("Mon, 01 Jan 1990 00:00:00 GMT", 0, 1),
        ("Mon, 99 Foo 99999999999999 00:00:00 GMT", 0, 1),
        ("-5", 0, 1),
        ("soon", 0, 1),
    ],
)
def test_a_busy_server_is_left_alone(
    asks: str, least: float, most: float, serve: Serve, connect: Connect
) -> None:
    server = serve(reply(503, b"busy", f"Retry-After: {asks}"), part(0, 1000))
    reader, sleeps = connect(server)
    assert reader.get(NAME, 0, 1000) == DATA[:1000]
    assert least <= sleeps[0] <= most
    assert reader.traffic.retries == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 504, 520])
def test_what_may_pass_is_tried_again(status: int, serve: Serve, connect: Connect) -> None:
    server = serve(reply(status), reply(status), part(0, 9), reply(status), reply(200, b"x" * 9))
    reader = connect(server).reader
    assert reader.get(NAME, 0, 9) == DATA[:9]
    assert reader.size(NAME) == 9


@pytest.mark.parametrize(
    "status", [101, 103, 204, 300, 304, 400, 401, 403, 405, 451, 501, 505, 999]
)
def test_what_will_not_pass_is_not_tried_again(status: int, serve: Serve, connect: Connect) -> None:
    server = serve(*[reply(status)] * 9)
    error = fails(connect(server).reader)
    assert not error.retryable or status == 999
    assert str(status) in str(error)
    assert server.url in str(error)
    assert "Because" not in str(error)
    assert len(server.requests) == (5 if status == 999 else 1)


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_not_there_is_not_found(status: int, serve: Serve, connect: Connect) -> None:
    reader = connect(serve(*[reply(status)] * 9)).reader
    for action in (lambda: reader.get(NAME, 0, 9), lambda: reader.size(NAME)):
        with pytest.raises(NotFound, match=f"{NAME}.*{status}") as caught:
            action()
        assert caught.value.name == NAME
    assert reader.traffic.retries == 0


def test_long_explanations_are_not_waited_for(serve: Serve, connect: Connect) -> None:
    chunks = reply(404, b"", "Transfer-Encoding: chunked", length=None)
    server = serve(
        Step(reply(404, b"not", length=100_000), "stall"),
        Step(_endless(chunks, b"1000\r\n" + bytes(4096) + b"\r\n")),
        part(0, 9),
    )
    reader = connect(server).reader
    for _ in range(2):
        with pytest.raises(NotFound):
            reader.get(NAME, 0, 9)
    assert reader.get(NAME, 0, 9) == DATA[:9]
    assert reader.traffic.received < 500_000


@pytest.mark.parametrize("status", [204, 304])
def test_bodies_that_can_not_be_are_not_waited_for(
    status: int, serve: Serve, connect: Connect
) -> None:
    server = serve(Step(reply(status, b"", length=100), "stall"))
    assert str(status) in str(fails(connect(server).reader))


# Connections that idled


def test_a_connection_closed_while_idle_is_replaced_silently(
    serve: Serve, connect: Connect
) -> None:
    server = serve(Step(part(0, 9), "close"), part(0, 9))
    reader, sleeps = connect(server)
    assert reader.get(NAME, 0, 9) == DATA[:9]
    time.sleep(0.05)
    assert reader.get(NAME, 0, 9) == DATA[:9]
    assert server.connections == 2
    assert sleeps == []
    assert reader.traffic.retries == 0


@pytest.mark.parametrize("then", ["close", "reset"])
def test_a_connection_closed_as_the_request_arrives_is_replaced_silently(
    then: str, serve: Serve, connect: Connect
) -> None:
    server = serve(part(0, 9), Step(b"", then), part(9, 18))
    reader, sleeps = connect(server)
    assert reader.get(NAME, 0, 9) == DATA[:9]
    assert reader.get(NAME, 9, 18) == DATA[9:18]
    assert sleeps == []
    assert [request.connection for request in server.requests] == [1, 1, 2]


def test_a_connection_reset_inside_a_reply_is_a_failure(serve: Serve, connect: Connect) -> None:
    def begun() -> Iterator[bytes]:
        yield b"HTTP/1.1 2"
        time.sleep(0.2)

    server = serve(part(0, 9), Step(begun, "reset"), part(9, 18))
    reader, sleeps = connect(server)
    assert reader.get(NAME, 0, 9) == DATA[:9]
    assert reader.get(NAME, 9, 18) == DATA[9:18]
    assert reader.traffic.retries == len(sleeps) == 1


def test_bytes_after_a_reply_are_not_taken_for_the_next(serve: Serve, connect: Connect) -> None:
    junk = reply(206, b"123456789", f"Content-Range: bytes 0-8/{len(DATA)}")
    read = threading.Event()

    def late() -> Iterator[bytes]:
        yield part(0, 9)
        read.wait(SOON)
        yield junk

    server = serve(Step(late), part(0, 9))
    reader = connect(server).reader
    assert reader.get(NAME, 0, 9) == DATA[:9]
    before = server.sent
    read.set()
    while server.sent == before:
        time.sleep(0.01)
    assert reader.get(NAME, 0, 9) == DATA[:9]
    assert server.connections == 2


# Lies about ranges


@pytest.mark.parametrize(
    "line",
    [
        "Content-Range: bytes 101-999/10240",
        "Content-Range: bytes 99-999/10240",
        "Content-Range: bytes 0-899/10240",
        "Content-Range: bytes 100-1000/10240",
        "Content-Range: bytes 100-99/10240",
        "Content-Range: bytes 100-999/500",
        "Content-Range: bytes 100-/10240",
        "Content-Range: bytes */10240",
        "Content-Range: bytes 100-999/99999999999999999999",
        "Content-Range: lines 100-999/10240",
        "Content-Range: bytes 100-999",
        "Content-Type: multipart/byteranges; boundary=x",
    ],
)
def test_a_part_that_was_not_asked_for_is_refused(
    line: str, serve: Serve, connect: Connect
) -> None:
    match = re.search(r"(\d+)-(\d+)/", line)
    length = max(int(match[2]) - int(match[1]) + 1, 0) if match else 900
    server = serve(*[reply(206, b"?" * length, line)] * 9)
    reader = connect(server).reader
    error = fails(reader, start=100)
    assert not error.retryable
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "length", ["899", "901", "-900", "+900", "9_00", "900, 900", "x", "9" * 5000]
)
def test_lengths_that_make_no_sense_are_refused(
    length: str, serve: Serve, connect: Connect
) -> None:
    lines = ("Content-Range: bytes 100-999/10240", f"Content-Length: {length}")
    server = serve(*[reply(206, DATA[100:1000], *lines, length=None)] * 9)
    assert not fails(connect(server).reader, start=100).retryable


def test_two_lengths_are_refused(serve: Serve, connect: Connect) -> None:
    server = serve(*[reply(200, DATA[:1000], "Content-Length: 500")] * 9)
    assert not fails(connect(server).reader, stop=100).retryable


@pytest.mark.parametrize(
    "line",
    ["Content-Encoding: gzip", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: gzip"],
)
def test_encoded_objects_are_refused(line: str, serve: Serve, connect: Connect) -> None:
    server = serve(*[reply(200, DATA, line)] * 9)
    error = fails(connect(server).reader)
    assert not error.retryable
    assert "encoded" in str(error)


def test_a_server_that_ignores_ranges(serve: Serve, connect: Connect) -> None:
    server = serve(*[reply(200, DATA)] * 3, reply(200, DATA[:50]))
    reader, sleeps = connect(server)
    assert reader.get(NAME, 100, 200) == DATA[100:200]
    assert reader.get(NAME, 0, 99_999) == DATA
    assert reader.get(NAME, 99_999, 100_000) == b""
    assert reader.get(NAME, 40, 100) == DATA[40:50]
    assert sleeps == []


def test_a_server_that_ignores_ranges_and_breaks_off(serve: Serve, connect: Connect) -> None:
    server = serve(Step(reply(200, DATA)[:-500], "close"), reply(200, DATA))
    reader = connect(server).reader
    assert reader.get(NAME, 9000, 10_000) == DATA[9000:10_000]
    assert server.ranges == ["9000-9999", f"{len(DATA) - 500}-9999"]


@pytest.mark.parametrize("line", ["Connection: close", "Transfer-Encoding: chunked"])
def test_a_whole_object_of_unknown_length(line: str, serve: Serve, connect: Connect) -> None:
    body = DATA if "close" in line else b"%x\r\n%b\r\n0\r\n\r\n" % (len(DATA), DATA)
    server = serve(*[Step(reply(200, body, line, length=None), "close")] * 3)
    reader = connect(server).reader
    assert reader.get(NAME, 100, 200) == DATA[100:200]
    assert reader.get(NAME, 100, 99_999) == DATA[100:]
    assert reader.get(NAME, 99_998, 99_999) == b""


def test_a_rest_nobody_wants_is_not_read(serve: Serve, connect: Connect) -> None:
    def whole() -> Iterator[bytes]:
        yield reply(200, DATA, length=2**40)
        while True:
            yield DATA

    server = serve(Step(whole), part(0, 9))
    reader = connect(server).reader
    assert reader.get(NAME, 100, 200) == DATA[100:200]
    assert reader.get(NAME, 0, 9) == DATA[:9]
    assert server.connections == 2
    assert reader.traffic.received < 1_000_000


def test_too_far_into_a_whole_object(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_range, "MAX_SKIP", 5000)
    server = serve(reply(200, DATA), part(0, 9), part(6000, 6009))
    reader = connect(server).reader
    assert reader.get(NAME, 5000, 5001) == DATA[5000:5001]
    for _ in range(2):
        error = fails(reader, start=5001, stop=5002)
        assert not error.retryable
        assert "whole objects only" in str(error)
    # Told once, it is not asked again, until it shows that it has learnt.
    assert len(server.requests) == 1
    assert reader.get(NAME, 0, 9) == DATA[:9]
    assert reader.get(NAME, 6000, 6009) == DATA[6000:6009]


def test_too_far_at_the_first_request(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_range, "MAX_SKIP", 5000)
    server = serve(*[Step(_endless(reply(200, length=2**40), bytes(4096)))] * 9)
    reader = connect(server).reader
    assert "whole objects only" in str(fails(reader, start=2**30, stop=2**30 + 1))
    assert len(server.requests) == 1
    assert reader.traffic.received < 500_000


@pytest.mark.parametrize("line", ["Content-Range: bytes */10240", "X: y"])
def test_behind_the_end(line: str, serve: Serve, connect: Connect) -> None:
    server = serve(reply(416, b"sorry", line))
    assert connect(server).reader.get(NAME, 20_000, 30_000) == b""


def test_a_part_that_is_there_may_not_be_refused(serve: Serve, connect: Connect) -> None:
    server = serve(reply(416, b"", "Content-Range: bytes */10240"))
    assert not fails(connect(server).reader).retryable
    server = serve(Step(part(0, 1000)[:-1], "close"), reply(416))
    assert not fails(connect(server).reader).retryable


# Endless, slow, or no HTTP at all


def _endless(head: bytes, piece: bytes) -> Callable[[], Iterator[bytes]]:
    def send() -> Iterator[bytes]:
        yield head
        while True:
            yield piece

    return send


def _endless_part(*lines: str) -> bytes:
    return reply(206, b"", "Content-Range: bytes 0-999/10240", *lines, length=None)


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (_endless_part(), bytes(4096)),
        (_endless_part("Connection: close"), bytes(4096)),
        (_endless_part("Content-Length: 1000"), bytes(4096)),
        (_endless_part("Transfer-Encoding: chunked"), b"1000\r\n" + bytes(4096) + b"\r\n"),
        (_endless_part("Transfer-Encoding: chunked"), b"1\r\n\0\r\n"),
        (reply(200, length=None), bytes(4096)),
    ],
)
def test_endless_data_is_read_as_far_as_asked(
    head: bytes, piece: bytes, serve: Serve, connect: Connect
) -> None:
    server = serve(Step(_endless(head, piece)))
    reader = connect(server).reader
    assert reader.get(NAME, 0, 1000) == bytes(1000)
    assert reader.traffic.received < 500_000


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 ", b"a" * 4096),
        (b"HTTP/1.1 200 OK\r\nX: ", b"a" * 4096),
        (b"HTTP/1.1 200 OK\r\n", b"X: " + b"a" * 4096 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"\0" * 4096),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
        (_endless_part("Transfer-Encoding: chunked"), b"0" * 4096),
        (_endless_part("Transfer-Encoding: chunked") + b"0\r\n", b"X: y\r\n" * 100),
        (b"", b"SSH-2.0-OpenSSH_9.2\r\n"),
        (b"", b"\x16\x03\x01" * 1000),
    ],
)
def test_endless_heads_are_given_up(
    head: bytes, piece: bytes, serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_pace, "FLOOR_RATE", 200_000)
    server = serve(*[Step(_endless(head, piece))] * 2)
    reader = connect(server, timeout=0.5, attempts=2).reader
    fails(reader)


def test_memory_is_taken_for_what_comes(serve: Serve, connect: Connect) -> None:
    end = 2**50
    where = f"Content-Range: bytes 0-{end - 1}/{end}"
    server = serve(Step(reply(206, DATA, where, length=end), "close"))
    error = fails(connect(server, attempts=1).reader, stop=2**60)
    assert "broke off" in str(error)


def _drip(whole: bytes, fast: int) -> Callable[[], Iterator[bytes]]:
    def send() -> Iterator[bytes]:
        yield whole[:fast]
        for number in range(fast, len(whole)):
            time.sleep(0.02)
            yield whole[number : number + 1]

    return send


@pytest.mark.parametrize(
    ("whole", "fast"),
    [
        (part(0, 1000), 0),
        (part(0, 1000), 40),
        (part(0, 1000), len(part(0, 1000)) - 1000),
        (chunked(DATA[:1000]), len(chunked(DATA[:1000])) - 1010),
        (_endless_part("Transfer-Encoding: chunked") + b"0" * 1000, 110),
    ],
)
def test_a_dripping_server_is_dropped(
    whole: bytes, fast: int, serve: Serve, connect: Connect
) -> None:
    server = serve(Step(_drip(whole, fast)))
    error = fails(connect(server, timeout=0.4, attempts=1).reader)
    assert error.retryable
    assert "too slow" in str(error)


@pytest.mark.parametrize("sent", [0, 10, 60, 500])
def test_a_stalled_server_is_dropped(sent: int, serve: Serve, connect: Connect) -> None:
    server = serve(Step(part(0, 1000)[:sent], "stall"))
    error = fails(connect(server, timeout=0.2, attempts=1).reader)
    assert error.retryable
    assert "too slow" in str(error)


def test_a_slow_server_that_keeps_pace_is_borne_with(serve: Serve, connect: Connect) -> None:
    def slow() -> Iterator[bytes]:
        whole = part(0, 6000)
        for start in range(0, len(whole), 600):
            yield whole[start : start + 600]
            time.sleep(0.1)

    server = serve(Step(slow))
    reader, sleeps = connect(server, timeout=0.6)
    assert reader.get(NAME, 0, 6000) == DATA[:6000]
    assert sleeps == []


@pytest.mark.parametrize("status", [200, 206])
def test_a_long_reply_earns_the_time_it_takes(
    status: int, serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_pace, "FLOOR_RATE", 200_000)

    def slow() -> Iterator[bytes]:
        yield reply(status, b"", "Content-Range: bytes 0-599999/600000", length=600_000)
        for _ in range(12):
            yield bytes(50_000)
            time.sleep(0.1)

    reader, sleeps = connect(serve(Step(slow)), timeout=0.5)
    assert reader.get(NAME, 0, 600_000) == bytes(600_000)
    assert sleeps == []


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"<html>\r\n",
        b"\xff" * 100 + b"\r\n",
        b"HTTP/1.1 200 " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    ],
)
def test_what_is_not_http_is_refused(sent: bytes, serve: Serve, connect: Connect) -> None:
    server = serve(*[Step(sent, "close")] * 9)
    error = fails(connect(server).reader)
    assert not error.retryable
    assert len(str(error)) < 200
    assert len(server.requests) == 1


@pytest.mark.parametrize("kept", [9, 40, 60, 80])
def test_a_cut_head_is_tried_again(kept: int, serve: Serve, connect: Connect) -> None:
    whole = reply(206, DATA[:1000], "Content-Range: bytes 0-999/10240")
    server = serve(Step(reply(200)[:-10], "close"), Step(whole[:kept], "close"), whole)
    reader = connect(server).reader
    if kept == 9:
        assert not fails(reader).retryable  # not even a status
    else:
        assert reader.get(NAME, 0, 1000) == DATA[:1000]


@pytest.mark.parametrize("size", [b"-5", b"zz", b"", b"fffffffffffffffffffff", b"0x10"])
def test_chunks_that_make_no_sense(size: bytes, serve: Serve, connect: Connect) -> None:
    body = size + b"\r\n" + DATA[:3000] + b"\r\n0\r\n\r\n"
    server = serve(*[Step(_endless_part("Transfer-Encoding: chunked") + body, "close")] * 9)
    reader = connect(server).reader
    with suppress(TransferError):
        assert len(reader.get(NAME, 0, 1000)) <= 1000


_HONEST = [part(0, 1000), chunked(DATA[:600], DATA[600:1000]), reply(200, DATA), reply(416)]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    whole=st.sampled_from(_HONEST),
    place=st.integers(0, 300),
    removed=st.integers(0, 40),
    junk=st.binary(max_size=20)
    | st.sampled_from([b"\r\n", b"0", b"-", b"9" * 30, b":", b"\r\n\r\n"]),
)
def test_damaged_replies_end_in_bytes_or_a_declared_error(
    whole: bytes, place: int, removed: int, junk: bytes
) -> None:
    damaged = whole[:place] + junk + whole[place + removed :]
    server = BadServer([Step(damaged, "close")])
    reader = HttpReader(server.url, attempts=1, timeout=SOON)
    try:
        assert len(reader.get(NAME, 0, 1000)) <= 1000
    except ChunkstoreError:
        pass
    finally:
        reader.close()
        server.close()


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(status: int, serve: Serve, connect: Connect) -> None:
    other = serve(part(0, 9), reply(200, DATA[:9]))
    server = serve(
        reply(status, b"moved", "Location: ../elsewhere?a=b#c"),
        reply(status, b"moved", f"Location: http://{other.authority}/there"),
        reply(status, b"", f"Location: //{other.authority}/there"),
    )
    reader = connect(server).reader
    assert reader.get(NAME, 0, 9) == DATA[:9]
    assert [request.path for request in server.requests] == [
        f"/store/{NAME}",
        "/store/elsewhere?a=b",
    ]
    assert other.requests[0].path == "/there"
    assert other.requests[0].range == "bytes=0-8"
    assert other.requests[0].headers["host"] == other.authority
    assert reader.size(NAME) == 9
    assert [request.method for request in other.requests] == ["GET", "HEAD"]


def test_redirects_end_somewhere(serve: Serve, connect: Connect) -> None:
    server = serve(*[reply(302, b"", f"Location: /store/{NAME}")] * 9)
    error = fails(connect(server).reader)
    assert not error.retryable
    assert "too many redirects" in str(error)
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "gopher://127.0.0.1/x",
        "javascript:alert(1)",
        "http://:80/",
        "http://[::1/x",
        "http://127.0.0.1:99999/x",
        "http://127.0.0.1:port/x",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\x7f",
        "http://127.0.0.1/\xe4",
    ],
)
def test_redirects_elsewhere_than_http_are_refused(
    location: str, serve: Serve, connect: Connect
) -> None:
    head = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
    server = serve(*[Step(head.encode("latin-1"))] * 9)
    error = fails(connect(server).reader)
    assert not error.retryable
    assert "redirected" in str(error)
    assert len(server.requests) == 1


def test_credentials_stay_with_their_host(serve: Serve, connect: Connect) -> None:
    other = serve(part(0, 9))
    server = serve(
        reply(302, b"", "Location: /here"),
        reply(302, b"", f"Location: http://evil:evil@{other.authority}/there"),
    )
    url = f"http://me:s%40cret@{server.authority}/store"
    assert connect(url).reader.get(NAME, 0, 9) == DATA[:9]
    for request in server.requests:
        assert request.headers["authorization"] == "Basic bWU6c0BjcmV0"
    assert len(server.requests) == 2
    assert "authorization" not in other.requests[0].headers


@pytest.mark.parametrize(
    "step",
    [
        Step(b"", "close"),
        Step(b"SSH\r\n", "close"),
        Step(reply(401)),
        Step(reply(404)),
        Step(reply(503)),
        Step(reply(206)),
        Step(reply(206, b"", "Content-Range: bytes 5-5/9")),
        Step(reply(302, b"", "Location: file://me:s3cret@x/y")),
        Step(reply(302, b"", "Location: http://me:s3cret@[x/")),
        Step(b"", "stall"),
    ],
)
def test_credentials_are_never_shown(step: Step, serve: Serve, connect: Connect) -> None:
    server = serve(*[step] * 2)
    reader = connect(f"http://me:s3cret@{server.authority}/", attempts=2, timeout=0.2).reader
    with pytest.raises(ChunkstoreError) as caught:
        reader.get(NAME, 0, 1000)
    error: BaseException | None = caught.value
    assert server.authority in str(error)
    while error is not None:
        assert "s3cret" not in repr(error)
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://:80/",
        "ftp://me:s3cret@host/",
        "http://me:s3cret@host:port/",
        "http://me:s3/cret@host/",
        "http://me:s3cret@host/a b",
        "http://me:s3cret@host/\n",
        "http://me:s3cret@host/?token=s3cret",
        "http://me:s3cret@host/#x",
        "http://h\xf6st/",
        "host",
        "",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(Usage) as caught:
        HttpReader(url)
    assert "s3" not in str(caught.value)


# Sizes


def test_size_by_head_and_without(serve: Serve, connect: Connect) -> None:
    server = serve(
        reply(200, b"", length=2**40),
        reply(200, b"", length=None),
        part(0, 1),
        reply(405),
        reply(416, b"", "Content-Range: bytes */0"),
        reply(501),
        reply(200, DATA),
    )
    reader = connect(server).reader
    assert [reader.size(NAME) for _ in range(4)] == [2**40, len(DATA), 0, len(DATA)]
    methods = ["HEAD", "HEAD", "GET", "HEAD", "GET", "HEAD", "GET"]
    assert [request.method for request in server.requests] == methods


def test_a_size_nobody_tells(serve: Serve, connect: Connect) -> None:
    for last in (
        part(0, 1, total="*"),
        reply(206, b"x"),
        Step(reply(200, b"x", length=None), "close"),
    ):
        reader = connect(serve(reply(405), last)).reader
        with pytest.raises(TransferError) as caught:
            reader.size(NAME)
        assert not caught.value.retryable


# The end, and TLS


def test_a_closed_reader_is_not_used_by_accident(serve: Serve, connect: Connect) -> None:
    server = serve(part(0, 9))
    reader = connect(server).reader
    reader.get(NAME, 0, 9)
    reader.close()
    with pytest.raises(Usage, match="closed"):
        reader.get(NAME, 0, 9)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tls")
    path = os.path.join(folder, "both.pem")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -addext"
    try:
        subprocess.run(
            [
                *command.split(),
                "subjectAltName=IP:127.0.0.1",
                "-keyout",
                path,
                "-out",
                path + ".crt",
            ],
            check=True,
            capture_output=True,
        )
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("no openssl to make a certificate with")
    with open(path, "a") as both:
        both.write(Path(path + ".crt").read_text())
    return path


def test_tls(certificate: str, serve: Serve, connect: Connect) -> None:
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(certificate)
    plain = serve()
    server = serve(
        Step(part(0, 10_000)[:-4000], "close"),
        part(6000, 10_000),
        reply(302, b"", f"Location: {plain.url}"),
        tls=ours,
    )
    trusting = connect(server, tls=ssl.create_default_context(cafile=certificate)).reader
    assert trusting.get(NAME, 0, 10_000) == DATA[:10_000]
    assert server.ranges == ["0-9999", "6000-9999"]
    assert "from https to http" in str(fails(trusting))
    assert plain.requests == []
    error = fails(connect(server).reader)
    assert not error.retryable
    assert "bad certificate" in str(error)
    # Plain HTTP to a TLS port and the other way round end in one line as well.
    assert fails(connect(f"http://{server.authority}/", attempts=1).reader)
    assert fails(connect(f"https://{plain.authority}/", attempts=1, timeout=0.5).reader)
