"""A small store, a server for it on the loopback, and two ways to talk to it."""

from __future__ import annotations

import http.client
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from chunkstore.server import running

SMALL = "a" * 64
LARGE = "b" * 64
EMPTY = "c" * 64
TIMEOUT = 30.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Client:
    """One server as seen from outside."""

    def __init__(self, url: str, root: Path) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self.url = url
        self.root = root
        self.address = (parts.hostname, parts.port)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(*self.address, timeout=TIMEOUT)

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """One request on a connection of its own; `If_Range` stands for `If-Range`."""
        connection = self.connect()
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=named)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def dial(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=TIMEOUT)

    def raw(self, request: bytes) -> bytes:
        """Send bytes as they are, and return all that comes until the server closes."""
        with self.dial() as sock:
            sock.sendall(request)
            return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    received = bytearray()
    try:
        while data := sock.recv(1 << 16):
            received += data
    except ConnectionResetError:
        pass  # cut: also an end
    return bytes(received)


def make_store(directory: Path) -> Path:
    root = directory / "store"
    source = random.Random(8730)
    files = {
        "store.json": b'{"format": 1}\n',
        "images/web/ref": b"the ref of web",
        "images/base-12.04_x/ref": b"the ref of base",
        f"versions/{SMALL}": b"a version record",
        f"locate/{SMALL}": b"a hint",
        f"packs/{SMALL}.pack": source.randbytes(10_000),
        f"packs/{SMALL}.idx": b"an index",
        f"packs/{SMALL}.torrent": b"a torrent",
        # Several pieces and a rest, so sent by sendfile in more than one go.
        f"packs/{LARGE}.pack": source.randbytes((3 << 20) + 4321),
        f"packs/{EMPTY}.pack": b"",
        "local/catalog.sqlite": b"SECRET",
        "local/spool/" + SMALL: b"SECRET",
        "packs/.tmp-" + SMALL: b"SECRET",
        f"packs/{SMALL}.pack.tmp": b"SECRET",
        "images/web/.ref.tmp": b"SECRET",
        "images/.hidden/ref": b"SECRET",
        "keys.json": b"SECRET",
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (directory / "outside").write_bytes(b"SECRET")
    return root


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server that all tests share which change nothing."""
    root = make_store(tmp_path_factory.mktemp("shared"))
    with running(root) as url:
        yield Client(url, root)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of the test's own."""
    return make_store(tmp_path)


@pytest.fixture
def serve(store: Path) -> Iterator[Callable[..., Client]]:
    """Start a server for the test's own store, with the keywords of `running`."""
    with ExitStack() as servers:

        def start(**options: Any) -> Client:
            return Client(servers.enter_context(running(store, **options)), store)

        yield start


@pytest.fixture
def own(serve: Callable[..., Client]) -> Client:
    """A server for the test's own store, with the usual limits."""
    return serve()
