"""Chunk lists: what is written is walked; the shape follows the records alone; lies are seen."""

from __future__ import annotations

import random
import tracemalloc
from contextlib import ExitStack
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore.errors import Corrupt, Unsupported
from chunkstore.objects import chunklist
from chunkstore.objects.chunklist import MAX_INLINE, MAX_NODE, MIN_NODE, RECORD, ListWriter
from chunkstore.objects.codec import MAX_FRAME
from chunkstore.objects.digest import HOLE, chunk_digest
from chunkstore.objects.entry import DIRECTORY, FILE, SYMLINK, Entry
from chunkstore.objects.record import encode


class Nodes(dict):
    """List nodes by digest; notes what is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: set[bytes] = set()

    def save(self, data: bytes) -> bytes:
        digest = chunk_digest(data)
        self[digest] = data
        return digest

    def load(self, digest: bytes) -> bytes:
        self.loaded.add(digest)
        return self[digest]


def file_of(records, nodes: Nodes) -> Entry:
    writer = ListWriter(nodes.save)
    for digest, length in records:
        writer.add(digest, length)
    content, depth = writer.finish()
    size = sum(length for _, length in records)
    return Entry(b"f", FILE, 0o644, 0, 0, 0, size, content, depth)


def records_of(count: int, seed: int = 0) -> list[tuple[bytes, int]]:
    """Chunks, every twentieth or so a hole, some of them the same."""
    source = random.Random(seed)
    repeated = source.randbytes(32)
    found = []
    for _ in range(count):
        kind = source.random()
        if kind < 0.05:
            found.append((HOLE, source.randrange(1, 1 << 40)))
        elif kind < 0.1:
            found.append((repeated, 4096))
        else:
            found.append((source.randbytes(32), source.randrange(1, MAX_FRAME + 1)))
    return found


def small_nodes() -> ExitStack:
    """Lists that grow deep with few records."""
    stack = ExitStack()
    for name, value in {"MIN_NODE": 3, "MAX_NODE": 12, "MAX_INLINE": 4, "CUT_MASK": 3}.items():
        stack.enter_context(patch.object(chunklist, name, value))
    return stack


records_strategy = st.lists(
    st.tuples(
        st.one_of(st.just(HOLE), st.binary(min_size=32, max_size=32), st.just(b"\xff" * 32)),
        st.integers(1, MAX_FRAME),
    ),
    max_size=120,
)


@given(records_strategy)
def test_round_trip_of_deep_lists(records):
    nodes = Nodes()
    with small_nodes():
        item = file_of(records, nodes)
        assert list(chunklist.walk(item, nodes.load)) == records


@given(records_strategy, st.integers(0, 119), st.binary(min_size=32, max_size=32))
def test_the_shape_follows_the_records_alone(records, place, digest):
    """No matter what was written before: the nodes are those of cutting the whole list at once."""
    with small_nodes():
        one, other = Nodes(), Nodes()
        item = file_of(records, one)
        assert (item.content, item.depth) == cut_at_once(records, other)
        assert one == other
        # Changing a record and changing it back is no change.
        if records:
            changed = list(records)
            changed[place % len(records)] = (digest, 1)
            file_of(changed, Nodes())
            assert file_of(records, Nodes()) == item


def cut_at_once(records, nodes: Nodes) -> tuple[bytes, int]:
    """The chunk list as `docs/format.md` words it: level by level, each cut as a whole."""
    level = [RECORD.pack(*item) for item in records]
    depth = 0
    while len(level) > chunklist.MAX_INLINE:
        above = []
        node = []
        for number, item in enumerate(level):
            node.append(item)
            is_cut = len(node) >= chunklist.MIN_NODE and item[31] & chunklist.CUT_MASK == 0
            if is_cut or len(node) == chunklist.MAX_NODE or number == len(level) - 1:
                blob = b"".join(node)
                digest = nodes.save(encode((1, depth, blob)))
                above.append(RECORD.pack(digest, sum(n for _, n in RECORD.iter_unpack(blob))))
                node = []
        level = above
        depth += 1
    return b"".join(level), depth


@pytest.mark.parametrize("count", [0, 1, MAX_INLINE, MAX_INLINE + 1, 640, 641, 5_000, 60_000])
def test_round_trip_of_real_lists(count):
    nodes = Nodes()
    records = records_of(count)
    item = file_of(records, nodes)
    assert list(chunklist.walk(item, nodes.load)) == records
    assert item.depth == (0 if count <= MAX_INLINE else 1 if count <= 5_000 else 2)
    assert (item.content, item.depth) == cut_at_once(records, Nodes())
    assert len(item.content) <= MAX_INLINE * 40
    sizes = [len(data) for data in nodes.values()]
    assert all(size <= MAX_NODE * 40 + 8 for size in sizes)
    if item.depth == 2:
        assert MIN_NODE < sum(sizes) / len(sizes) / 40 < 200


def test_a_list_that_fits_its_entry_leaves_no_node():
    nodes = Nodes()
    item = file_of(records_of(MAX_INLINE), nodes)
    assert not nodes
    assert chunklist.inline_digests(item.content)
    assert set(chunklist.inline_digests(item.content)) == {
        digest for digest, _ in records_of(MAX_INLINE) if digest != HOLE
    }


def test_a_change_touches_one_node_per_level_or_so():
    nodes = Nodes()
    records = records_of(60_000)
    item = file_of(records, nodes)
    before = set(nodes)
    for place in (0, 1, 20_000, 43_210, 59_999):
        changed = list(records)
        changed[place] = (bytes([7]) * 32, 1000)
        # Two more, for a cut point that came or went.
        file_of(changed, nodes)
        assert len(set(nodes) - before) <= item.depth + 2
        before |= set(nodes)
    inserted = [*records[:30_000], (b"\5" * 32, 1), *records[30_000:]]
    file_of(inserted, nodes)
    assert len(set(nodes) - before) <= item.depth + 2


def test_memory_of_a_writer_does_not_grow_with_the_file():
    def peak(count: int) -> int:
        tracemalloc.start()
        writer = ListWriter(chunk_digest)
        for number in range(count):
            writer.add(chunk_digest(b"%d" % number), 1)
        writer.finish()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(30_000) < 1.5 * peak(3_000)


def test_a_list_deeper_than_allowed_is_refused():
    with small_nodes(), pytest.raises(Corrupt, match="more chunks"):
        file_of([(b"\xff" * 32, 1)] * (4 * 12**5), Nodes())


@given(records_strategy)
def test_the_nodes_of_a_list_are_named_without_reading_the_lowest(records):
    nodes = Nodes()
    with small_nodes():
        item = file_of(records, nodes)
    assert set(chunklist.nodes(item, nodes.load)) == set(nodes)
    # The level is the third byte: array of three, format, level.
    assert nodes.loaded == {digest for digest, data in nodes.items() if data[2] > 0}


@pytest.mark.parametrize("kind", [DIRECTORY, SYMLINK])
def test_what_is_not_a_file_has_no_chunks(kind):
    content = b"x" * 40 if kind == SYMLINK else b""
    item = Entry(b"s", kind, 0o777, 0, 0, 0, content=content)
    assert list(chunklist.walk(item, Nodes().load)) == []


def chunk(number: int, length: int = 10) -> bytes:
    return RECORD.pack(bytes([number]) * 32, length)


def walked(item: Entry, nodes: Nodes) -> str:
    """The message of the refusal."""
    with pytest.raises(Corrupt) as caught:
        list(chunklist.walk(item, nodes.load))
    return str(caught.value)


def entry(content: bytes, size: int, depth: int = 0) -> Entry:
    return Entry(b"f", FILE, 0o644, 0, 0, 0, size, content, depth)


@pytest.mark.parametrize("size", [0, 19, 21, 2**62])
def test_chunks_that_do_not_add_up(size):
    assert "add up" in walked(entry(chunk(1) + chunk(2), size), Nodes())


def test_a_file_of_some_size_without_chunks():
    assert "add up" in walked(entry(b"", 5), Nodes())


def test_a_chunk_of_no_length():
    assert "no length" in walked(entry(chunk(1, 0), 0), Nodes())
    assert "no length" in walked(entry(RECORD.pack(HOLE, 0), 0), Nodes())


@pytest.mark.parametrize("length", [MAX_FRAME + 1, 2**63 - 1])
def test_a_chunk_longer_than_any(length):
    assert "chunk of" in walked(entry(chunk(1, length), length), Nodes())


def test_a_hole_may_be_long():
    item = entry(RECORD.pack(HOLE, 2**63 - 1), 2**63 - 1)
    assert list(chunklist.walk(item, Nodes().load)) == [(HOLE, 2**63 - 1)]


@pytest.mark.parametrize("claimed", [1, 19, 21, 2**62])
def test_a_list_node_that_covers_something_else(claimed):
    nodes = Nodes()
    digest = nodes.save(encode((1, 0, chunk(1) + chunk(2))))
    assert "covers" in walked(entry(RECORD.pack(digest, claimed), claimed, 1), nodes)


def test_a_list_node_deeper_down_that_covers_something_else():
    nodes = Nodes()
    below = nodes.save(encode((1, 0, chunk(1) + chunk(2))))
    above = nodes.save(encode((1, 1, RECORD.pack(below, 19) + chunk(3, 1))))
    assert "covers" in walked(entry(RECORD.pack(above, 20), 20, 2), nodes)


@pytest.mark.parametrize(("depth", "level"), [(1, 1), (2, 0), (2, 2), (4, 0)])
def test_a_list_node_of_another_level(depth, level):
    nodes = Nodes()
    digest = nodes.save(encode((1, level, chunk(1))))
    assert "level" in walked(entry(RECORD.pack(digest, 10), 10, depth), nodes)


def test_a_hole_where_a_list_node_must_be():
    assert "hole" in walked(entry(RECORD.pack(HOLE, 10), 10, 1), Nodes())


def test_a_list_node_of_another_format():
    nodes = Nodes()
    digest = nodes.save(encode((2, 0, chunk(1))))
    with pytest.raises(Unsupported):
        list(chunklist.walk(entry(RECORD.pack(digest, 10), 10, 1), nodes.load))


def test_a_small_list_that_unfolds_to_a_huge_one_takes_no_memory():
    """512 times the same node, four levels deep: walked one record at a time."""
    nodes = Nodes()
    blob, covered = chunk(1, 1) * 512, 512
    for level in range(3):
        digest = nodes.save(encode((1, level, blob)))
        blob, covered = RECORD.pack(digest, covered) * 512, covered * 512
    item = entry(RECORD.pack(nodes.save(encode((1, 3, blob))), covered), covered, 4)
    assert item.size == 512**4
    tracemalloc.start()
    walk = chunklist.walk(item, nodes.load)
    for _ in range(100_000):
        next(walk)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
