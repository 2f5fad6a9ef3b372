"""Manifests and deltas: shape, order, and how little is read.

A tree is modelled by a dict from path to entry. Most tests run with small nodes, so that few
entries make a deep tree; those that count what is read or written use the real sizes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import cache
from unittest.mock import patch
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.nodes import ROOT, Nodes, entry_at, small_nodes

from chunkstore.errors import Corrupt, NotFound
from chunkstore.objects import manifest
from chunkstore.objects.children import children
from chunkstore.objects.chunklist import RECORD
from chunkstore.objects.delta import diff
from chunkstore.objects.entry import DIRECTORY, FILE, SYMLINK, Entry
from chunkstore.objects.manifest import NodeRef
from chunkstore.objects.names import is_below, sort_key
from chunkstore.objects.record import encode

Tree = dict[bytes, Entry]


def in_order(tree: Tree) -> list[Entry]:
    return [tree[path] for path in sorted(tree, key=sort_key)]


def build(tree: Tree, nodes: Nodes) -> NodeRef:
    return manifest.build(in_order(tree), nodes.save)


NAMES = [b"a", b"b", b"a-", b"a.", b"ab", b"\x01", b"\xff", b"b0", b"~", b"zz", b"a b", b"aa"]

# What is done to a tree: a path, what shall be there, and something to tell entries apart.
steps = st.lists(
    st.tuples(
        st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map(tuple),
        st.sampled_from([FILE, FILE, FILE, DIRECTORY, SYMLINK, None]),
        st.integers(0, 5),
    ),
    max_size=50,
)


def done(tree: Tree, todo: Iterable[tuple[tuple[bytes, ...], int | None, int]]) -> Tree:
    """The tree after all steps, with directories wherever one is needed."""
    result = dict(tree)
    for parts, kind, mark in todo:
        for depth in range(1, len(parts)):
            above = b"/".join(parts[:depth])
            if above not in result or result[above].kind != DIRECTORY:
                result[above] = entry_at(above, DIRECTORY, 0)
        path = b"/".join(parts)
        if kind != DIRECTORY:
            result = {other: item for other, item in result.items() if not is_below(other, path)}
        if kind is None:
            result.pop(path, None)
        else:
            result[path] = entry_at(path, kind, mark)
    return result


trees = steps.map(lambda todo: done({b"": ROOT}, todo))
pairs = st.tuples(steps, steps).map(
    lambda both: (done({b"": ROOT}, both[0]), done({b"": ROOT}, [*both[0], *both[1]]))
)


def changes_between(old: Tree, new: Tree, *, terse: bool) -> list[manifest.Change]:
    """What makes `new` of `old`; terse leaves out what goes with a directory above it."""
    found = []
    gone = None
    for path in sorted(old.keys() | new.keys(), key=sort_key):
        if old.get(path) == new.get(path):
            continue
        target = new.get(path)
        if terse and target is None and gone is not None and is_below(path, gone):
            continue
        if target is None or target.kind != DIRECTORY:
            gone = path
        found.append((path, target))
    return found


@given(trees)
def test_walk_gives_what_was_built_in_order(tree):
    nodes = Nodes()
    with small_nodes():
        root = build(tree, nodes)
    found = list(manifest.walk(root, nodes.load))
    assert found == in_order(tree)
    assert (root.first, root.entries) == (b"", len(tree))
    assert root.size == sum(item.size for item in tree.values())


@given(trees)
def test_walk_below_gives_that_part(tree):
    nodes = Nodes()
    with small_nodes():
        root = build(tree, nodes)
    for path, item in tree.items():
        expected = [
            other for other in in_order(tree) if other.path == path or is_below(other.path, path)
        ]
        assert list(manifest.walk(root, nodes.load, path)) == expected
        assert manifest.find(root, path, nodes.load) == item


@given(trees)
def test_children_are_the_entry_and_what_lies_right_in_it(tree):
    nodes = Nodes()
    with small_nodes():
        root = build(tree, nodes)
    for path, item in tree.items():
        expected = [
            other
            for other in in_order(tree)
            if other.path and other.path.rpartition(b"/")[0] == path
        ]
        nodes.loaded.clear()
        assert list(children(root, nodes.load, path)) == [item, *expected]
        assert len(nodes.loaded) == len(set(nodes.loaded))


def test_children_read_nothing_of_what_lies_deeper():
    nodes = Nodes()
    tree = {b"": ROOT}
    for folder in (b"a", b"b", b"c"):
        tree[folder] = entry_at(folder, DIRECTORY, 0)
        tree |= {
            path: entry_at(path, FILE, 1)
            for path in (b"%s/%05d" % (folder, n) for n in range(5000))
        }
    root = build(tree, nodes)
    height = levels(root, nodes)
    nodes.loaded.clear()
    assert [item.path for item in children(root, nodes.load)] == [b"", b"a", b"b", b"c"]
    assert len(nodes.loaded) <= 4 * height
    assert list(children(root, nodes.load, b"b/00007")) == [entry_at(b"b/00007", FILE, 1)]


@given(trees, st.lists(st.sampled_from([*NAMES, b"0", b"zzz"]), min_size=1, max_size=5))
def test_what_is_not_there_is_not_found(tree, parts):
    path = b"/".join(parts)
    nodes = Nodes()
    with small_nodes():
        root = build(tree, nodes)
    if path in tree:
        assert manifest.find(root, path, nodes.load) == tree[path]
    else:
        with pytest.raises(NotFound):
            manifest.find(root, path, nodes.load)
        with pytest.raises(NotFound):
            list(manifest.walk(root, nodes.load, path))
        with pytest.raises(NotFound):
            list(children(root, nodes.load, path))


@settings(max_examples=200)
@given(pairs, st.booleans())
def test_editing_gives_the_tree_that_building_gives(pair, terse):
    old, new = pair
    with small_nodes():
        nodes = Nodes()
        root = build(old, nodes)
        built = Nodes()
        expected = build(new, built)
        nodes.loaded.clear()
        found = manifest.edit(root, changes_between(old, new, terse=terse), nodes.load, nodes.save)
    assert found == expected
    assert built.keys() <= nodes.keys()
    # No node is read twice.
    assert len(nodes.loaded) == len(set(nodes.loaded))


@given(pairs, st.integers(0, 2**16))
def test_directories_made_anew_and_what_is_taken(pair, chosen):
    """A directory that follows its own removal keeps nothing; each old entry named is told."""
    old, new = pair
    both = [path for path in in_both(old, new) if path]
    anew = {path for number, path in enumerate(both) if chosen >> number % 16 & 1}
    changes: list[manifest.Change] = []
    expected = []
    for path in sorted(old.keys() | new.keys(), key=sort_key):
        is_within = any(is_below(path, directory) for directory in anew)
        if path in anew:
            changes.append((path, None))
        if path in anew or (is_within and path in new):
            changes.append((path, new[path]))
        elif not is_within and old.get(path) != new.get(path):
            changes.append((path, new.get(path)))
        elif not is_within:
            continue
        if path in old:
            expected.append(old[path])
    taken: list[Entry] = []
    with small_nodes():
        nodes = Nodes()
        root = build(old, nodes)
        found = manifest.edit(root, changes, nodes.load, nodes.save, taken=taken.append)
        assert found == build(new, Nodes())
    assert taken == expected


def in_both(old: Tree, new: Tree) -> list[bytes]:
    """The directories of both trees."""
    return [
        path
        for path, item in old.items()
        if item.kind == DIRECTORY and path in new and new[path].kind == DIRECTORY
    ]


@given(trees, st.lists(st.tuples(st.sampled_from(NAMES), st.booleans()), max_size=5))
def test_changes_that_change_nothing(tree, picked):
    """Naming an entry as it is, or a path that is not there, gives the same tree."""
    changes: dict[bytes, Entry | None] = {b"gone-" + name: None for name, _ in picked}
    changes |= {name: tree[name] for name, keep in picked if name in tree and keep}
    with small_nodes():
        nodes = Nodes()
        root = build(tree, nodes)
        ordered = sorted(changes.items(), key=lambda change: sort_key(change[0]))
        assert manifest.edit(root, ordered, nodes.load, nodes.save) == root


@settings(max_examples=200)
@given(pairs)
def test_diff_is_the_difference_of_the_dicts(pair):
    old, new = pair
    with small_nodes():
        nodes = Nodes()
        before, after = build(old, nodes), build(new, nodes)
    paths = sorted(old.keys() | new.keys(), key=sort_key)
    expected = [(old.get(p), new.get(p)) for p in paths if old.get(p) != new.get(p)]
    assert list(diff(before, after, nodes.load)) == expected
    # At worst every node of both is read, each once.
    assert all(nodes.loaded.count(digest) <= 2 for digest in nodes.loaded)
    assert list(diff(after, before, nodes.load)) == [(b, a) for a, b in expected]


@given(trees)
def test_diff_with_nothing_is_everything(tree):
    nodes = Nodes()
    with small_nodes():
        root = build(tree, nodes)
    assert list(diff(None, root, nodes.load)) == [(None, item) for item in in_order(tree)]
    assert list(diff(root, None, nodes.load)) == [(item, None) for item in in_order(tree)]
    assert list(diff(None, None, nodes.load)) == []
    nodes.loaded.clear()
    assert list(diff(root, root, nodes.load)) == []
    assert nodes.loaded == []


def built_by_the_document(tree: Tree, nodes: Nodes) -> NodeRef:
    """A manifest as `docs/format.md` words it: level by level, each cut as a whole."""
    level = 0
    items = [(item.path, encode(item), 1, item.size) for item in in_order(tree)]
    while True:
        refs = []
        node: list[tuple[bytes, bytes, int, int]] = []
        for number, item in enumerate(items):
            node.append(item)
            length = sum(len(data) for _, data, _, _ in node)
            is_cut = length >= manifest.MIN_NODE and (
                length >= manifest.MAX_NODE
                or (crc32(item[0]) >> 6 * (level % 5)) & manifest.CUT_MASK == 0
            )
            if is_cut or number == len(items) - 1:
                head = encode((1, level, (None,) * len(node)))
                head = head[: len(head) - len(node)]
                data = head + b"".join(data for _, data, _, _ in node)
                entries = sum(count for _, _, count, _ in node)
                size = sum(size for _, _, _, size in node)
                refs.append(NodeRef(node[0][0], nodes.save(data), len(data), entries, size))
                node = []
        if len(refs) == 1:
            return refs[0]
        items = [(ref.first, encode(ref), ref.entries, ref.size) for ref in refs]
        level += 1


@given(trees)
def test_the_tree_is_the_one_the_document_describes(tree):
    with small_nodes():
        nodes, plain = Nodes(), Nodes()
        assert build(tree, nodes) == built_by_the_document(tree, plain)
        assert nodes == plain


@cache
def large() -> tuple[Tree, Nodes, NodeRef]:
    """An image of 30,000 paths of about the size that real ones have."""
    source = random.Random(1)
    tree = {b"": ROOT}
    for folder in range(600):
        above = b"usr/share/package-%03d" % folder
        for path in (b"usr", b"usr/share", above):
            tree[path] = entry_at(path, DIRECTORY, 0)
        for number in range(49):
            path = above + b"/file-%02d.so" % number
            content = RECORD.pack(source.randbytes(32), 6)
            tree[path] = Entry(path, FILE, 0o644, 0, 0, source.getrandbits(60), 6, content)
    nodes = Nodes()
    return tree, nodes, build(tree, nodes)


def levels(root: NodeRef, nodes: Nodes) -> int:
    return manifest.read_node(root, nodes[root.digest]).level + 1


def test_a_large_tree_has_nodes_of_the_right_size():
    tree, nodes, root = large()
    assert 29_000 < len(tree) < 31_000
    assert levels(root, nodes) == 3
    mean = sum(map(len, nodes.values())) / len(nodes)
    assert 8_000 < mean < 14_000
    assert max(map(len, nodes.values())) <= manifest.MAX_NODE + 1024


SMALL_CHANGES = {
    "content in the middle": [(b"usr/share/package-300/file-20.so", "changed")],
    "first entry": [(b"", "changed")],
    "last entry": [(b"usr/share/package-599/file-48.so", "changed")],
    "a new file": [(b"usr/share/package-300/file-20.so.1", "new")],
    "a new first file": [(b"aaa", "new")],
    "a new last file": [(b"zzz", "new")],
    "a file less": [(b"usr/share/package-123/file-07.so", None)],
    "the last file less": [(b"usr/share/package-599/file-48.so", None)],
    "a directory less": [(b"usr/share/package-123", None)],
}


@pytest.mark.parametrize("name", SMALL_CHANGES)
def test_a_small_change_reads_and_writes_few_nodes(name):
    tree, stored, root = large()
    changes: list[manifest.Change] = []
    changed = dict(tree)
    for path, what in SMALL_CHANGES[name]:
        if what is None:
            changes.append((path, None))
            for other in [p for p in changed if p == path or is_below(p, path)]:
                del changed[other]
        else:
            old = tree.get(path) or Entry(path, FILE, 0o644, 0, 0, 0)
            changed[path] = old._replace(mtime=1, uid=77)
            changes.append((path, changed[path]))
    nodes = Nodes(stored)
    found = manifest.edit(root, changes, nodes.load, nodes.save)
    assert found == build(changed, Nodes())
    height = levels(root, nodes)
    # One node per level, and neighbours where a cut point came or went.
    assert len(set(nodes.saved) - stored.keys()) <= height + 4
    assert len(nodes.loaded) <= 2 * height + 4
    nodes.loaded.clear()
    assert len(list(diff(root, found, nodes.load))) == len(
        [p for p in tree.keys() | changed.keys() if tree.get(p) != changed.get(p)]
    )
    assert len(nodes.loaded) <= 2 * height + 8
    assert not set(nodes.loaded) & below(root, nodes) & below(found, nodes)


def below(root: NodeRef, nodes: Nodes) -> set[bytes]:
    """The digests of a tree's nodes."""
    found = {root.digest}
    node = manifest.read_node(root, nodes[root.digest])
    if node.level:
        for child in node.records:
            found |= below(child, nodes)
    return found


@pytest.mark.parametrize("counts", [(3_000, 60_000), (3_000, 30), (200, 60_000), (30_000, 60_000)])
def test_diff_of_trees_of_other_heights_reads_nothing_they_share(counts):
    nodes = Nodes()
    roots = []
    for count in counts:
        items = (Entry(b"%06d" % number, FILE, 0o644, 0, 0, 0) for number in range(count))
        roots.append(manifest.build([ROOT, *items], nodes.save))
    one, other = roots
    shared = below(one, nodes) & below(other, nodes)
    assert len(list(diff(one, other, nodes.load))) == abs(counts[0] - counts[1])
    assert not set(nodes.loaded) & shared
    assert len(nodes.loaded) == len(below(one, nodes) ^ below(other, nodes))


def test_insertions_cost_one_node_per_level_on_average():
    tree, stored, root = large()
    source = random.Random(3)
    written = 0
    for path in source.sample([path for path in tree if path.endswith(b".so")], 60):
        nodes = Nodes(stored)
        new = Entry(path + b"-new", FILE, 0o644, 0, 0, 0)
        manifest.edit(root, [(new.path, new)], nodes.load, nodes.save)
        written += len(set(nodes.saved) - stored.keys())
    assert written / 60 < levels(root, stored) + 0.5


def test_names_that_count_up_do_not_spoil_the_inner_levels():
    """With the same bits on all levels, none of these inner nodes would end before its limit."""
    nodes = Nodes()
    items = (Entry(b"%06d" % number, FILE, 0o644, 0, 0, 0) for number in range(60_000))
    root = manifest.build([ROOT, *items], nodes.save)
    assert levels(root, nodes) == 3
    inner = [ref.length for ref in manifest.read_node(root, nodes[root.digest]).records]
    assert len(inner) >= 3
    assert max(inner) < manifest.MAX_NODE * 2 // 3


def test_find_reads_one_node_per_level():
    _, nodes, root = large()
    for path in (b"", b"usr/share/package-300/file-20.so", b"usr/share/package-599/file-48.so"):
        nodes.loaded.clear()
        manifest.find(root, path, nodes.load)
        assert len(nodes.loaded) == levels(root, nodes)


def test_no_changes_read_nothing():
    _, nodes, root = large()
    nodes.loaded.clear()
    assert manifest.edit(root, [], nodes.load, nodes.save) == root
    assert nodes.loaded == []


def test_random_edits_of_a_large_tree():
    tree, stored, root = large()
    source = random.Random(2)
    nodes = Nodes(stored)
    paths = sorted(tree, key=sort_key)
    for count in (1, 30, 1000):
        changed = dict(tree)
        for path in source.sample(paths[4:], count):
            what = source.randrange(3)
            if what == 0:
                changed = {p: e for p, e in changed.items() if p != path and not is_below(p, path)}
            elif what == 1 and path in changed:
                changed[path] = changed[path]._replace(mtime=source.getrandbits(40))
            elif path.rpartition(b"/")[0] in changed:
                fresh = path + b"~"
                changed[fresh] = Entry(fresh, FILE, 0o644, 0, 0, count)
        edits = changes_between(tree, changed, terse=True)
        found = manifest.edit(root, edits, nodes.load, nodes.save)
        assert found == build(changed, nodes)
        assert [(a or b).path for a, b in diff(root, found, nodes.load)] == [
            path for path, _ in changes_between(tree, changed, terse=False)
        ]


def test_an_entry_larger_than_allowed_is_refused():
    xattrs = tuple((b"user.%03d" % number, bytes(64 * 1024)) for number in range(9))
    item = Entry(b"a", FILE, 0o644, 0, 0, 0, xattrs=xattrs)
    with pytest.raises(Corrupt, match="metadata"):
        manifest.build([ROOT, item], Nodes().save)


def test_the_largest_node_is_read_again():
    """All that fits before the cut, and the largest entry behind it."""
    xattrs = tuple((b"user.%03d" % number, bytes(64 * 1024)) for number in range(7))
    full = Entry(b"z", FILE, 0o644, 0, 0, 0, xattrs=(*xattrs, (b"user.rest", bytes(65_000))))
    assert 510_000 < len(encode(full)) <= 512 * 1024
    nodes = Nodes()
    with patch.object(manifest, "CUT_MASK", 0xFFFFFFFF):
        small = [Entry(b"a%04d" % number, FILE, 0o644, 0, 0, 0) for number in range(1750)]
        root = manifest.build([ROOT, *small, full], nodes.save)
    assert max(map(len, nodes.values())) > manifest.MAX_NODE + 490_000
    assert max(map(len, nodes.values())) <= manifest.MAX_NODE_BYTES
    assert [item.path for item in manifest.walk(root, nodes.load)][-1] == b"z"


def test_a_manifest_has_entries():
    with pytest.raises(Corrupt, match="without entries"):
        manifest.build([], Nodes().save)


def test_sizes_that_do_not_fit_into_a_record_are_a_declared_error():
    huge = [Entry(b"%d" % number, FILE, 0o644, 0, 0, 0, 2**63 - 1) for number in range(3)]
    with pytest.raises(Corrupt, match="recorded"):
        manifest.build([ROOT, *huge], Nodes().save)
