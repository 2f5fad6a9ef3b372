"""Overlays, against a naive model of trees laid over each other.

The model knows directories as dicts and files as inodes that several names may lead to; what a
manifest says of hardlinks is worked out only when the model is written down. Cases that took
thought stand by themselves below.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.nodes import Nodes, small_nodes

from chunkstore.errors import Corrupt, Unsupported
from chunkstore.objects import manifest, overlay
from chunkstore.objects.chunklist import RECORD
from chunkstore.objects.entry import (
    BLOCK,
    CHARACTER,
    DEVICE,
    DIRECTORY,
    FIFO,
    FILE,
    SYMLINK,
    Entry,
)
from chunkstore.objects.manifest import NodeRef
from chunkstore.objects.names import sort_key
from chunkstore.objects.record import encode

WHITEOUT = DEVICE.pack(0, 0)


@dataclass(eq=False)
class Inode:
    """Anything but a directory: what its entry says, but for names."""

    like: Entry


@dataclass(eq=False)
class Folder:
    like: Entry
    held: dict[bytes, Folder | Inode] = field(default_factory=dict)


def entry(path: bytes, kind: int = FILE, mark: int = 0, **more: object) -> Entry:
    content = {
        FILE: RECORD.pack(bytes([mark]) * 32, 6),
        SYMLINK: b"to/%d" % mark,
        CHARACTER: DEVICE.pack(0, mark % 2),
        BLOCK: DEVICE.pack(mark, 0),
    }.get(kind, b"")
    size = 6 if kind == FILE else 0
    return Entry(path, kind, 0o644, mark, 0, mark, size, content)._replace(**more)


# The model


def is_marker(name: bytes, one: Folder | Inode) -> bool:
    if isinstance(one, Folder):
        return False
    if one.like.kind == CHARACTER and one.like.content == WHITEOUT:
        return True
    return name.startswith(b".wh.") and name not in (b".wh.", b".wh..", b".wh...")


def laid(lower: Folder | Inode | None, upper: Folder, *, is_top: bool = False) -> Folder:
    """A directory of an overlay over whatever is in its place."""
    markers = {name: one for name, one in upper.held.items() if is_marker(name, one)}
    below = dict(lower.held) if isinstance(lower, Folder) else {}
    if b".wh..wh..opq" in markers or (b"trusted.overlay.opaque", b"y") in upper.like.xattrs:
        below = {}
    for name, one in markers.items():
        if name.startswith(b".wh."):
            below.pop(name[4:], None)
        if one.like.content == WHITEOUT:
            below.pop(name, None)
    for name, one in upper.held.items():
        if name in markers:
            continue
        if isinstance(one, Folder):
            below[name] = laid(below.get(name), one)
        else:
            one.like = without_notes(one.like)
            below[name] = one
    return Folder(lower.like if is_top else without_notes(upper.like), below)


def without_notes(like: Entry) -> Entry:
    kept = (pair for pair in like.xattrs if not pair[0].startswith(b"trusted.overlay."))
    return like._replace(xattrs=tuple(kept))


def written(top: Folder) -> list[Entry]:
    """The entries of a model."""
    firsts: dict[Inode, bytes] = {}
    found = []

    def visit(path: bytes, one: Folder | Inode) -> None:
        item = one.like._replace(path=path)
        if isinstance(one, Inode):
            first = firsts.setdefault(one, path)
            item = item._replace(link=b"" if first == path else first)
        found.append(item)
        if isinstance(one, Folder):
            for name in sorted(one.held):
                visit(path + b"/" + name if path else name, one.held[name])

    visit(b"", top)
    return found


# Trees at random

NAMES = [b"a", b"b", b"-", b"a.b", b"z", b".wh.a", b".wh.b", b".wh.-", b".wh.z", b".wh.a.b"]
ODD = [b".wh.", b".wh..", b".wh...", b".wh..wh..opq", b".wh..wh.a"]
KINDS = [FILE, FILE, FILE, DIRECTORY, SYMLINK, CHARACTER, BLOCK, FIFO, None]
XATTRS = [
    (),
    ((b"trusted.overlay.opaque", b"y"),),
    ((b"trusted.overlay.impure", b"y"), (b"user.mine", b"1")),
    ((b"trusted.overlay.opaque", b"x"), (b"trusted.overlayer", b"y")),
]
steps = st.lists(
    st.tuples(
        st.lists(st.sampled_from(NAMES * 3 + ODD), min_size=1, max_size=3),
        st.sampled_from(KINDS),
        st.integers(0, 5),
        st.sampled_from(XATTRS),
    ),
    max_size=25,
)


def made(todo: Iterable[tuple[list[bytes], int | None, int, tuple]], owner: int) -> Folder:
    """A tree by steps; kind `None` is another name of an inode that is there."""
    top = Folder(entry(b"", DIRECTORY, owner))
    inodes: list[Inode] = []
    for parts, kind, mark, xattrs in todo:
        folder = top
        for part in parts[:-1]:
            held = folder.held.get(part)
            if not isinstance(held, Folder):
                held = folder.held[part] = Folder(entry(b"", DIRECTORY, mark))
            folder = held
        name = parts[-1]
        if kind == DIRECTORY:
            like = entry(b"", DIRECTORY, mark, xattrs=xattrs)
            held = folder.held.get(name)
            folder.held[name] = Folder(like, held.held if isinstance(held, Folder) else {})
        elif kind is not None or not inodes:
            inodes.append(Inode(entry(b"", kind or FILE, mark, xattrs=xattrs, gid=owner)))
            folder.held[name] = inodes[-1]
        else:
            folder.held[name] = inodes[mark % len(inodes)]
    return top


layers = st.lists(steps, min_size=1, max_size=4).map(
    lambda several: [made(todo, owner) for owner, todo in enumerate(several)]
)


@settings(max_examples=400)
@given(layers)
def test_layers_are_what_a_naive_overlay_makes_of_them(trees):
    with small_nodes():
        nodes = Nodes()
        roots = [manifest.build(written(tree), nodes.save) for tree in trees]
        composed = overlay.compose(roots, nodes.load, nodes.save)
        result = trees[0]
        for tree in trees[1:]:
            result = laid(result, tree, is_top=True)
        expected = written(result)
        found = list(manifest.walk(composed, nodes.load))
        assert found == expected
        assert composed == manifest.build(expected, Nodes().save)


# Hardlink groups


def composed(*trees: Iterable[Entry]) -> list[Entry]:
    """The entries of plain lists laid over each other, checked to be what `build` makes of them."""
    nodes = Nodes()
    top = entry(b"", DIRECTORY)
    roots = [
        manifest.build(sorted([top, *tree], key=lambda item: sort_key(item.path)), nodes.save)
        for tree in trees
    ]
    root = overlay.compose(roots, nodes.load, nodes.save)
    found = list(manifest.walk(root, nodes.load))
    assert root == manifest.build(found, Nodes().save)
    return found[1:]


def group(first: bytes, *others: bytes, mark: int = 1) -> list[Entry]:
    """A file by several names."""
    return [entry(first, mark=mark), *(entry(name, mark=mark, link=first) for name in others)]


OTHER = entry(b"a", mark=2)
GROUPS = {
    "the first replaced": ([OTHER], [OTHER, *group(b"b", b"c")]),
    "the first deleted": ([entry(b".wh.a")], group(b"b", b"c")),
    "the first replaced by its like": (group(b"a"), [*group(b"a"), *group(b"b", b"c")]),
    "the first replaced by a directory": (
        [entry(b"a", DIRECTORY)],
        [entry(b"a", DIRECTORY), *group(b"b", b"c")],
    ),
    "a further one replaced": (
        [entry(b"b", mark=2)],
        [entry(b"a", mark=1), entry(b"b", mark=2), entry(b"c", mark=1, link=b"a")],
    ),
    "all but one": ([entry(b".wh.a"), entry(b".wh.b")], group(b"c")),
    "all replaced by another group": (
        group(b"a", b"b", b"c", mark=2),
        group(b"a", b"b", b"c", mark=2),
    ),
    "a group of the overlay at the first": (
        group(b"a", b"d", mark=2),
        [entry(b"a", mark=2), *group(b"b", b"c"), entry(b"d", mark=2, link=b"a")],
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_what_is_left_of_a_group(name):
    over, expected = GROUPS[name]
    assert composed(group(b"a", b"b", b"c"), over) == expected


def test_a_group_in_a_directory_that_goes():
    base = [
        *(entry(b"d", DIRECTORY), entry(b"d/a"), entry(b"d/b", link=b"d/a")),
        *(entry(b"e", link=b"d/a"), entry(b"f", link=b"d/a")),
    ]
    assert composed(base, [entry(b".wh.d")]) == group(b"e", b"f", mark=0)
    assert composed(base, [entry(b"d")]) == [entry(b"d"), *group(b"e", b"f", mark=0)]


def test_a_group_of_an_overlay_broken_by_the_next():
    found = composed([entry(b"z")], group(b"a", b"b", b"z"), [entry(b".wh.a")], [entry(b".wh.b")])
    assert found == group(b"z")


def test_a_group_of_an_overlay_that_begins_with_a_deletion():
    """Deletions may be linked to each other, as overlayfs does, and even to other files."""
    over = [entry(b".wh.a"), *(entry(name, link=b".wh.a") for name in (b".wh.b", b"x", b"y"))]
    assert composed([entry(b"a"), entry(b"b")], over) == group(b"x", b"y", mark=0)


# Deletions and directories


def character(path: bytes, **more: object) -> Entry:
    return entry(path, CHARACTER, **more)


def directory(path: bytes, **more: object) -> Entry:
    return entry(path, DIRECTORY, **more)


BASE = [directory(b"d", mark=1), entry(b"d/a"), directory(b"d/e"), entry(b"d/e/b"), entry(b"f")]
OPAQUE_XATTR = ((b"trusted.overlay.opaque", b"y"),)
CASES = {
    "nothing in it": ([], BASE),
    "deletes a file": ([entry(b".wh.f")], BASE[:-1]),
    "deletes by a directory": ([directory(b".wh.f")], [directory(b".wh.f"), *BASE]),
    "deletes by a symlink": ([entry(b".wh.f", SYMLINK)], BASE[:-1]),
    "deletes by a device": ([character(b"f")], BASE[:-1]),
    "another device": ([character(b"f", mark=1)], [*BASE[:-1], character(b"f", mark=1)]),
    "a block device 0:0": (
        [entry(b"f", BLOCK, content=WHITEOUT)],
        [*BASE[:-1], entry(b"f", BLOCK, content=WHITEOUT)],
    ),
    "deletes a directory": ([entry(b".wh.d")], BASE[-1:]),
    "deletes a directory by a device": ([character(b"d")], BASE[-1:]),
    "deletes in a directory": (
        [directory(b"d", mark=2), directory(b"d/e"), entry(b"d/e/.wh.b")],
        [directory(b"d", mark=2), *BASE[1:3], *BASE[4:]],
    ),
    "deletes what is not there": (
        [entry(b".wh.none"), directory(b"n"), entry(b"n/.wh.none"), character(b"none2")],
        [*BASE, directory(b"n")],
    ),
    "deletes what it brings": (
        [entry(b".wh.f"), entry(b"f", mark=3)],
        [*BASE[:-1], entry(b"f", mark=3)],
    ),
    "makes a directory anew": (
        [entry(b".wh.d"), directory(b"d", mark=2), directory(b"d/e"), entry(b"d/new")],
        [directory(b"d", mark=2), directory(b"d/e"), entry(b"d/new"), BASE[-1]],
    ),
    "opaque": (
        [directory(b"d", mark=2), entry(b"d/.wh..wh..opq"), directory(b"d/e"), entry(b"d/e/c")],
        [directory(b"d", mark=2), directory(b"d/e"), entry(b"d/e/c"), BASE[-1]],
    ),
    "opaque by an xattr": (
        [directory(b"d", mark=2, xattrs=OPAQUE_XATTR)],
        [directory(b"d", mark=2), BASE[-1]],
    ),
    "opaque by the xattr with a symlink": (
        [entry(b"f", SYMLINK, xattrs=OPAQUE_XATTR)],
        [*BASE[:-1], entry(b"f", SYMLINK)],
    ),
    "opaque at the top": ([entry(b".wh..wh..opq"), entry(b"x")], [entry(b"x")]),
    "a file over a directory": ([entry(b"d", mark=1)], [entry(b"d", mark=1), BASE[-1]]),
    "a directory over a file": (
        [directory(b"f"), entry(b"f/x")],
        [*BASE[:-1], directory(b"f"), entry(b"f/x")],
    ),
    "no names": (
        [entry(b".wh."), entry(b".wh.."), entry(b".wh..."), directory(b"d"), entry(b"d/.wh.")],
        [
            *(entry(b".wh."), entry(b".wh.."), entry(b".wh..."), directory(b"d")),
            *(entry(b"d/.wh."), *BASE[1:]),
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_rules(name):
    over, expected = CASES[name]
    assert composed(BASE, over) == expected


def test_deletions_in_the_order_of_paths_and_not_of_bytes():
    base = [directory(b"d"), entry(b"d/x"), entry(b"d.b"), entry(b"e")]
    over = [entry(b".wh.d.b"), directory(b"d"), entry(b"d/.wh.x")]
    assert composed(base, over) == [directory(b"d"), entry(b"e")]


def test_in_the_base_nothing_is_a_deletion():
    base = [
        *(entry(b".wh..wh..opq"), entry(b".wh.f"), character(b"c")),
        *(directory(b"d", xattrs=OPAQUE_XATTR), entry(b"f")),
    ]
    assert composed(base) == base
    assert composed(base, [entry(b"x")]) == [*base, entry(b"x")]


def test_the_top_directory_stays_as_the_base_has_it():
    nodes = Nodes()
    base = entry(b"", DIRECTORY, 1, xattrs=((b"user.a", b"1"),))
    for over in (
        [entry(b"", DIRECTORY, mode=0o700)],
        [entry(b"", DIRECTORY, mode=0o700), entry(b"x")],
        [entry(b"", DIRECTORY, mode=0o700, xattrs=OPAQUE_XATTR), entry(b"x")],
    ):
        roots = [manifest.build(tree, nodes.save) for tree in ([base, entry(b"a")], over)]
        root = overlay.compose(roots, nodes.load, nodes.save)
        assert manifest.find(root, b"", nodes.load) == base


# How little is read


@cache
def large() -> tuple[Nodes, NodeRef, int]:
    """An image of 20,000 paths with one hardlink group far apart, and how many levels it has."""
    source = random.Random(1)
    tree = [entry(b"", DIRECTORY), entry(b"first"), entry(b"usr", DIRECTORY)]
    for number in range(400):
        above = b"usr/package-%03d" % number
        tree.append(entry(above, DIRECTORY))
        for file in range(49):
            content = RECORD.pack(source.randbytes(32), 6)
            tree.append(entry(above + b"/file-%02d" % file, content=content))
    tree += [entry(b"usr/z", link=b"first"), entry(b"usr/zz", link=b"first")]
    nodes = Nodes()
    root = manifest.build(tree, nodes.save)
    return nodes, root, manifest.read_node(root, nodes[root.digest]).level + 1


def compose_counted(*over: Entry) -> tuple[NodeRef, Nodes, int, int]:
    """The base with an overlay: the result, and how many nodes of the base were loaded, made."""
    stored, root, _ = large()
    nodes = Nodes(stored)
    layer = manifest.build([entry(b"", DIRECTORY), *over], nodes.save)
    nodes.loaded.clear()
    nodes.saved.clear()
    found = overlay.compose([root, layer], nodes.load, nodes.save)
    of_base = [digest for digest in nodes.loaded if digest in stored]
    return found, nodes, len(of_base), len(set(nodes.saved) - stored.keys())


def test_one_layer_is_itself_and_not_even_read():
    _, root, _ = large()
    nodes = Nodes()
    assert overlay.compose([root], nodes.load, nodes.save) == root
    assert nodes.loaded == []
    assert nodes == {}


def test_an_overlay_that_only_adds_reads_a_handful():
    stored, _, levels = large()
    _, _, loaded, made_ = compose_counted(entry(b"usr", DIRECTORY), entry(b"usr/new"))
    assert len(stored) > 200
    assert loaded <= 2 * levels + 4
    assert made_ <= 2 * levels + 4


def test_metadata_of_a_directory_is_no_reason_to_search():
    _, _, levels = large()
    _, _, loaded, _ = compose_counted(
        entry(b"usr", DIRECTORY, 7), entry(b"usr/package-200", DIRECTORY, 8)
    )
    assert loaded <= 4 * levels + 4


def test_a_further_name_taken_is_no_reason_to_search():
    _, _, levels = large()
    found, nodes, loaded, _ = compose_counted(entry(b"usr", DIRECTORY), entry(b"usr/.wh.zz"))
    assert loaded <= 4 * levels + 4
    assert manifest.find(found, b"usr/z", nodes.load).link == b"first"


def test_a_file_replaced_is_searched_for_but_little_is_written():
    stored, _, levels = large()
    found, nodes, loaded, made_ = compose_counted(entry(b"first", mark=1))
    assert len(stored) <= loaded <= len(stored) + 4 * levels + 4
    assert made_ <= 4 * levels + 8
    assert [manifest.find(found, b"usr/" + name, nodes.load).link for name in (b"z", b"zz")] == [
        *(b"", b"usr/z"),
    ]


def test_an_opaque_top_reads_one_path_of_the_base():
    _, _, levels = large()
    _, _, loaded, _ = compose_counted(entry(b".wh..wh..opq"), entry(b"x"))
    assert loaded == levels


# What no honest overlay holds, and what only overlayfs can read


@pytest.mark.parametrize(
    "over",
    [
        [entry(b"x", link=b"a")],
        [directory(b"d"), entry(b"x", link=b"d")],
        [entry(b".wh.a"), entry(b"x", link=b"a")],
    ],
    ids=["of the base", "a directory", "deleted"],
)
def test_a_link_to_what_the_overlay_has_not(over):
    """It would share its inode with a file of another layer, whatever it says itself."""
    with pytest.raises(Corrupt, match=r"^[dx]: .*linked"):
        composed([entry(b"a"), directory(b"d")], over)


@pytest.mark.parametrize(
    ("name", "option"),
    [(b"redirect", "redirect_dir"), (b"metacopy", "metacopy"), (b"nlink", "index")],
)
def test_what_leans_on_the_layer_below_is_refused(name, option):
    xattrs = ((b"trusted.overlay." + name, b""),)
    with pytest.raises(Unsupported, match=f"^x: .*{option}=off"):
        composed([entry(b"a")], [directory(b"x", xattrs=xattrs)])
    assert composed([directory(b"x", xattrs=xattrs)]) == [directory(b"x", xattrs=xattrs)]


LIES = Nodes()


def node_of(level: int, *records: Entry | NodeRef) -> NodeRef:
    """A node, well-formed or not, and the reference that fits it."""
    data = encode((1, level, records))
    count = sum(item.entries for item in records) if level else len(records)
    return NodeRef(records[0][0], LIES.save(data), len(data), count, sum(i.size for i in records))


TOP = entry(b"", DIRECTORY)
HONEST = node_of(0, TOP, entry(b"a"), entry(b"b"))


@pytest.mark.parametrize(
    "liar",
    [
        node_of(0, TOP, entry(b"a"), entry(b"a/.wh.b")),
        node_of(0, TOP, entry(b"a"), entry(b"a/b")),
        node_of(0, TOP, character(b"a"), entry(b"a/b")),
        node_of(0, TOP, entry(b"b"), entry(b"a")),
        node_of(0, TOP, entry(b".imgstore")),
        node_of(0, TOP, entry(b"../a")),
        node_of(1, node_of(0, TOP, entry(b"a"), entry(b"z")), node_of(0, entry(b"b"))),
        node_of(1, node_of(1, HONEST)),
        node_of(0, TOP, entry(b"a", link=b"b")),
    ],
    ids=[
        *("deletes in a file", "in a file", "in a deletion", "order", "state", "outside"),
        *("reaches over", "level", "links ahead"),
    ],
)
def test_overlays_that_lie(liar):
    with pytest.raises(Corrupt):
        overlay.compose([HONEST, liar], LIES.load, LIES.save)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\xc1", encode(5), encode((1, 0, 7)), encode((1, 0))),
        *(encode((1, 0, (b"b", 7))), encode((1, 0, ((b"b",),))), encode((1, 0, ((),)))),
        encode((1, 0, (entry(b"b")._replace(mode=-1, link=b"first"),))),
        encode((1, 0, (entry(b"b", link=b"first"), entry(b"a", link=b"first")))),
    ],
)
def test_leaves_that_lie_where_a_group_is_searched_for(data):
    stored, root, _ = large()
    nodes = Nodes(stored)
    layer = manifest.build([TOP, entry(b".wh.first")], nodes.save)
    inner = manifest.read_node(root, nodes[root.digest])
    while inner.level > 1:
        middle = inner.records[len(inner.records) // 2]
        inner = manifest.read_node(middle, nodes[middle.digest])
    nodes[inner.records[1].digest] = data
    with pytest.raises(Corrupt):
        overlay.compose([root, layer], nodes.load, nodes.save)


def chain(ref: NodeRef, length: int) -> NodeRef:
    """Nodes that all say to be of level 1, each the only child of the one before."""
    for _ in range(length):
        ref = node_of(1, ref)
    return ref


def forged(ref: NodeRef, way: list[int], liar: NodeRef) -> NodeRef:
    """A tree with a node of it replaced, and all references above made to fit."""
    if not way:
        return liar
    nodes, _, _ = large()
    node = manifest.read_node(ref, nodes[ref.digest])
    records = list(node.records)
    records[way[0]] = forged(records[way[0]], way[1:], liar)
    return node_of(node.level, *records)


@pytest.mark.parametrize(
    "liar",
    [
        lambda first: node_of(0, entry(first), entry(b"zz", link=b"first")),
        lambda first: node_of(1, node_of(0, entry(first, link=b"first"))),
        lambda first: chain(node_of(0, entry(first)), 3000),
    ],
    ids=["reaches over", "level", "deep"],
)
@pytest.mark.parametrize("leaf", [1, -1], ids=["in the middle", "last of its node"])
def test_nodes_that_lie_where_a_group_is_searched_for(liar, leaf):
    stored, root, levels = large()
    assert levels == 3
    first = manifest.read_node(root, stored[root.digest]).records[0]
    way = [0, len(manifest.read_node(first, stored[first.digest]).records) - 1 if leaf < 0 else 1]
    replaced = manifest.read_node(first, stored[first.digest]).records[leaf]
    base = forged(root, way, liar(replaced.first))
    nodes = Nodes(stored, LIES)
    layer = manifest.build([TOP, entry(b".wh.first")], nodes.save)
    with pytest.raises(Corrupt, match="level|next node"):
        overlay.compose([base, layer], nodes.load, nodes.save)
