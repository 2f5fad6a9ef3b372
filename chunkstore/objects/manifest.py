"""The manifest: all entries of a version, as a search tree whose shape only its content decides.

Specified in `docs/format.md`, section "Manifest". Entries in path order are cut into leaves after
paths that a checksum picks; the leaves' references are cut the same way into inner nodes, until
one node is left. Where a node ends depends only on its own records, so the same entries give the
same tree however they came about, and a change rewrites one node per level. The idea is the
"prolly tree" of the Noms database, and before it the rolling cuts of rsyncable archives.

Promises: nodes read here are in order, whole and agree with what refers to them, or `Corrupt` is
raised. Memory is a few nodes per level. `load` and `save` are the caller's: nodes are stored as
chunks. Comparing two manifests is `delta`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgpack

from chunkstore.errors import Corrupt, NotFound, Unsupported
from chunkstore.objects import entry as entries
from chunkstore.objects.digest import SIZE
from chunkstore.objects.entry import Entry
from chunkstore.objects.names import check_path, is_below, printable, sort_key
from chunkstore.objects.record import decode, encode, whole

FORMAT: Final = 1
MAX_LEVEL: Final = 7
MIN_NODE: Final = 4 * 1024
MAX_NODE: Final = 48 * 1024
CUT_MASK: Final = 0x3F
CUT_BITS: Final = 6
CUT_LEVELS: Final = 5
"""Each level looks at other bits of the checksum, as far as they go. A node begins right behind a
path whose bits were zero below, and a CRC is linear: of names that count up, the next one's bits
follow from that, so that the same bits would cut an inner level everywhere or nowhere."""
MAX_NODE_BYTES: Final = MAX_NODE + entries.MAX_ENTRY + 64
"""A node ends once its records reach `MAX_NODE`, so at most one entry more, and the header."""

Load = Callable[[bytes], bytes]
Save = Callable[[bytes], bytes]


class NodeRef(NamedTuple):
    """A node by the path it begins with, its digest and bytes, and the entries and data below."""

    first: bytes
    digest: bytes
    length: int
    entries: int
    size: int


class Node(NamedTuple):
    """A decoded node: entries at level 0, references to nodes of the level below otherwise."""

    level: int
    records: tuple[Any, ...]


def read_node(
    ref: NodeRef, data: bytes, *, level: int | None = None, upper: bytes | None = None
) -> Node:
    """Decode the node that `ref` names from bytes whose digest was checked. Raises `Corrupt`.

    Whoever comes from a parent gives the `level` the node must have, and as `upper` the sort key
    of what follows the node: without these two, a tree could be deeper than its levels or hold
    paths out of order, or twice, in nodes that are each in order.
    """
    where = f"manifest node {ref.digest.hex()}"
    if len(data) != ref.length:
        raise Corrupt(f"{where}: {len(data)} bytes, not {ref.length}", where=where)
    match decode(data, where):
        case (int(version), *_) if whole(version) and version != FORMAT:
            raise Unsupported(f"{where}: format version {version}", where=where)
        case (int(version), int(found), tuple(raw)) if raw and whole(version, found):
            pass
        case _:
            raise Corrupt(f"{where}: is not a manifest node", where=where)
    if not 0 <= found <= MAX_LEVEL or level not in (None, found):
        raise Corrupt(f"{where}: level {found} is not what it must be", where=where)
    if found:
        records: list[Any] = [check_ref(item, where) for item in raw]
        count, size = sum(item.entries for item in records), sum(item.size for item in records)
    else:
        records = [entries.check(item, where) for item in raw]
        count, size = len(records), sum(item.size for item in records)
    keys = [sort_key(item[0]) for item in records]
    if any(after <= before for before, after in pairwise(keys)):
        raise Corrupt(f"{where}: paths are not in order", where=where)
    if upper is not None and keys[-1] >= upper:
        raise Corrupt(f"{where}: holds paths that belong to the next node", where=where)
    if (records[0][0], count, size) != (ref.first, ref.entries, ref.size):
        raise Corrupt(f"{where}: does not hold what its reference says", where=where)
    return Node(found, tuple(records))


def check_ref(item: Any, where: str) -> NodeRef:
    """Make a reference to a node of a decoded record. Raises `Corrupt` naming `where`."""
    match item:
        case (bytes(first), bytes(digest), int(length), int(count), int(size)):
            check_path(first)
            whole_numbers = whole(length, count, size) and count > 0 and size >= 0
            if len(digest) == SIZE and whole_numbers and 0 < length <= MAX_NODE_BYTES:
                return NodeRef(first, digest, length, count, size)
    raise Corrupt(f"{where}: bad reference to a node", where=where)


def _ends_node(path: bytes, level: int) -> bool:
    """Whether a node of `level`, if it is long enough, ends with the record of `path`."""
    return crc32(path) >> CUT_BITS * (level % CUT_LEVELS) & CUT_MASK == 0


class _Level:
    """The node being filled at one level."""

    __slots__ = ("bytes", "count", "first", "parts", "size")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.parts: list[bytes] = []
        self.first = b""
        self.bytes = self.count = self.size = 0


class Builder:
    """Writes a manifest from records in path order; whole known subtrees can be passed through."""

    def __init__(self, save: Save) -> None:
        self._save = save
        self._levels = [_Level()]
        self._packer = msgpack.Packer(autoreset=False)

    def add(self, entry: Entry) -> None:
        """Append an entry; its path must come after all before it."""
        encoded = encode(entry)
        if len(encoded) > entries.MAX_ENTRY:
            raise Corrupt(f"{printable(entry.path)}: more metadata than a manifest can hold")
        self._append(0, entry.path, encoded, 1, entry.size)

    def add_subtree(self, level: int, ref: NodeRef) -> None:
        """Append a stored node of `level` whole; only where `at_boundary(level)`."""
        self._append(level + 1, ref.first, encode(ref), ref.entries, ref.size)

    def at_boundary(self, level: int) -> bool:
        """Whether a node of `level` would begin here, with none below it half filled."""
        return not any(state.parts for state in self._levels[: level + 1])

    def _append(self, level: int, path: bytes, encoded: bytes, count: int, size: int) -> None:
        while level >= len(self._levels):
            self._levels.append(_Level())
        state = self._levels[level]
        if not state.parts:
            state.first = path
        state.parts.append(encoded)
        state.bytes += len(encoded)
        state.count += count
        state.size += size
        if state.bytes >= MIN_NODE and (state.bytes >= MAX_NODE or _ends_node(path, level)):
            self._close(level)

    def _close(self, level: int) -> None:
        if level > MAX_LEVEL:
            raise Corrupt("more entries than a manifest can hold")
        state = self._levels[level]
        packer = self._packer
        packer.reset()
        packer.pack_array_header(3)
        packer.pack(FORMAT)
        packer.pack(level)
        packer.pack_array_header(len(state.parts))
        data = packer.bytes() + b"".join(state.parts)
        ref = NodeRef(state.first, self._save(data), len(data), state.count, state.size)
        state.clear()
        self._append(level + 1, ref.first, encode(ref), ref.entries, ref.size)

    def finish(self) -> NodeRef:
        """Write what is still open and return the root."""
        level = 0
        while level < len(self._levels):
            state = self._levels[level]
            if level == len(self._levels) - 1 and level and len(state.parts) == 1:
                return NodeRef(*decode(state.parts[0], "root"))
            if state.parts:
                self._close(level)
            level += 1
        raise Corrupt("a manifest without entries")


def build(items: Iterable[Entry], save: Save) -> NodeRef:
    """Write a manifest of entries in path order."""
    builder = Builder(save)
    for item in items:
        builder.add(item)
    return builder.finish()


Change = tuple[bytes, Entry | None]
"""A path and what it becomes. `None`, or anything but a directory, takes all below it away; so does
a directory that follows a `None` of the same path."""


def edit(
    root: NodeRef,
    changes: Iterable[Change],
    load: Load,
    save: Save,
    *,
    taken: Callable[[Entry], None] = lambda _: None,
) -> NodeRef:
    """The manifest `root` with `changes`, in path order; reads and writes only what they touch.

    The result is the tree that `build` would make of the changed entries. `taken` is told of each
    old entry that goes away or that a change names, in path order.
    """
    return _Editor(changes, load, Builder(save), taken).run(root)


class _Editor:
    """One pass over an old tree and a stream of changes."""

    def __init__(
        self,
        changes: Iterable[Change],
        load: Load,
        builder: Builder,
        taken: Callable[[Entry], None],
    ) -> None:
        self._changes = iter(changes)
        self._load = load
        self._builder = builder
        self._taken = taken
        self._next: Change | None = None
        self._key: bytes | None = None
        self._gone: bytes | None = None
        self._step()

    def _step(self) -> None:
        self._next = next(self._changes, None)
        self._key = None if self._next is None else sort_key(self._next[0])

    def run(self, root: NodeRef) -> NodeRef:
        if self._next is None:
            return root
        self._feed(read_node(root, self._load(root.digest)), None)
        self._take_before(None)
        return self._builder.finish()

    def _feed(self, node: Node, upper: bytes | None) -> None:
        """Pass on what a node holds; all its keys lie below `upper`."""
        if node.level == 0:
            for item in node.records:
                self._take_entry(item)
            return
        level = node.level - 1
        records = node.records
        last = len(records) - 1
        for position, child in enumerate(records):
            bound = upper if position == last else sort_key(records[position + 1].first)
            if not self._touched(child, bound) and self._builder.at_boundary(level):
                self._builder.add_subtree(level, child)
            else:
                data = self._load(child.digest)
                self._feed(read_node(child, data, level=level, upper=bound), bound)

    def _touched(self, ref: NodeRef, upper: bytes | None) -> bool:
        if self._key is not None and (upper is None or self._key < upper):
            return True
        return self._gone is not None and is_below(ref.first, self._gone)

    def _take_entry(self, item: Entry) -> None:
        key = sort_key(item.path)
        self._take_before(key)
        if self._key == key:
            self._taken(item)
            self._apply()
        elif self._gone is None or not is_below(item.path, self._gone):
            self._gone = None
            self._builder.add(item)
        else:
            self._taken(item)

    def _take_before(self, key: bytes | None) -> None:
        while self._key is not None and (key is None or self._key < key):
            self._apply()

    def _apply(self) -> None:
        assert self._next is not None
        path, new = self._next
        if new is not None:
            self._builder.add(new)
        # A directory made anew where something was taken away gets back nothing of what was in it.
        if self._gone is None or not (path == self._gone or is_below(path, self._gone)):
            is_directory = new is not None and new.kind == entries.DIRECTORY
            self._gone = None if is_directory or not path else path
        self._step()


def walk(root: NodeRef, load: Load, below: bytes = b"") -> Iterator[Entry]:
    """Entries in path order; with `below`, that path and all it holds. Raises `NotFound`.

    Also raises `Corrupt` for an entry that lies in something other than a directory.
    """
    found = False
    around: list[bytes] = []
    for item in _walk(root, load, sort_key(below), None, None):
        if item.path == below:
            found = True
        elif not found or not is_below(item.path, below):
            break
        else:
            parent = item.path.rpartition(b"/")[0]
            while around and around[-1] != parent:
                around.pop()
            if not around:
                raise Corrupt(f"{printable(item.path)}: what holds it is not a directory")
        if item.kind == entries.DIRECTORY:
            around.append(item.path)
        yield item
    if not found:
        raise NotFound(f"no such path in the image: {printable(below)}", name=printable(below))


def _walk(
    ref: NodeRef, load: Load, start: bytes, level: int | None, upper: bytes | None
) -> Iterator[Entry]:
    node = read_node(ref, load(ref.digest), level=level, upper=upper)
    if node.level == 0:
        yield from (item for item in node.records if sort_key(item.path) >= start)
        return
    records = node.records
    last = len(records) - 1
    for position, child in enumerate(records):
        bound = upper if position == last else sort_key(records[position + 1].first)
        if position < last and bound is not None and bound <= start:
            continue
        yield from _walk(child, load, start, node.level - 1, bound)


def has_below(root: NodeRef, path: bytes, load: Load) -> bool:
    """Whether anything lies below a path, which need not be there itself."""
    start = sort_key(path) + b"\0"
    first = next(_walk(root, load, start, None, None), None)
    return first is not None and is_below(first.path, path)


def find(root: NodeRef, path: bytes, load: Load) -> Entry:
    """The entry of one path, by one node per level. Raises `NotFound`."""
    return next(walk(root, load, path))
