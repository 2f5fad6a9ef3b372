"""Looking up paths: the same as walking to them, in whatever order, and few nodes read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore.errors import Corrupt, NotFound
from chunkstore.objects import manifest
from chunkstore.objects.digest import chunk_digest
from chunkstore.objects.entry import DIRECTORY, FILE, Entry
from chunkstore.objects.lookup import Lookup
from chunkstore.objects.names import sort_key


class Nodes(dict[bytes, bytes]):
    """Nodes in memory that count how often they are read."""

    reads = 0

    def save(self, data: bytes) -> bytes:
        digest = chunk_digest(data)
        self[digest] = data
        return digest

    def load(self, digest: bytes) -> bytes:
        self.reads += 1
        return self[digest]


def entries_of(paths):
    yield Entry(b"", DIRECTORY, 0o755, 0, 0, 0)
    for path in sorted(paths, key=sort_key):
        yield Entry(path, FILE, 0o644, 0, 0, 0)


def large():
    return [b"%05d" % (number * 3) for number in range(4000)]


NODES = Nodes()
ENTRIES = list(entries_of(large()))
ROOT = manifest.build(ENTRIES, NODES.save)


@given(st.lists(st.integers(-5, 12_010), max_size=60))
def test_as_walking_finds_them(numbers):
    lookup = Lookup(ROOT, NODES.load)
    known = {entry.path: entry for entry in ENTRIES}
    for path in [b"%05d" % number for number in numbers] + [b"", b"zzz"]:
        if path in known:
            assert lookup.find(path) == known[path]
        else:
            with pytest.raises(NotFound, match="no such path"):
                lookup.find(path)


def test_paths_in_order_read_each_node_once():
    NODES.reads = 0
    lookup = Lookup(ROOT, NODES.load)
    for entry in ENTRIES:
        assert lookup.find(entry.path) == entry
    assert len(NODES) > 10
    assert NODES.reads == len(NODES)


def test_a_small_manifest():
    nodes = Nodes()
    root = manifest.build(entries_of([b"b"]), nodes.save)
    lookup = Lookup(root, nodes.load)
    assert lookup.find(b"b").path == b"b"
    for path in (b"a", b"c", b"b/c"):
        with pytest.raises(NotFound):
            lookup.find(path)


def test_a_node_in_the_wrong_place_is_corrupt():
    """As in walking: the parent says what must follow, and at which level."""
    nodes = Nodes()
    root = manifest.build(entries_of(large()), nodes.save)
    top = manifest.read_node(root, nodes[root.digest])
    assert top.level > 0
    swapped = [top.records[1]._replace(first=top.records[0].first), *top.records[1:]]
    forged = nodes.save(manifest.encode((manifest.FORMAT, top.level, tuple(swapped))))
    count = sum(item.entries for item in swapped)
    bad = root._replace(digest=forged, length=len(nodes[forged]), entries=count, size=0)
    with pytest.raises(Corrupt):
        Lookup(bad, nodes.load).find(b"00003")
