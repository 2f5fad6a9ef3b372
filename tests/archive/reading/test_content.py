"""Content that comes in pieces becomes the chunks of a file that is read from disk."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import stores
from support.tarballs import END, file, folder

from chunkstore.archive.reading import content
from chunkstore.importing import import_archives
from chunkstore.objects import chunker
from chunkstore.objects.chunklist import RECORD
from chunkstore.objects.digest import HOLE, chunk_digest

SMALL = chunker.Parameters(1024, 4096, 16384)


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.chunks: dict[bytes, bytes] = {}

    def store(self, chunks: list[tuple[bytes, bytes | memoryview]]) -> None:
        self.chunks.update((digest, bytes(data)) for digest, data in chunks)

    def store_node(self, data: bytes) -> bytes:
        self.chunks[chunk_digest(data)] = data
        return chunk_digest(data)


def pieces(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        if at < len(data):
            yield data[at : at + size]
        at += size
    if at < len(data):
        yield data[at:]


@given(st.integers(0, 400_000), st.lists(st.integers(1, 60_000)), st.randoms(use_true_random=False))
def test_where_pieces_end_makes_no_difference(
    size: int, sizes: list[int], source: random.Random
) -> None:
    data = source.randbytes(size)
    whole, cut = Kept(), Kept()
    wanted = content.store([(0, size, iter([data]))] if size else [], size, SMALL, whole)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(content, "BLOCK", 50_000)
        runs = [(0, size, pieces(data, sizes))] if size else []
        found = content.store(runs, size, SMALL, cut)
    assert found == wanted
    assert cut.chunks == whole.chunks


def test_holes() -> None:
    kept = Kept()
    runs = [(512, 4, iter([b"da", b"ta"])), (8192, 1, iter([b"x"]))]
    blob, depth = content.store(runs, 10_000, SMALL, kept)
    records = [(digest, length) for digest, length in RECORD.iter_unpack(blob)]
    assert depth == 0
    assert records == [
        (HOLE, 512),
        (chunk_digest(b"data"), 4),
        (HOLE, 8192 - 516),
        (chunk_digest(b"x"), 1),
        (HOLE, 10_000 - 8193),
    ]


def test_large_files_are_what_a_commit_makes_of_them(place: Path) -> None:
    store = stores.make_store(place / "store", chunker=None)
    tree = place / "tree"
    tree.mkdir(mode=0o755)
    source = random.Random(7)
    sizes = [0, 1, 16_384, 16_385, 4 << 20, (4 << 20) + 1, 9_000_001, 30_000_000]
    members = []
    for size in sizes:
        data = source.randbytes(size)
        (tree / f"{size}").write_bytes(data)
        members.append(file(f"{size}".encode(), data))
    committed = stores.record(store, tree).version.version
    archive = place / "image.tar"
    archive.write_bytes(folder() + b"".join(members) + END)
    [report] = import_archives(store, "tar", [str(archive)], now=time.time_ns())
    ours = {item.path: item for item in stores.entries_of(store, report.version.version.root)}
    for item in stores.entries_of(store, committed.root):
        assert (item.content, item.depth) == (ours[item.path].content, ours[item.path].depth)
