"""Start, stop, signals, addresses, the access log, routes added by others."""

from __future__ import annotations

import errno
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from chunkstore.server import Access, Limits, base_url, running

if TYPE_CHECKING:
    from tests.server.conftest import Client

    Serve = Callable[..., Client]

HUGE = "e" * 64
ROOT = Path(__file__).parents[2]

FOREGROUND = """
import sys
from pathlib import Path
from chunkstore.server import Limits, base_url, serve_forever

def ready(addresses):
    print(base_url(addresses[0]), flush=True)

limits = Limits(stop_seconds=float(sys.argv[2]))
number = serve_forever(Path(sys.argv[1]), "127.0.0.1", 0, limits=limits, on_ready=ready)
print(number.name, flush=True)
"""


@pytest.fixture
def huge(store: Path) -> str:
    path = store / f"packs/{HUGE}.pack"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    return f"/packs/{path.name}"


@contextmanager
def foreground(store: Path, stop_seconds: float) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", FOREGROUND, str(store), str(stop_seconds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(store: Path, number: signal.Signals) -> None:
    with foreground(store, 5) as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as sock:
            sock.sendall(b"HEAD /store.json HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.1 200 ")
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
            assert (process.returncode, out, err) == (0, number.name + "\n", "")
            assert sock.recv(1000) == b""


def await_refusal(host: str, port: int) -> None:
    """Wait until nobody listens there any more."""
    with suppress(ConnectionRefusedError):
        while True:
            socket.create_connection((host, port), timeout=30).close()
            time.sleep(0.01)


def test_a_second_signal_does_not_wait(store: Path, huge: str) -> None:
    with foreground(store, 600) as (process, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as sock:
            sock.sendall(f"GET {huge} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            sock.recv(1000)
            process.send_signal(signal.SIGTERM)
            await_refusal(host, int(port))  # it has heard the first
            assert process.poll() is None  # the response is still running
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
            assert process.returncode == -signal.SIGTERM


def test_a_running_response_may_finish(store: Path, huge: str) -> None:
    """The server is told to stop after the first bytes, and the last one still comes."""
    received = bytearray()
    with running(store, limits=Limits(stop_seconds=60)) as url:
        host, port = url.removeprefix("http://").split(":")
        sock = socket.create_connection((host, int(port)), timeout=30)
        sock.sendall(f"GET {huge} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received += sock.recv(1000)

        def finish() -> None:
            time.sleep(0.3)
            while data := sock.recv(1 << 20):
                received.extend(data)

        reader = threading.Thread(target=finish)
        reader.start()
    reader.join()
    sock.close()
    head, _, _ = received.partition(b"\r\n\r\n")
    assert len(received) == len(head) + 4 + (64 << 20)


def test_a_stuck_response_does_not_hold_up_the_stop(store: Path, huge: str) -> None:
    log: queue.Queue[Access] = queue.Queue()
    with running(store, limits=Limits(stop_seconds=0.3), on_request=log.put) as url:
        host, port = url.removeprefix("http://").split(":")
        sock = socket.create_connection((host, int(port)), timeout=30)
        sock.sendall(f"GET {huge} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        sock.recv(1000)
    assert not log.get(timeout=30).complete
    sock.close()


def test_nothing_listens_afterwards(store: Path) -> None:
    with running(store) as url:
        pass
    host, port = url.removeprefix("http://").split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)


def test_an_idle_client_does_not_hold_up_the_stop(store: Path) -> None:
    with running(store, limits=Limits(stop_seconds=3600)) as url:
        host, port = url.removeprefix("http://").split(":")
        socks = [socket.create_connection((host, int(port)), timeout=30) for _ in range(10)]
        socks[0].sendall(b"GET / HTTP/1.1\r\n")
    for sock in socks:
        sock.close()


def test_a_taken_port(store: Path) -> None:
    with running(store) as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use") as caught, running(store, port=port):
            pass
        assert caught.value.errno == errno.EADDRINUSE


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), running(tmp_path / "none"):
        pass


def test_a_failed_start_leaves_no_descriptor(store: Path) -> None:
    with running(store) as url:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="in use"), running(store, port=int(url[-5:].strip(":"))):
            pass
        assert len(os.listdir("/proc/self/fd")) == before


def test_ipv6(serve: Serve) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    client = serve(host="::1")
    assert client.url.startswith("http://[::1]:")
    assert client.ask("/store.json").status == 200


def test_every_address(serve: Serve) -> None:
    log: queue.Queue[Access] = queue.Queue()
    client = serve(host="", on_request=log.put)
    for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
        with socket.socket(family) as sock:
            sock.settimeout(30)
            try:
                sock.connect((host, client.address[1]))
            except OSError:
                assert family == socket.AF_INET6
                continue
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert sock.recv(1000).startswith(b"HTTP/1.0 200 ")
            assert log.get(timeout=10).peer == host


def test_an_address_that_is_not_ours(store: Path) -> None:
    with pytest.raises(OSError, match="assign") as caught, running(store, "192.0.2.1"):
        pass
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_localhost(serve: Serve) -> None:
    assert serve(host="localhost").ask("/store.json").status == 200


def test_base_url() -> None:
    assert base_url(("10.0.0.1", 80)) == "http://10.0.0.1:80"
    assert base_url(("fe80::1", 80)) == "http://[fe80::1]:80"


def test_access_log(serve: Serve, store: Path) -> None:
    log: queue.Queue[Access] = queue.Queue()
    client = serve(on_request=log.put)
    size = (store / "store.json").stat().st_size
    large = f"/packs/{'b' * 64}.pack"
    etag = client.ask("/store.json").headers["ETag"]
    client.ask("/store.json", "HEAD")
    client.ask("/store.json", If_None_Match=etag)
    client.ask(large, Range="bytes=5-1500004")
    client.ask(large, Range="bytes=5-10")
    client.ask("/%2e%2e/secret")
    client.ask("/store.json", "DELETE")
    seen = [log.get(timeout=10) for _ in range(7)]
    assert [(each.method, each.path, each.status) for each in seen] == [
        ("GET", "/store.json", 200),
        ("HEAD", "/store.json", 200),
        ("GET", "/store.json", 304),
        ("GET", large, 206),
        ("GET", large, 206),
        ("GET", "/%2e%2e/secret", 404),
        ("DELETE", "/store.json", 405),
    ]
    assert [each.bytes for each in seen[:5]] == [size, 0, 0, 1_500_000, 6]
    assert all(each.peer == "127.0.0.1" and each.complete for each in seen)
    assert all(0 <= each.seconds < 30 for each in seen)


def test_a_failing_log_does_not_harm_the_service(serve: Serve) -> None:
    def fail(_access: Access) -> None:
        raise RuntimeError("no space for the log")

    client = serve(on_request=fail)
    connection = client.connect()
    for _ in range(3):
        connection.request("GET", "/store.json")
        assert connection.getresponse().read()
    connection.close()


def test_routes_can_be_added(serve: Serve) -> None:
    async def announce(request: web.Request) -> web.Response:
        return web.Response(text=request.query["info"])

    async def broken(_request: web.Request) -> web.Response:
        raise RuntimeError("a defect")

    async def moved(_request: web.Request) -> web.Response:
        raise web.HTTPFound("/report?info=x")

    def extend(app: web.Application) -> None:
        app.router.add_get("/report", announce)
        app.router.add_get("/broken", broken)
        app.router.add_get("/moved", moved)

    log: queue.Queue[Access] = queue.Queue()
    client = serve(extend=extend, on_request=log.put)
    answer = client.ask("/report?info=abc")
    assert (answer.status, answer.body) == (200, b"abc")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    broken_answer = client.ask("/broken")
    assert (broken_answer.status, broken_answer.body) == (500, b"internal error\n")
    moved_answer = client.ask("/moved")
    assert (moved_answer.status, moved_answer.headers["Location"]) == (302, "/report?info=x")
    assert [log.get(timeout=10).status for _ in range(3)] == [200, 500, 302]


def test_the_library_is_silent(store: Path, huge: str) -> None:
    """Also about what it logs: without a handler, logging itself would print that."""
    with foreground(store, 5) as (process, url):
        host, port = url.removeprefix("http://").split(":")
        for request in (f"GET {huge} HTTP/1.1\r\nHost: x\r\n\r\n", "not HTTP\r\n\r\n"):
            with socket.create_connection((host, int(port)), timeout=30) as sock:
                sock.sendall(request.encode())
                sock.recv(1000)
                os.truncate(store / huge[1:], 1000)  # a failure that is worth a log
                while sock.recv(1 << 20):
                    pass
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30) == ("SIGTERM\n", "")
