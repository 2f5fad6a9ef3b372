"""Reading chunks: the right bytes or an error, in few requests and bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from support import trees
from support.forge import Forge

from chunkstore.errors import Corrupt, NotFound, TransferError
from chunkstore.objects import codec, pack
from chunkstore.objects.digest import chunk_digest
from chunkstore.storage import chunks as reading
from chunkstore.storage import layout
from chunkstore.storage.backends.memory import FailingBackend, MemoryBackend
from chunkstore.storage.catalog import Catalog, FramePlace, Place
from chunkstore.storage.chunks import ChunkReader
from chunkstore.storage.ranges import MAX_RANGE, plan_ranges
from chunkstore.storage.writer import ChunkWriter

A, B = b"a" * 32, b"b" * 32


def chunk(seed: object, size: int = 20_000) -> tuple[bytes, bytes]:
    data = trees.pseudo_random(seed, size)
    return chunk_digest(data), data


class Shop:
    """A store of chunks in memory, and what is asked of it."""

    def __init__(self, place: Path) -> None:
        self.backend = MemoryBackend()
        self.catalog = Catalog(None)
        self.place = place
        self.chunks: dict[bytes, bytes] = {}
        self.requests: list[tuple[str, int, int]] = []
        self.refreshes = 0
        self.can_refresh = False

    def fill(self, chunks: Iterable[tuple[bytes, bytes]], compression: str = "auto") -> None:
        with ChunkWriter(self.backend, self.catalog, str(self.place), compression) as writer:
            for digest, data in chunks:
                self.chunks[digest] = data
                writer.put(digest, data)
            writer.finish()

    # A reader and a locator

    def get(self, name: str, start: int, stop: int) -> bytes:
        self.requests.append((name, start, stop))
        return self.backend.get(name, start, stop)

    def size(self, name: str) -> int:
        return self.backend.size(name)

    def close(self) -> None: ...

    def places(self, digests: Iterable[bytes]) -> dict[bytes, Place]:
        wanted = list(digests)
        found = self.catalog.places(wanted)
        for digest in wanted:
            if digest not in found:
                raise NotFound(f"no {digest.hex()}", name=digest.hex())
        return found

    def refresh(self) -> bool:
        self.refreshes += 1
        return self.can_refresh

    def reader(self, **options: int) -> ChunkReader:
        return ChunkReader(self, self, **options)


@pytest.fixture
def shop(quick: Path) -> Iterator[Shop]:
    made = Shop(quick)
    threads = threading.active_count()
    yield made
    made.catalog.close()
    assert threading.active_count() == threads


def test_chunks_come_in_the_order_they_are_asked_for(shop: Shop) -> None:
    shop.fill(chunk(number) for number in range(500))
    wanted = [*shop.chunks, *reversed(shop.chunks), next(iter(shop.chunks))]
    with shop.reader() as reader:
        stream = reader.stream((digest, len(shop.chunks[digest])) for digest in wanted)
        for digest, data in zip(wanted, stream, strict=True):
            assert data == shop.chunks[digest]
        assert reader.read == len(wanted)
        assert reader.read_bytes == sum(len(shop.chunks[digest]) for digest in wanted)
        assert reader.get_many(wanted) == shop.chunks
        assert reader.get(wanted[7]) == shop.chunks[wanted[7]]
        assert reader.read == len(wanted), "nodes are not counted as content"
        assert list(reader.stream([])) == []
        assert reader.get_many([]) == {}


def test_a_whole_pack_in_few_requests(shop: Shop) -> None:
    shop.fill((chunk(number) for number in range(600)), "none")
    with shop.reader() as reader:
        for _ in reader.stream((digest, len(data)) for digest, data in shop.chunks.items()):
            pass
    read = sum(stop - start for _, start, stop in shop.requests)
    assert read == sum(map(len, shop.chunks.values())), "nothing twice, no gaps"
    assert len(shop.requests) <= read / MAX_RANGE + 4
    assert all(stop - start <= MAX_RANGE for _, start, stop in shop.requests)


def frame(offset: int, stored: int, of: bytes = A) -> FramePlace:
    return FramePlace(of, offset, stored, stored, 0)


def test_neighbours_become_ranges() -> None:
    frames = [frame(16, 100), frame(116, 100), frame(400, 50), frame(10_000, 50), frame(16, 9, B)]
    ranges = plan_ranges(reversed(frames), max_gap=300, max_range=10_000)
    assert sorted((each.pack, each.start, each.stop, len(each.frames)) for each in ranges) == [
        *((A, 16, 450, 3), (A, 10_000, 10_050, 1), (B, 16, 25, 1)),
    ]
    assert [each.stop - each.start for each in plan_ranges(frames, max_gap=0, max_range=200)] == [
        *(200, 50, 50, 9),
    ]
    assert plan_ranges([]) == []


def test_a_frame_longer_than_a_range_is_read_whole() -> None:
    (only,) = plan_ranges([frame(16, 5_000_000)])
    assert (only.start, only.stop) == (16, 5_000_016)


# What was reused


class Kept:
    """Chunks that are at hand, all but those that turn out to be missing."""

    def __init__(self, chunks: dict[bytes, bytes], *, lost: Iterable[bytes] = ()) -> None:
        self.chunks = chunks
        self.lost = set(lost)
        self.asked: list[bytes] = []

    def has(self, digest: bytes) -> bool:
        self.asked.append(digest)
        return digest in self.chunks

    def load(self, digest: bytes, length: int) -> bytes | None:
        assert len(self.chunks[digest]) == length
        return None if digest in self.lost else self.chunks[digest]


def test_what_is_at_hand_is_not_read(shop: Shop) -> None:
    shop.fill(chunk(number) for number in range(40))
    kept = Kept(dict(list(shop.chunks.items())[::2]))
    wanted = [(digest, len(data)) for digest, data in shop.chunks.items()]
    with shop.reader() as reader:
        assert [bytes(data) for data in reader.stream(wanted, kept)] == [*shop.chunks.values()]
        assert reader.read == 20
    assert kept.asked == [digest for digest, _ in wanted], "asked once, in order"


def test_what_is_not_at_hand_after_all_is_read(shop: Shop) -> None:
    shop.fill(chunk(number) for number in range(40))
    kept = Kept(shop.chunks, lost=list(shop.chunks)[::3])
    wanted = [(digest, len(data)) for digest, data in shop.chunks.items()] * 2
    with shop.reader() as reader:
        assert [bytes(data) for data in reader.stream(wanted, kept)] == [*shop.chunks.values()] * 2


# Wrong bytes


def test_another_chunk_in_its_place_is_refused(shop: Shop) -> None:
    """What a catalog says is a hint: the digest decides."""
    shop.fill(chunk(number) for number in range(3))
    one, other, _ = shop.chunks
    real = shop.catalog.places

    def lie(digests: Iterable[bytes]) -> dict[bytes, Place]:
        found = real([one, other])
        return {digest: found[other if digest == one else one] for digest in digests}

    shop.places = lie  # type: ignore[method-assign]
    with shop.reader() as reader:
        for digest in (one, other):
            with pytest.raises(Corrupt, match=digest.hex()):
                reader.get(digest)
            with pytest.raises(Corrupt, match=digest.hex()):
                list(reader.stream([(digest, len(shop.chunks[digest]))]))


def test_a_chunk_of_another_length_is_refused(shop: Shop) -> None:
    shop.fill([chunk("one", 5000)])
    (digest,) = shop.chunks
    with shop.reader() as reader, pytest.raises(Corrupt, match="5000 bytes, not 4999"):
        list(reader.stream([(digest, 4999)]))


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd:3"])
def test_a_flipped_bit_anywhere_in_a_frame(shop: Shop, compression: str) -> None:
    texts = [b"%d some text " % number * 30 for number in range(6)]
    shop.fill([(chunk_digest(data), data) for data in texts], compression)
    (pack_id,) = shop.catalog.packs
    name = layout.pack(pack_id)
    good = shop.backend.get(name, 0, 1 << 30)
    index = pack.parse_index(shop.backend.get(layout.index(pack_id), 0, 1 << 30), name)
    (only,) = index.frames
    refused = 0
    for position in range(only.offset, only.offset + only.stored):
        damaged = bytearray(good)
        damaged[position] ^= 0x10
        shop.backend.put(name, bytes(damaged))
        with shop.reader() as reader:
            try:
                assert reader.get_many(shop.chunks) == shop.chunks
            except Corrupt:
                refused += 1
    # A bit of a compressed frame may mean nothing; then the bytes are right.
    assert refused >= only.stored * (1.0 if compression == "none" else 0.95)


def test_a_pack_that_is_too_short(shop: Shop) -> None:
    shop.fill(chunk(number) for number in range(10))
    (pack_id,) = shop.catalog.packs
    name = layout.pack(pack_id)
    shop.backend.put(name, shop.backend.get(name, 0, 100))
    with shop.reader() as reader, pytest.raises(Corrupt, match="ends before"):
        reader.get_many(shop.chunks)


def test_a_frame_that_unpacks_to_more_than_it_may(shop: Shop) -> None:
    forge = Forge()
    data = bytes(codec.MAX_FRAME)
    pack_id, _ = forge.put_pack([(chunk_digest(data), data)])
    name = layout.pack(pack_id)
    index = pack.parse_index(_own_index(forge.backend, name), name)
    (honest,) = index.frames
    shop.backend = forge.backend
    short = [honest._replace(raw=5000)]
    shop.catalog.learn(pack_id, pack.Index(short, pack.CHUNK.pack(chunk_digest(data), 5000)))
    with shop.reader() as reader, pytest.raises(Corrupt):
        reader.get(chunk_digest(data))


def _own_index(backend: MemoryBackend, name: str) -> bytes:
    size = backend.size(name)
    footer = backend.get(name, size - pack.FOOTER.size, size)
    return backend.get(name, *pack.index_extent(footer, size, name))


# Places that have changed


def test_stale_places_are_found_again_once_for_all(shop: Shop) -> None:
    """The packs were repacked after the catalog heard of them: every window is out of date."""
    shop.fill((chunk(number, 60_000) for number in range(700)), "none")
    stale = shop.catalog
    old = list(stale.packs)
    fresh = Catalog(None)
    with ChunkWriter(shop.backend, fresh, str(shop.place), "auto") as writer:
        for digest, data in reversed(shop.chunks.items()):
            writer.put(digest, data)
        writer.finish()
    for pack_id in old:
        shop.backend.delete(layout.pack(pack_id))

    class Locator:
        refreshes = 0

        def places(self, digests: Iterable[bytes]) -> dict[bytes, Place]:
            return (fresh if self.refreshes else stale).places(digests)

        def refresh(self) -> bool:
            self.refreshes += 1
            return self.refreshes == 1

    locator = Locator()
    with ChunkReader(shop.backend, locator) as reader:
        wanted = [(digest, len(data)) for digest, data in shop.chunks.items()]
        for (digest, _), data in zip(wanted, reader.stream(wanted), strict=True):
            assert data == shop.chunks[digest]
    assert locator.refreshes == 1
    fresh.close()


def test_what_can_not_be_found_again_is_told(shop: Shop) -> None:
    shop.fill(chunk(number) for number in range(3))
    for pack_id in shop.catalog.packs:
        shop.backend.delete(layout.pack(pack_id))
    with shop.reader() as reader, pytest.raises(NotFound):
        reader.get_many(shop.chunks)
    assert shop.refreshes == 1
    with shop.reader() as reader, pytest.raises(NotFound):
        reader.get(bytes(32))


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_remote_that_fails(shop: Shop, after: int) -> None:
    shop.fill((chunk(number, 100_000) for number in range(200)), "none")
    wanted = [(digest, len(data)) for digest, data in shop.chunks.items()]
    with (
        ChunkReader(FailingBackend(shop.backend, after=after), shop) as reader,
        pytest.raises(TransferError),
    ):
        list(reader.stream(wanted))


# Memory


def test_small_chunks_scattered_over_large_frames_do_not_fill_memory(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "RECENT", 4 << 20)
    wanted = []
    for number in range(4):
        frames, records, body = [], [], bytearray(pack.encode_header())
        for place in range(60):
            small = b"%d %d" % (number, place)
            large = small + bytes(1_000_000)
            method, stored = codec.compress(small + large, "zstd:1")
            frames.append(pack.Frame(len(body), len(stored), len(small + large), 2, method))
            body += stored
            records += [pack.CHUNK.pack(chunk_digest(data), len(data)) for data in (small, large)]
            wanted.append((chunk_digest(small), len(small)))
        index = pack.encode_index(frames, b"".join(records))
        pack_id = bytes([number]) * 32
        shop.backend.put(layout.pack(pack_id), bytes(body) + index + pack.encode_footer(index))
        shop.catalog.learn(pack_id, pack.parse_index(index, "index"))
    held = [0, 0]
    lock = threading.Lock()
    real = reading._Loaded

    class Counted(real):  # type: ignore[misc,valid-type]
        __slots__ = ("__weakref__",)

        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            with lock:
                held[0] += 1
                held[1] = max(held)

        def __del__(self) -> None:
            with lock:
                held[0] -= 1

    monkeypatch.setattr(reading, "_Loaded", Counted)
    with shop.reader() as reader:
        assert len(list(map(bytes, reader.stream(wanted)))) == 240
    assert held[1] < 130, "two windows, not 240 frames"


def test_endless_tiny_chunks_do_not_fill_memory(shop: Shop) -> None:
    """A hostile chunk list: a file of a terabyte in chunks of one byte."""
    shop.fill([(chunk_digest(b"x"), b"x")])
    taken = [0]

    def endless() -> Iterator[tuple[bytes, int]]:
        while True:
            taken[0] += 1
            yield chunk_digest(b"x"), 1

    with shop.reader() as reader:
        stream = reader.stream(endless())
        assert next(stream) == b"x"
        assert taken[0] < 40_000


def test_looking_ahead_is_bounded(shop: Shop) -> None:
    shop.fill((chunk(number, 500_000) for number in range(200)), "none")
    taken = [0]

    def count() -> Iterator[tuple[bytes, int]]:
        for digest, data in shop.chunks.items():
            taken[0] += len(data)
            yield digest, len(data)

    with shop.reader() as reader:
        given = 0
        for data in reader.stream(count()):
            given += len(data)
            assert taken[0] - given < 3 * reading.WINDOW


def test_steps_are_smaller_than_windows() -> None:
    bounds = [reading._STEP * reading._LEAST, reading.WINDOW, reading.RECENT]
    assert all(small < large for small, large in pairwise(bounds))
