"""What one client may cost: heads, bodies, places, slow reading.

Time appears as the limits given to the server, as generous upper bounds of
sockets, and once as a wait in which nothing may come.
"""

from __future__ import annotations

import os
import queue
import resource
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from chunkstore.server import Access, Limits

if TYPE_CHECKING:
    from tests.server.conftest import Client

    Serve = Callable[..., Client]

SMALL = "a" * 64
HUGE = "e" * 64
REQUEST = b"GET /store.json HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def huge(store: Path) -> str:
    """A pack far larger than the kernel's socket buffers."""
    path = store / f"packs/{HUGE}.pack"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    return f"/packs/{path.name}"


def answers(sock: socket.socket) -> bool:
    """Whether the next thing on the connection is a 200, rather than its end."""
    return read_one(sock).startswith(b"HTTP/1.1 200 ")


def drip(sock: socket.socket) -> None:
    """Add to a head for ten seconds; a cut shows as a broken pipe."""
    for _ in range(1000):
        sock.sendall(b"x")
        time.sleep(0.01)


def read_one(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1 << 16)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("start", [b"", b"G", b"GET /store.json HTTP/1.1\r\nHost: x\r\nX: "])
def test_a_head_that_never_ends_is_cut(serve: Serve, start: bytes) -> None:
    client = serve(limits=Limits(head_seconds=0.5))
    with client.dial() as sock:
        sock.sendall(start)
        assert read_one(sock) == b""


def test_a_head_that_drips_is_cut(serve: Serve) -> None:
    client = serve(limits=Limits(head_seconds=0.5))
    with client.dial() as sock:
        sock.sendall(b"GET /store.json HTTP/1.1\r\nX: ")
        with pytest.raises(ConnectionError):
            drip(sock)


def test_a_head_that_drips_is_cut_on_a_kept_connection(serve: Serve) -> None:
    client = serve(limits=Limits(head_seconds=0.5))
    with client.dial() as sock:
        sock.sendall(REQUEST)
        assert answers(sock)
        sock.sendall(b"GET / HTTP/1.1\r\nX: ")
        with pytest.raises(ConnectionError):
            drip(sock)


def test_an_idle_connection_is_closed(serve: Serve) -> None:
    client = serve(limits=Limits(head_seconds=0.5))
    with client.dial() as sock:
        sock.sendall(REQUEST)
        assert answers(sock)
        assert read_one(sock) == b""


def test_the_head_limit_counts_from_the_end_of_a_response(serve: Serve, huge: str) -> None:
    client = serve(limits=Limits(head_seconds=2, crowded_head_seconds=0.2))
    connection = client.connect()
    connection.request("GET", huge)
    response = connection.getresponse()
    received = 0
    while data := response.read(4 << 20):
        received += len(data)
        time.sleep(0.15)  # 2.4 s in all
    assert received == 64 << 20
    time.sleep(0.2)  # in which the limit would be enforced, had it run meanwhile
    connection.request("GET", "/store.json")
    assert connection.getresponse().status == 200
    connection.close()


def test_a_slow_server_does_not_blame_its_clients(serve: Serve) -> None:
    """A head that came in time, but lay unread while the event loop was held up."""

    async def block(_request: web.Request) -> web.Response:
        time.sleep(2)  # the event loop, too
        return web.Response()

    client = serve(
        limits=Limits(head_seconds=1),
        extend=lambda app: app.router.add_get("/block", block) and None,
    )
    with client.dial() as blocking, client.dial() as waiting:
        waiting.sendall(REQUEST)
        assert answers(waiting)
        blocking.sendall(b"GET /block HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.2)
        waiting.sendall(REQUEST)
        assert answers(waiting)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 10_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"x" * 10_000 + b": x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: x\r\n" * 100 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client at the wrong door\r\n\r\n",
        b"FROBNICATE / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_bad_heads(serve: Serve, head: bytes) -> None:
    log: queue.Queue[Access] = queue.Queue()
    client = serve(on_request=log.put)
    answer = client.raw(head)
    assert answer.split(b"\r\n")[0].split(b" ")[1] == b"400"
    assert b"nosniff" in answer
    assert b"aiohttp" not in answer
    assert log.get(timeout=10).status == 400
    assert client.ask("/store.json").status == 200


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/store.json", "/nothing"])
@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Content-Length: 99999999999\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nfff\r\n",
        b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    ],
)
def test_bodies_are_refused(client: Client, method: str, path: str, rest: bytes) -> None:
    # `raw` returns when the server has closed, so this shows the closing too.
    answer = client.raw(f"{method} {path} HTTP/1.1\r\nHost: x\r\n".encode() + rest + REQUEST)
    answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.count(b"HTTP/1.1") == 1


def test_a_client_that_goes_on_sending_still_reads_the_refusal(client: Client) -> None:
    head = b"PUT /store.json HTTP/1.1\r\nHost: x\r\nContent-Length: 32000000\r\n\r\n"
    # More than the kernel would buffer for a server that has stopped reading.
    assert client.raw(head + bytes(32_000_000)).startswith(b"HTTP/1.1 413 ")


def test_an_empty_body_is_no_body(client: Client) -> None:
    assert client.ask("/store.json", Content_Length="0").status == 200


def test_beyond_the_cap_connections_wait_their_turn(serve: Serve) -> None:
    client = serve(limits=Limits(max_connections=2, head_seconds=60, crowded_head_seconds=60))
    with client.dial() as first, client.dial() as second, client.dial() as third:
        for sock in (first, second):
            sock.sendall(REQUEST)
            assert answers(sock)
        third.sendall(REQUEST)
        third.settimeout(0.5)
        with pytest.raises(TimeoutError):
            third.recv(1)
        third.settimeout(30)
        first.close()
        assert answers(third)
        second.sendall(REQUEST)
        assert answers(second)


def test_a_half_closed_connection_keeps_its_place(serve: Serve, huge: str) -> None:
    """The end of what a client sends is not the end of what it wants to read."""
    client = serve(limits=Limits(max_connections=1, head_seconds=60, crowded_head_seconds=60))
    with client.dial() as first, client.dial() as second:
        first.sendall(f"GET {huge} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received = len(first.recv(1000))
        first.shutdown(socket.SHUT_WR)
        second.sendall(REQUEST)
        second.settimeout(0.5)
        with pytest.raises(TimeoutError):
            second.recv(1)
        while data := first.recv(1 << 20):
            received += len(data)
        assert received > 64 << 20
        second.settimeout(30)
        assert answers(second)


def test_idle_connections_make_room_for_a_crowd(serve: Serve) -> None:
    client = serve(limits=Limits(max_connections=2, head_seconds=60, crowded_head_seconds=0.2))
    with client.dial() as first, client.dial() as second:
        for sock in (first, second):
            sock.sendall(REQUEST)
            assert answers(sock)
        assert client.ask("/store.json").status == 200


def test_a_slow_link_is_not_idle(serve: Serve) -> None:
    """In a crowd, a connection is idle when its client has got everything."""
    client = serve(limits=Limits(max_connections=1, head_seconds=60, crowded_head_seconds=0.2))
    with socket.socket() as first:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        first.settimeout(30)
        first.connect(client.address)
        first.sendall(f"GET /packs/{SMALL}.pack HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received = len(first.recv(100))
        with client.dial() as second:
            second.sendall(REQUEST)
            second.settimeout(1)
            with pytest.raises(TimeoutError):
                second.recv(1)
            while received < 10_000:
                received += len(first.recv(1000))
            second.settimeout(30)
            assert answers(second)


def test_silent_connections_do_not_lock_others_out(serve: Serve) -> None:
    client = serve(limits=Limits(max_connections=4, crowded_head_seconds=0.2))
    hoard = [client.dial() for _ in range(20)]
    assert client.ask("/store.json").status == 200
    for sock in hoard:
        sock.close()


def test_places_are_given_back(serve: Serve, huge: str) -> None:
    client = serve(limits=Limits(max_connections=3, head_seconds=60, crowded_head_seconds=60))
    for number in range(30):
        with client.dial() as sock:
            if number % 3 == 0:
                sock.sendall(REQUEST)
                assert answers(sock)
            elif number % 3 == 1:
                sock.sendall(f"GET {huge} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                sock.recv(1000)  # and leave in the middle
    assert client.ask("/store.json").status == 200


def test_a_reader_that_stops_is_cut(serve: Serve, huge: str) -> None:
    log: queue.Queue[Access] = queue.Queue()
    limits = Limits(min_rate=100 << 20, grace_seconds=0.5)
    client = serve(limits=limits, on_request=log.put)
    with client.dial() as sock:
        sock.sendall(f"GET {huge} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        access = log.get(timeout=20)
        assert not access.complete
        assert access.status == 200
        assert access.bytes < 64 << 20
        received = 0
        while data := read_one(sock):
            received += len(data)
        assert received < 64 << 20


def test_a_reader_of_small_answers_that_stops_is_cut(serve: Serve) -> None:
    """Pipelining fills the buffers with small answers, where no sendfile is waiting."""
    log: queue.Queue[Access] = queue.Queue()
    limits = Limits(min_rate=100 << 20, grace_seconds=0.5, head_seconds=60)
    client = serve(limits=limits, on_request=log.put)
    request = f"GET /packs/{SMALL}.pack HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with client.dial() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with pytest.raises(ConnectionError):
            sock.sendall(request * 1_000_000)
    while log.get(timeout=20).complete:
        pass


def pipeline_into_full_buffers(client: Client, huge: str, count: int) -> list[socket.socket]:
    """Clients that ask for a lot and have read nothing yet.

    Small answers, which go through asyncio's buffer, are followed by large ones,
    which go past it. With different numbers of them, some connection comes to a
    large one just when the last small one fits the kernel in part.
    """
    ask = "GET {} HTTP/1.1\r\nHost: x\r\nRange: bytes=0-{}\r\n\r\n"
    inline, sendfile = (ask.format(huge, size - 1).encode() for size in (60_000, 70_000))
    socks = []
    for number in range(count):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(30)
        sock.connect(client.address)
        sock.sendall(b"GET /narrow HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.sendall(inline * number + sendfile * 10)
        socks.append(sock)
    return socks


def add_narrow(app: web.Application) -> None:
    """A route that makes the kernel's buffer for the connection small."""

    async def narrow(request: web.Request) -> web.Response:
        assert request.transport is not None
        sock = request.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return web.Response()

    app.router.add_get("/narrow", narrow)


def test_cutting_a_stuck_pipeline_is_clean(
    serve: Serve, huge: str, caplog: pytest.LogCaptureFixture
) -> None:
    log: queue.Queue[Access] = queue.Queue()
    client = serve(
        limits=Limits(min_rate=100 << 20, grace_seconds=0.5, head_seconds=60),
        on_request=log.put,
        extend=add_narrow,
    )
    socks = pipeline_into_full_buffers(client, huge, 8)
    cut = 0
    while cut < len(socks):
        cut += not log.get(timeout=20).complete
    for sock in socks:
        sock.close()
    client.ask("/store.json")  # after this, the loop has dealt with the cut connections
    assert not caplog.records


def test_a_slow_pipeline_arrives_in_order(serve: Serve, huge: str) -> None:
    client = serve(extend=add_narrow)
    socks = pipeline_into_full_buffers(client, huge, 8)
    time.sleep(0.5)  # until all are stuck
    for number, sock in enumerate(socks):
        with sock, sock.makefile("rb") as stream:
            for size in [0] + [60_000] * number + [70_000] * 10:
                assert stream.readline().startswith(b"HTTP/1.1 20")
                while stream.readline() != b"\r\n":
                    pass
                assert stream.read(size) == bytes(size)


def test_a_steady_reader_is_not_cut(serve: Serve, huge: str) -> None:
    """Slower than the sum of all graces, but never below the rate within a piece."""
    client = serve(limits=Limits(min_rate=1 << 20, grace_seconds=0.5))
    connection = client.connect()
    connection.request("GET", huge, headers={"Range": f"bytes=0-{(24 << 20) - 1}"})
    response = connection.getresponse()
    received = 0
    while received < 24 << 20:
        received += len(response.read(1 << 19))
        time.sleep(0.04)
    assert received == 24 << 20
    connection.close()


def test_a_client_that_leaves_is_logged_as_such(serve: Serve, huge: str) -> None:
    log: queue.Queue[Access] = queue.Queue()
    client = serve(on_request=log.put)
    with client.dial() as sock:
        sock.sendall(f"GET {huge} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        sock.recv(1000)
    access = log.get(timeout=20)
    assert (access.complete, access.status, access.path) == (False, 200, huge)


def test_limits_are_positive() -> None:
    for field in fields(Limits):
        with pytest.raises(ValueError, match=field.name):
            Limits(**{field.name: 0})


def test_running_out_of_descriptors_passes(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """The accept loop pauses and goes on; it neither ends nor spins."""
    client = serve()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    with socket.socket() as late:
        late.settimeout(30)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
            with suppress(OSError):
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            late.connect(client.address)
            late.sendall(REQUEST)
            deadline = time.monotonic() + 30
            while not caplog.records and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.5)
        finally:
            for fd in taken:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert 1 <= len(caplog.records) < 100
        assert answers(late)
