"""A server for each test, which says what it is told to say, and a client for it."""

import ssl
import time
from collections.abc import Iterator

import pytest
from support.replies import Client, Connect, Serve
from support.servers import SOON, BadServer, Step

from chunkstore.storage.backends.http import HttpReader


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
