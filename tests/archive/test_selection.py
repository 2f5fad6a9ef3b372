"""What goes into a differential archive, checked against a model of a file system."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from chunkstore.archive import sidecar
from chunkstore.archive.selection import Removal, Revisit, Step, select
from chunkstore.objects.delta import Difference
from chunkstore.objects.entry import DIRECTORY, FIFO, FILE, SYMLINK, Entry
from chunkstore.objects.names import sort_key

Tree = dict[bytes, Entry]
PATHS = [
    b"/".join(parts) for length in (1, 2, 3) for parts in product((b"a", b"b", b"c"), repeat=length)
]


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """A tree in the manifest's form: the first name of an inode leads, the others carry all."""
    times = st.integers(1, 2)
    wanted = draw(
        st.dictionaries(
            st.sampled_from(PATHS),
            st.tuples(
                st.sampled_from((FILE, FILE, DIRECTORY, SYMLINK, FIFO)),
                st.integers(0, 3),
                times,
                st.none() | st.integers(0, 2),
            ),
            max_size=12,
        )
    )
    tree = {b"": Entry(b"", DIRECTORY, 0o755, 0, 0, draw(times))}
    inodes: dict[tuple[int, int], Entry] = {}
    for path in sorted(wanted, key=sort_key):
        kind, content, time, group = wanted[path]
        slashes = [at for at, byte in enumerate(path) if byte == ord("/")]
        parents = [path[:at] for at in slashes]
        if any(parent in tree and tree[parent].kind != DIRECTORY for parent in parents):
            continue
        for parent in parents:
            tree.setdefault(parent, Entry(parent, DIRECTORY, 0o755, 0, 0, time))
        body = b"%d" % content if kind == SYMLINK else bytes((content,)) * 40 * (kind == FILE)
        entry = Entry(path, kind, 0o644, 0, 0, time, content * (kind == FILE), body)
        if group is not None and kind != DIRECTORY:
            first = inodes.setdefault((kind, group), entry)
            entry = first._replace(path=path, link=first.path if first.path != path else b"")
        tree[path] = entry
    return tree


def differences(old: Tree, new: Tree) -> Iterator[Difference]:
    for path in sorted({*old, *new}, key=sort_key):
        if old.get(path) != new.get(path):
            yield old.get(path), new.get(path)


@dataclass
class Inode:
    kind: int
    body: tuple[object, ...]
    time: int | None


class Disk:
    """A tree with inodes. Readers differ in how they replace files and when they set times."""

    def __init__(self, tree: Tree, *, in_place: bool) -> None:
        self.in_place = in_place
        self.names: dict[bytes, Inode] = {}
        self.late: list[tuple[Inode, int]] = []
        for entry in tree.values():
            if entry.link:
                self.names[entry.path] = self.names[entry.link]
            else:
                self.names[entry.path] = self.inode(entry)

    def inode(self, entry: Entry) -> Inode:
        return Inode(entry.kind, (entry.mode, entry.size, entry.content), entry.mtime)

    def parent(self, path: bytes) -> Inode:
        return self.names[path.rpartition(b"/")[0]]

    def remove(self, path: bytes) -> None:
        assert path in self.names
        self.parent(path).time = None
        for name in list(self.names):
            if name == path or name.startswith(path + b"/"):
                del self.names[name]

    def unpack(self, entry: Entry) -> None:
        there = self.names.get(entry.path)
        fresh = self.inode(entry)
        if entry.kind == DIRECTORY and there is not None:
            assert there.kind == DIRECTORY
            there.body, there.time = fresh.body, fresh.time
            return
        if entry.link:
            fresh = self.names[entry.link]
            if self.in_place:
                assert there is None
        elif there is not None:
            assert there.kind == entry.kind
            if self.in_place and entry.kind == FILE:
                there.body, there.time = fresh.body, fresh.time
                return
            assert not self.in_place or entry.kind == SYMLINK
        elif entry.kind == DIRECTORY:
            self.late.append((fresh, entry.mtime))
        assert self.parent(entry.path).kind == DIRECTORY
        self.parent(entry.path).time = None
        self.names[entry.path] = fresh

    def finish(self) -> None:
        for inode, time in self.late:
            inode.time = time

    def picture(self) -> dict[bytes, tuple[object, ...]]:
        first = {id(inode): path for path, inode in reversed(self.names.items())}
        return {
            path: (inode.kind, inode.body, inode.time, first[id(inode)])
            for path, inode in sorted(self.names.items())
        }


def steps(old: Tree, new: Tree) -> list[Step]:
    return list(select(differences(old, new), new.__getitem__))


@settings(max_examples=600, deadline=None)
@given(trees(), trees(), st.booleans())
def test_the_new_tree_results(old: Tree, new: Tree, in_place: bool) -> None:
    disk = Disk(old, in_place=in_place)
    found = steps(old, new)
    removals = [step.path for step in found if isinstance(step, Removal)]
    for path in sidecar.encode(removals).split(b"\0")[:-1]:
        disk.remove(path)
    for step in found:
        if isinstance(step, Revisit):
            disk.unpack(step.entry)
        elif isinstance(step, Entry):
            disk.unpack(step)
    disk.finish()
    wanted = Disk(new, in_place=in_place)
    disk.names = dict(sorted(disk.names.items(), key=lambda item: sort_key(item[0])))
    assert disk.picture() == wanted.picture()


@settings(max_examples=300, deadline=None)
@given(trees(), trees())
def test_order_and_economy(old: Tree, new: Tree) -> None:
    found = steps(old, new)
    members = [step for step in found if isinstance(step, Entry)]
    paths = [sort_key(entry.path) for entry in members]
    assert paths == sorted(set(paths))
    changed = {path for path in {*old, *new} if old.get(path) != new.get(path)}
    for entry in members:
        assert entry == new[entry.path]
        above = entry.path.rpartition(b"/")[0]
        assert not entry.path or any(member.path == above for member in members)
        if entry.path not in changed:
            assert entry.kind == DIRECTORY
            assert any(path.startswith(entry.path + b"/") or not entry.path for path in changed)
    removals = [step for step in found if isinstance(step, Removal)]
    for removal in removals:
        assert removal.returns == (removal.path in new)
        assert not any(removal.path.startswith(other.path + b"/") for other in removals)
    for removal in removals:
        if removal.returns:
            at = found.index(removal)
            assert found[at + 1] == new[removal.path]
    if old == new:
        assert not found


def test_it_streams() -> None:
    """The first member comes before the last difference has been looked at."""

    def endless() -> Iterator[Difference]:
        yield None, Entry(b"", DIRECTORY, 0o755, 0, 0, 0)
        number = 0
        while True:
            yield None, Entry(b"%020d" % number, FIFO, 0o644, 0, 0, 0)
            number += 1

    nothing: Tree = {}
    found = select(endless(), nothing.__getitem__)
    assert [next(found) for _ in range(1000)][999] == Entry(b"%020d" % 998, FIFO, 0o644, 0, 0, 0)


def test_sidecar_is_deepest_first() -> None:
    paths = [b"a", b"a/b/c", b"-rf", b"a b/*", b"n\nl", b"a-b/c"]
    assert sidecar.encode(paths).split(b"\0") == [
        b"a/b/c",
        b"a b/*",
        b"a-b/c",
        b"-rf",
        b"a",
        b"n\nl",
        b"",
    ]
    assert sidecar.encode([]) == b""
