"""Writing chunks: what is stored, in which order, and what is left when it fails."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from support import trees

from chunkstore.errors import LocalError, TransferError
from chunkstore.objects import codec, pack
from chunkstore.objects.digest import chunk_digest, pack_hasher
from chunkstore.storage import layout
from chunkstore.storage import writer as writing
from chunkstore.storage.backends.memory import FailingBackend, MemoryBackend
from chunkstore.storage.catalog import Catalog
from chunkstore.storage.writer import ChunkWriter, Written


def write(writer: ChunkWriter, chunks: Iterable[tuple[bytes, bytes]]) -> Written:
    with writer:
        for digest, data in chunks:
            writer.put(digest, data)
        return writer.finish()


def chunk(seed: object, size: int = 20_000) -> tuple[bytes, bytes]:
    data = trees.pseudo_random(seed, size)
    return chunk_digest(data), data


class Workshop:
    """A backend, a catalog and a spool to write with."""

    def __init__(self, place: Path) -> None:
        self.backend = MemoryBackend()
        self.catalog = Catalog(None)
        self.spool = place / "spool"
        self.spool.mkdir()

    def writer(self, backend: object = None, compression: str = "auto") -> ChunkWriter:
        return ChunkWriter(backend or self.backend, self.catalog, str(self.spool), compression)  # type: ignore[arg-type]

    def packs(self) -> list[bytes]:
        return [
            bytes.fromhex(name[6:70])
            for name in self.backend.list("packs/")
            if name.endswith(".pack")
        ]

    def index(self, pack_id: bytes) -> pack.Index:
        name = layout.index(pack_id)
        return pack.parse_index(self.backend.get(name, 0, 1 << 30), name)


@pytest.fixture
def workshop(quick: Path) -> Iterator[Workshop]:
    made = Workshop(quick)
    threads = threading.active_count()
    yield made
    made.catalog.close()
    assert threading.active_count() == threads


def read_all(workshop: Workshop) -> dict[bytes, bytes]:
    """All chunks of all packs, by the index in the pack alone."""
    found = {}
    for pack_id in workshop.packs():
        name = layout.pack(pack_id)
        data = workshop.backend.get(name, 0, 1 << 30)
        hasher = pack_hasher()
        hasher.update(data)
        assert hasher.digest() == pack_id, "a pack is named by its bytes"
        start, stop = pack.index_extent(data[-pack.FOOTER.size :], len(data), name)
        assert data[start:stop] == workshop.backend.get(layout.index(pack_id), 0, 1 << 30)
        index = pack.parse_index(data[start:stop], name)
        for digest, number, offset, length in index.places():
            frame = index.frames[number]
            stored = data[frame.offset : frame.offset + frame.stored]
            raw = codec.decompress(frame.codec, stored, frame.raw, name)
            found[digest] = raw[offset : offset + length]
    return found


@pytest.mark.parametrize("compression", ["auto", "lz4", "zstd:9", "none"])
def test_what_is_put_can_be_read(workshop: Workshop, compression: str) -> None:
    chunks = dict(chunk(number) for number in range(100))
    chunks |= {chunk_digest(data): data for data in (b"text " * 1000, b"x", bytes(16384))}
    nodes = {chunk_digest(data): data for data in (b"node one", b"node two")}
    with workshop.writer(compression=compression) as writer:
        for digest, data in chunks.items():
            writer.put(digest, memoryview(data))
        for digest, data in nodes.items():
            writer.put_node(digest, data)
        written = writer.finish()
    assert read_all(workshop) == chunks | nodes
    assert written.chunks == len(chunks) + len(nodes)
    assert written.raw == sum(map(len, [*chunks.values(), *nodes.values()]))
    assert [new.id for new in written.packs] == workshop.packs()
    for new in written.packs:
        assert new.pack_size == workshop.backend.size(layout.pack(new.id))
        assert new.index_size == workshop.backend.size(layout.index(new.id))
    indexes = [workshop.index(new.id) for new in written.packs]
    assert written.stored == sum(frame.stored for index in indexes for frame in index.frames)
    assert workshop.catalog.packs_of(chunks).keys() == chunks.keys()
    assert os.listdir(workshop.spool) == []


def test_nothing_put_is_nothing_written(workshop: Workshop) -> None:
    with workshop.writer() as writer:
        assert writer.finish() == Written([], 0, 0, 0)
    assert workshop.packs() == []


def test_what_is_known_is_told(workshop: Workshop) -> None:
    old, new = chunk("old"), chunk("new")
    with workshop.writer() as writer:
        writer.put(*old)
        writer.finish()
    with workshop.writer() as writer:
        assert writer.unknown([old[0], new[0]]) == {new[0]}
        assert writer.reused == set(workshop.packs())
        writer.put(*new)
        assert writer.unknown([old[0], new[0]]) == set()
        writer.put_node(*old)
        writer.put_node(*new)
        written = writer.finish()
    assert written.chunks == 1


def test_content_keeps_its_order_and_nodes_come_behind_it(workshop: Workshop) -> None:
    """So that a node one version behind reads one run of each."""
    content = [chunk(("content", number)) for number in range(150)]
    nodes = [chunk(("node", number), 500) for number in range(20)]
    with workshop.writer() as writer:
        for number, item in enumerate(content):
            writer.put(*item)
            if number < len(nodes):
                writer.put_node(*nodes[number])
        (new,) = writer.finish().packs
    order = [digest for digest, *_ in workshop.index(new.id).places()]
    assert order == [digest for digest, _ in content + nodes]


def test_frames_hold_up_to_a_megabyte(workshop: Workshop) -> None:
    with workshop.writer() as writer:
        for number in range(300):
            writer.put(*chunk(number, 30_000))
        (new,) = writer.finish().packs
    sizes = [frame.raw for frame in workshop.index(new.id).frames]
    assert max(sizes) <= codec.MAX_FRAME
    assert min(sizes[:-1]) > codec.MAX_FRAME - 30_000


def test_frames_of_tiny_chunks_hold_only_so_many(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_FRAME_CHUNKS", 100)
    with workshop.writer() as writer:
        for number in range(250):
            writer.put(*chunk(number, 20))
        (new,) = writer.finish().packs
    assert [frame.chunks for frame in workshop.index(new.id).frames] == [100, 100, 50]


def test_the_largest_chunk_has_a_frame_of_its_own(workshop: Workshop) -> None:
    largest = chunk("largest", codec.MAX_FRAME)
    with workshop.writer() as writer:
        writer.put(*chunk("before"))
        writer.put(*largest)
        writer.put(*chunk("after"))
        writer.finish()
    assert read_all(workshop)[largest[0]] == largest[1]


def test_long_output_is_cut_into_packs(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "TARGET_BYTES", 300_000)
    monkeypatch.setattr(codec, "MAX_FRAME", 100_000)
    chunks = dict(chunk(number) for number in range(60))
    with workshop.writer() as writer:
        for item in chunks.items():
            writer.put(*item)
        written = writer.finish()
    assert len(written.packs) == 4
    assert all(new.pack_size < 420_000 for new in written.packs)
    assert read_all(workshop) == chunks


def test_many_nodes_do_not_wait_in_memory(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_MAX_TREE_BYTES", 100_000)
    monkeypatch.setattr(codec, "MAX_FRAME", 20_000)
    nodes = dict(chunk(("node", number), 5000) for number in range(100))
    content = dict(chunk(("content", number), 5000) for number in range(100))
    with workshop.writer() as writer:
        for one, other in zip(nodes.items(), content.items(), strict=True):
            writer.put(*other)
            writer.put_node(*one)
        written = writer.finish()
    assert len(written.packs) > 2
    assert read_all(workshop) == nodes | content
    kinds = [
        {digest in nodes for digest, *_ in workshop.index(new.id).places()}
        for new in written.packs[:-1]
    ]
    assert all(kind == {True} for kind in kinds), "full packs of nodes hold no content"


def test_names_of_new_chunks_do_not_pile_up_in_memory(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_MOST_NEW", 40)
    monkeypatch.setattr(pack, "TARGET_BYTES", 100_000)
    monkeypatch.setattr(codec, "MAX_FRAME", 20_000)
    chunks = dict(chunk(number, 5000) for number in range(400))
    most = 0
    with workshop.writer() as writer:
        for _ in range(2):
            for item in chunks.items():
                writer.store([item])
                most = max(most, len(writer._new))
        written = writer.finish()
    assert written.chunks == len(chunks)
    assert most < 160
    assert read_all(workshop) == chunks
    assert sum(len(list(workshop.index(new.id).places())) for new in written.packs) == len(chunks)


def test_the_same_chunks_give_the_same_packs(quick: Path) -> None:
    names = []
    for number in range(2):
        place = quick / f"{number}"
        place.mkdir()
        workshop = Workshop(place)
        with workshop.writer() as writer:
            for item in (chunk(number) for number in range(200)):
                writer.put(*item)
            writer.finish()
        names.append(workshop.packs())
        workshop.catalog.close()
    assert names[0] == names[1]


# Trouble


def test_leaving_early_leaves_nothing(workshop: Workshop) -> None:
    with workshop.writer() as writer:
        for number in range(1000):
            writer.put(*chunk(number))
        assert os.listdir(workshop.spool)
    assert os.listdir(workshop.spool) == []
    assert workshop.packs() == []
    assert workshop.catalog.packs == frozenset()


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_backend_that_fails(
    workshop: Workshop, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "TARGET_BYTES", 300_000)
    monkeypatch.setattr(codec, "MAX_FRAME", 100_000)
    chunks = dict(chunk(number) for number in range(60))
    descriptors = trees.open_descriptors()
    failing = FailingBackend(workshop.backend, after=after)
    with pytest.raises(TransferError):
        write(workshop.writer(failing), chunks.items())
    assert trees.open_descriptors() == descriptors, "nothing stays open"
    assert workshop.catalog.packs == frozenset()
    # What did get through is whole, and of no harm.
    for pack_id in workshop.packs():
        assert workshop.backend.get(layout.pack(pack_id), 0, 4)
    with workshop.writer() as writer:
        for item in chunks.items():
            writer.put(*item)
        writer.finish()
    assert read_all(workshop) == chunks


def test_a_spool_without_room(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    from chunkstore import fsio

    written = [0]
    real = fsio.write_all

    def limited(descriptor: int, data: bytes | memoryview) -> None:
        written[0] += len(data)
        if written[0] > 2_500_000:
            raise OSError(28, "No space left on device")
        real(descriptor, data)

    monkeypatch.setattr(fsio, "write_all", limited)
    descriptors = trees.open_descriptors()
    with pytest.raises(LocalError, match="No space left"):
        write(workshop.writer(), map(chunk, range(400)))
    assert os.listdir(workshop.spool) == []
    assert trees.open_descriptors() == descriptors


def test_no_room_when_a_pack_is_sealed(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index comes last and finds the disk full: on the sealing thread."""
    from chunkstore import fsio

    real = fsio.write_all

    def limited(descriptor: int, data: bytes | memoryview) -> None:
        if bytes(data[:8]) == pack.INDEX_MAGIC:
            raise OSError(28, "No space left on device")
        real(descriptor, data)

    monkeypatch.setattr(fsio, "write_all", limited)
    descriptors = trees.open_descriptors()
    with pytest.raises(LocalError, match="No space left"):
        write(workshop.writer(), [chunk("one")])
    assert os.listdir(workshop.spool) == []
    assert trees.open_descriptors() == descriptors


def test_no_spool(workshop: Workshop) -> None:
    workshop.spool.rmdir()
    with pytest.raises(LocalError, match="can't write a pack"):
        write(workshop.writer(), [chunk("one")])
