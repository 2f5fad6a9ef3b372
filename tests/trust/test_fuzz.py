"""Every parser that a node runs, fed with anything: declared errors only, in bounded memory.

Honest documents are taken apart and put together wrongly, since bytes by chance alone come no
further than the magic.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import closing, suppress

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.falsified import NOW
from support.forge import ONLINE, ROOT, STORE_ID
from support.servers import BadServer, Step

from chunkstore.errors import ChunkstoreError
from chunkstore.objects import chunklist, codec, documents, manifest, pack
from chunkstore.objects.digest import chunk_digest, version_digest
from chunkstore.objects.documents import Ref, Tag, Version
from chunkstore.objects.manifest import NodeRef
from chunkstore.storage.backends.http import HttpReader
from chunkstore.trust import keyfile
from chunkstore.trust.memory import Memory, parse_memory
from chunkstore.trust.refs import Seen, sign_ref
from chunkstore.trust.root import Root, check_first, check_next, parse_root, role, sign_root
from chunkstore.worktree import journal

GOOD_ROOT = sign_root(Root(STORE_ID, 1, NOW, 0, role([ROOT.key]), role([ONLINE.key])), [ROOT])
GOOD_REF = Ref(STORE_ID, "web", 1, 1, NOW, NOW + 10**15, (Tag("latest", bytes(32), 100),))
GOOD_MEMORY = Memory(GOOD_ROOT, NOW, (("web", Seen(1, 1, bytes(32))),))
LARGEST = 64 * 2**20
"""Bytes that reading any of these may take at most, whatever they say."""


def read_root(data: bytes) -> None:
    signed = parse_root(data)
    check_first(signed)


def read_next_root(data: bytes) -> None:
    check_next(GOOD_ROOT.root, parse_root(data))


def read_ref(data: bytes) -> None:
    ref, envelope = documents.open_ref(data, "here")
    GOOD_MEMORY._replace(images=()).believe(ref, envelope, "web", clock=NOW)


def read_node(data: bytes) -> None:
    ref = NodeRef(b"", chunk_digest(data), len(data), 1, 0)
    manifest.read_node(ref, data)


PARSERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "ref": (read_ref, documents.encode_ref(sign_ref(GOOD_REF, [ONLINE]))),
    "root": (read_root, GOOD_ROOT.encode()),
    "next root": (
        read_next_root,
        sign_root(GOOD_ROOT.root._replace(version=2), [ROOT]).encode(),
    ),
    "memory": (lambda data: parse_memory(data, "here"), GOOD_MEMORY.encode()),
    "version": (
        lambda data: documents.parse_version(data, version_digest(data)),
        Version(NodeRef(b"", bytes(32), 100, 1, 6), b"", NOW, "message").encode(),
    ),
    "locate": (
        lambda data: documents.parse_locate(data, bytes(32)),
        documents.encode_locate(bytes(32), []),
    ),
    "settings": (lambda data: documents.parse_settings(data, "here"), b'{"imgstore": 1}'),
    "manifest": (
        read_node,
        msgpack.packb([1, 0, [[b"", 2, 0o755, 0, 0, 0, 0, b"", 0, [], 0, b""]]]),
    ),
    "list node": (
        lambda data: chunklist.read_node(data, 0, chunk_digest(data)),
        msgpack.packb([1, 0, bytes(31) + b"\1" + b"\1" + bytes(7)]),
    ),
    "index": (lambda data: pack.parse_index(data, "here"), pack.encode_index([], b"")),
    "secret key": (lambda data: keyfile.parse_secret(data, "here"), keyfile.encode_secret(ROOT)),
    "public key": (
        lambda data: keyfile.parse_public(data.decode("latin-1"), "here"),
        keyfile.encode_public(ROOT.key).encode(),
    ),
    **{
        f"frame {name}": (
            lambda data, method=method: codec.decompress(method, data, 1000, "here"),
            bytes(100),
        )
        for name, method in (("raw", codec.RAW), ("lz4", codec.LZ4), ("zstd", codec.ZSTD))
    },
}


@st.composite
def twisted(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes with a few things done to them."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(changed)))
        match draw(st.integers(0, 4)):
            case 0 if place < len(changed):
                changed[place] ^= 1 << draw(st.integers(0, 7))
            case 1:
                changed[place : place + draw(st.integers(0, 40))] = b""
            case 2:
                changed[place:place] = draw(st.binary(max_size=40))
            case 3:
                end = place + draw(st.integers(0, 200))
                changed[place:place] = changed[place:end]
            case _:
                # Lengths of 2^16 and more that nothing follows.
                changed[place:place] = draw(st.sampled_from((b"\xdd", b"\xc6", b"\xdb", b"\xdf")))
                changed[place + 1 : place + 1] = b"\x7f\xff\xff\xff"
    return bytes(changed)


@pytest.mark.parametrize("name", PARSERS)
def test_anything_ends_in_a_declared_error(name: str) -> None:
    read, good = PARSERS[name]

    @settings(max_examples=120, suppress_health_check=list(HealthCheck))
    @given(st.one_of(twisted(good), st.binary(max_size=200), twisted(good[:12])))
    def check(data: bytes) -> None:
        tracemalloc.start()
        try:
            with suppress(ChunkstoreError):
                read(data)
            assert tracemalloc.get_traced_memory()[1] < LARGEST
        finally:
            tracemalloc.stop()

    check()


@pytest.mark.campaign
@pytest.mark.parametrize("name", PARSERS)
def test_anything_at_length(name: str) -> None:
    read, good = PARSERS[name]

    @settings(max_examples=20_000, suppress_health_check=list(HealthCheck))
    @given(st.one_of(twisted(good), st.binary(max_size=400), twisted(good[:12])))
    def check(data: bytes) -> None:
        with suppress(ChunkstoreError):
            read(data)

    check()


@pytest.mark.parametrize("name", ["ref", "root", "next root"])
def test_no_change_of_a_signed_document_goes_unseen(name: str) -> None:
    read, good = PARSERS[name]
    read(good)
    for bit in range(len(good) * 8):
        changed = bytearray(good)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ChunkstoreError):
            read(bytes(changed))


HEAD = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/10\r\nContent-Length: 10\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n"


def test_an_http_answer_of_anything() -> None:
    server = BadServer([])
    try:

        @settings(max_examples=150, suppress_health_check=list(HealthCheck))
        @given(st.one_of(twisted(HEAD + b"0123456789"), twisted(CHUNKED), st.binary(max_size=100)))
        def check(data: bytes) -> None:
            server.steps = [Step(data, "close")] * 9
            with closing(HttpReader(server.url, timeout=2, attempts=1)) as reader:
                with suppress(ChunkstoreError):
                    assert len(reader.get("versions/x", 0, 10)) <= 10
                with suppress(ChunkstoreError):
                    reader.size("versions/x")

        check()
    finally:
        server.close()


def test_a_journal_of_anything(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal"

    @settings(max_examples=100)
    @given(st.binary(max_size=300))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(ChunkstoreError):
            journal.read(str(path), b"token")

    check()


def test_a_state_of_anything(tmp_path_factory: pytest.TempPathFactory) -> None:
    from chunkstore.worktree.node import NodeState

    node = tmp_path_factory.mktemp("node")
    with NodeState(str(node)) as state:
        state.note_memory(GOOD_MEMORY)
    path = node / ".imgstore/state.sqlite"
    good = path.read_bytes()

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(twisted(good))
    def check(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(ChunkstoreError), NodeState(str(node)) as state:
            _ = state.memory

    check()
