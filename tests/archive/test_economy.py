"""What an export reads: the difference, not the image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import stores

from chunkstore.export import DELETIONS, export
from chunkstore.objects import manifest
from chunkstore.objects.digest import chunk_digest
from chunkstore.objects.documents import Version
from chunkstore.objects.entry import DIRECTORY, FIFO, Entry
from chunkstore.storage.chunks import ChunkReader
from chunkstore.storage.store import Store

FOLDERS = 200


def entries(files: int, *, changed: bool) -> Iterator[Entry]:
    yield Entry(b"", DIRECTORY, 0o755, 0, 0, 0)
    for folder in range(FOLDERS):
        yield Entry(b"%04d" % folder, DIRECTORY, 0o755, 0, 0, 0)
        for file in range(files):
            path = b"%04d/%08d" % (folder, file)
            is_meant = changed and folder == FOLDERS // 2 and file == files // 2
            yield Entry(path, FIFO, 0o600 if is_meant else 0o644, 0, 0, 0)


def versions(store: Store, files: int) -> tuple[Version, Version, int]:
    """Two versions that differ in one path, and the number of nodes that hold the second."""
    nodes: set[bytes] = set()
    with store.locked("a test"), store.writer() as writer:

        def save(data: bytes) -> bytes:
            digest = chunk_digest(data)
            nodes.add(digest)
            writer.put_node(digest, data)
            return digest

        old = Version(manifest.build(entries(files, changed=False), save), b"", 0, "")
        nodes.clear()
        new = Version(manifest.build(entries(files, changed=True), save), b"", 0, "")
        writer.finish()
    return old, new, len(nodes)


@pytest.mark.parametrize("deletions", DELETIONS)
def test_a_small_difference_of_a_large_image_costs_little(
    place: Path, monkeypatch: pytest.MonkeyPatch, deletions: str
) -> None:
    store = stores.make_store(place / "store")
    old, new, there = versions(store, 200)
    assert new.root.entries > 40_000
    read: set[bytes] = set()
    real = ChunkReader.get

    def counted(self: ChunkReader, digest: bytes) -> bytes:
        read.add(digest)
        return real(self, digest)

    monkeypatch.setattr(ChunkReader, "get", counted)
    report = export(store, new, str(place / "diff.tar.gz"), base=old, deletions=deletions)

    assert report.members >= 3
    # The way down in both trees, and the leaves where the directories on the way are.
    assert len(read) <= 12
    assert there > 100
