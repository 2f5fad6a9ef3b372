"""Looking up paths in a manifest, many of them, in path order as a rule.

The decoded nodes on the way to the last path are kept, so that the paths of one leaf cost one
decoding together. Memory is a node per level.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from chunkstore.errors import NotFound
from chunkstore.objects.entry import Entry
from chunkstore.objects.manifest import Load, Node, NodeRef, read_node
from chunkstore.objects.names import printable, sort_key


class _Step(NamedTuple):
    """A node on the way: what it was read as, and the sort keys of its records."""

    ref: NodeRef
    upper: bytes | None
    node: Node
    keys: list[bytes]


class Lookup:
    """The entries of the manifest `root` by path."""

    def __init__(self, root: NodeRef, load: Load) -> None:
        self._root = root
        self._load = load
        self._way: list[_Step] = []

    def find(self, path: bytes) -> Entry:
        """The entry of a path. Raises `NotFound`, `Corrupt`, and what loading a node raises."""
        key = sort_key(path)
        ref, upper, level = self._root, None, None
        depth = 0
        while True:
            step = self._step(depth, ref, upper, level)
            position = bisect_right(step.keys, key) - 1
            if position < 0:
                break
            record = step.node.records[position]
            if not step.node.level:
                if record.path == path:
                    found: Entry = record
                    return found
                break
            upper = step.keys[position + 1] if position + 1 < len(step.keys) else upper
            ref, level = record, step.node.level - 1
            depth += 1
        raise NotFound(f"no such path in the image: {printable(path)}", name=printable(path))

    def _step(self, depth: int, ref: NodeRef, upper: bytes | None, level: int | None) -> _Step:
        if depth < len(self._way):
            step = self._way[depth]
            if step.ref == ref and step.upper == upper:
                return step
            del self._way[depth:]
        node = read_node(ref, self._load(ref.digest), level=level, upper=upper)
        step = _Step(ref, upper, node, [sort_key(record[0]) for record in node.records])
        self._way.append(step)
        return step
