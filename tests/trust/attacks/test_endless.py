"""Answers without end: what TUF's conformance tests put to a client, put to a node.

By a real server, on a false store. Each refusal leaves the tree and what the node
remembers as they were; see `Scene.refused`.
"""

from __future__ import annotations

import threading
from contextlib import closing

import pytest
from support.falsified import STRANGER, Scene
from support.servers import BadServer, Step

from chunkstore.errors import (
    ChunkstoreError,
    TransferError,
    Untrusted,
)
from chunkstore.objects.documents import MAX_REF
from chunkstore.objects.names import parse_layers
from chunkstore.pull import PullOptions, Trust, pull
from chunkstore.storage import layout
from chunkstore.storage.backends.http import HttpReader
from chunkstore.trust.root import role


def test_a_ref_without_end(scene: Scene) -> None:
    scene.commit("one")
    scene.install()
    scene.path(layout.ref("web")).write_bytes(bytes(MAX_REF + 1))
    before = scene.facts()
    with pytest.raises(ChunkstoreError):
        scene.pull()
    assert scene.facts() == before


@pytest.mark.parametrize("answer", ["a length of 2^60", "chunks for ever"])
def test_answers_without_end(scene: Scene, answer: str) -> None:
    scene.commit("one")
    scene.install()
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
    if answer == "chunks for ever":
        head += b"Transfer-Encoding: chunked\r\n\r\n"
        part = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    else:
        head += b"Content-Length: 1152921504606846976\r\n\r\n"
        part = bytes(0x10000)

    def endless():  # type: ignore[no-untyped-def]
        yield head
        while True:
            yield part

    server = BadServer([Step(endless, "close") for _ in range(9)])
    try:
        scene.url = server.url
        before = scene.facts()
        with pytest.raises(ChunkstoreError):
            scene.pull()
        assert server.sent < 200 * MAX_REF
        assert scene.facts() == before
    finally:
        server.close()


@pytest.mark.parametrize("first", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n"])
def test_answers_that_drip(scene: Scene, first: bytes) -> None:
    """A byte now and then earns no time to speak of."""
    scene.commit("one")
    scene.install()
    over = threading.Event()

    def drip():  # type: ignore[no-untyped-def]
        yield first
        while not over.wait(0.1):
            yield b"x"

    server = BadServer([Step(drip, "close") for _ in range(9)])
    try:
        before = scene.facts()
        options = PullOptions(clock=scene.now)
        with (
            closing(HttpReader(server.url, timeout=0.5, attempts=2)) as reader,
            pytest.raises(TransferError),
        ):
            pull(reader, parse_layers("web"), str(scene.node), options=options)
        assert server.sent < 1000
        assert scene.facts() == before
    finally:
        over.set()
        server.close()


def test_roots_without_end(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a pinned key is found nobody vouches for how many there are."""
    monkeypatch.setattr("chunkstore.storage.believe.MOST_ROOTS", 20)
    scene.commit("one")
    mine = role([STRANGER.key])
    for version in range(1, 40):
        root = scene.root._replace(version=version, roots=mine, refs=mine)
        scene.put_root(root, STRANGER)
    with pytest.raises(Untrusted, match="not signed by root key"):
        scene.pin()
    with pytest.raises(Untrusted, match="more than 20 root documents"):
        scene.pull(trust=Trust.FIRST)
