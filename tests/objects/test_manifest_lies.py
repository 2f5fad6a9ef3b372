"""Manifests whose nodes are each well-formed, and agree with their references, and still lie."""

from __future__ import annotations

import pytest
from support.nodes import ROOT, Nodes, entry_at

from chunkstore.errors import Corrupt
from chunkstore.objects import manifest
from chunkstore.objects.children import children
from chunkstore.objects.delta import diff
from chunkstore.objects.entry import DIRECTORY, FILE, SYMLINK, Entry
from chunkstore.objects.manifest import NodeRef
from chunkstore.objects.record import encode

LIES = Nodes()


def node_of(level: int, *records) -> NodeRef:
    """A node of entries or references, and the reference that fits it."""
    data = encode((1, level, records))
    entries = sum(item.entries for item in records) if level else len(records)
    size = sum(item.size for item in records)
    return NodeRef(records[0][0], LIES.save(data), len(data), entries, size)


def file(path: bytes) -> Entry:
    return entry_at(path, FILE, 1)


def leaf(*paths: bytes) -> NodeRef:
    return node_of(0, *(ROOT if not path else file(path) for path in paths))


def chain(length: int) -> NodeRef:
    """Nodes that all say to be of level 3, each the only child of the one before."""
    ref = leaf(b"", b"a")
    for _ in range(length):
        ref = node_of(3, ref)
    return ref


def liars() -> dict[str, tuple[NodeRef, str]]:
    good = leaf(b"", b"a", b"b")
    return {
        "leaf below level 2": (node_of(2, good), "level 0"),
        "level 1 below level 1": (node_of(1, node_of(1, good)), "level 1"),
        "level 7 below level 1": (node_of(1, node_of(7, good)), "level 7"),
        "deep chain of one level": (chain(3000), "level 3"),
        "leaf that reaches into the next": (
            node_of(1, leaf(b"", b"a", b"z"), leaf(b"b", b"c")),
            "next node",
        ),
        "path in two leaves": (node_of(1, leaf(b"", b"a", b"b"), leaf(b"b", b"c")), "next node"),
        "leaf that reaches into its cousin": (
            node_of(2, node_of(1, leaf(b"", b"a"), leaf(b"b", b"z")), node_of(1, leaf(b"c"))),
            "next node",
        ),
        "inner node that reaches into the next": (
            node_of(2, node_of(1, leaf(b"", b"a"), leaf(b"d")), node_of(1, leaf(b"c"))),
            "next node",
        ),
        "child with another count": (node_of(1, good._replace(entries=4)), "reference says"),
        "child with another size": (node_of(1, good._replace(size=1)), "reference says"),
        "child that begins elsewhere": (node_of(1, good._replace(first=b"a")), "reference says"),
        "child of another length": (
            node_of(1, good._replace(length=good.length - 1)),
            "bytes, not",
        ),
        "grandchild with another count": (
            node_of(2, node_of(1, good._replace(entries=2**40))),
            "reference says",
        ),
        "root with another count": (node_of(1, good)._replace(entries=5), "reference says"),
    }


@pytest.mark.parametrize("name", liars())
def test_trees_that_lie_are_seen_by_every_reader(name):
    root, says = liars()[name]
    honest = node_of(0, ROOT._replace(mtime=5))
    everything = [(path, None) for path in (b"a", b"b", b"c", b"d", b"z")]
    readers = {
        "walk": lambda: list(manifest.walk(root, LIES.load)),
        "diff of nothing": lambda: list(diff(None, root, LIES.load)),
        "diff to nothing": lambda: list(diff(root, None, LIES.load)),
        "diff with another": lambda: list(diff(honest, root, LIES.load)),
        "edit": lambda: manifest.edit(root, everything, LIES.load, LIES.save),
    }
    for reader in readers.values():
        with pytest.raises(Corrupt) as caught:
            reader()
        assert type(caught.value) is Corrupt
        assert says in str(caught.value)


LINK = entry_at(b"a", SYMLINK, 1)


@pytest.mark.parametrize(
    "records",
    [
        (ROOT, file(b"a"), file(b"a/b")),
        (ROOT, LINK, file(b"a/b")),
        (ROOT, file(b"a/b")),
        (ROOT, entry_at(b"a", DIRECTORY, 0), file(b"a/b/c")),
        (ROOT, entry_at(b"a", DIRECTORY, 0), file(b"a-"), file(b"b/c")),
        (ROOT, entry_at(b"a", DIRECTORY, 0), file(b"a/b"), file(b"a/b/c")),
        (ROOT, entry_at(b"a", DIRECTORY, 0), entry_at(b"a/b", DIRECTORY, 0), file(b"ab/c")),
    ],
    ids=["in a file", "through a link", "in nothing", "deeper", "beside", "in a file deeper", "ab"],
)
def test_walk_refuses_what_lies_in_no_directory(records):
    root = node_of(0, *records)
    with pytest.raises(Corrupt, match="not a directory"):
        list(manifest.walk(root, LIES.load))


def test_children_refuse_what_lies_in_nothing():
    root = node_of(0, ROOT, file(b"a"), file(b"b/c"))
    with pytest.raises(Corrupt, match="b/c"):
        list(children(root, LIES.load))


def test_walk_refuses_what_lies_in_a_file_below_a_part_too():
    root = node_of(0, ROOT, LINK, file(b"a/b"))
    with pytest.raises(Corrupt, match="not a directory"):
        list(manifest.walk(root, LIES.load, b"a"))
    assert list(manifest.walk(root, LIES.load, b"a/b")) == [file(b"a/b")]
