"""Deltas: what turns one manifest into another, found by reading only where they differ.

Two trees are walked side by side; wherever both stand before the same node it is skipped whole,
so the cost follows the change and not the size of the images. Reads no file content.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chunkstore.objects.entry import Entry
from chunkstore.objects.manifest import Load, NodeRef, read_node
from chunkstore.objects.names import sort_key

Difference = tuple[Entry | None, Entry | None]
"""(old, new) of one path; `None` where it is not there. The two are never equal."""


class _Cursor:
    """A place in a tree: a stack of nodes, the lowest last."""

    def __init__(self, root: NodeRef | None, load: Load) -> None:
        self._load = load
        # (level, records, index of the head, sort key of what follows the node)
        self._stack: list[tuple[int, tuple[Any, ...], int, bytes | None]] = []
        self.level = -1
        self.head: Any = None
        self.key = b""
        if root is not None:
            node = read_node(root, load(root.digest))
            self._stack.append((node.level, node.records, 0, None))
            self._look()

    def _look(self) -> None:
        while self._stack:
            level, records, index, _ = self._stack[-1]
            if index < len(records):
                self.level, self.head = level, records[index]
                self.key = sort_key(self.head[0])
                return
            self._stack.pop()
        self.level, self.head = -1, None

    def advance(self) -> None:
        level, records, index, upper = self._stack[-1]
        self._stack[-1] = (level, records, index + 1, upper)
        self._look()

    def descend(self) -> None:
        level, records, index, upper = self._stack[-1]
        self._stack[-1] = (level, records, index + 1, upper)
        if index + 1 < len(records):
            upper = sort_key(records[index + 1].first)
        data = self._load(self.head.digest)
        node = read_node(self.head, data, level=level - 1, upper=upper)
        self._stack.append((node.level, node.records, 0, upper))
        self._look()


def diff(old: NodeRef | None, new: NodeRef | None, load: Load) -> Iterator[Difference]:
    """Yield the differences in path order; `None` stands for a manifest without entries."""
    if old is not None and new is not None and old.digest == new.digest:
        return
    left, right = _Cursor(old, load), _Cursor(new, load)
    while left.head is not None or right.head is not None:
        if left.head == right.head:
            left.advance()
            right.advance()
        elif _should_descend(left, right):
            left.descend()
        elif _should_descend(right, left):
            right.descend()
        elif right.head is None or (left.head is not None and left.key < right.key):
            yield left.head, None
            left.advance()
        elif left.head is None or right.key < left.key:
            yield None, right.head
            right.advance()
        else:
            yield left.head, right.head
            left.advance()
            right.advance()


def _should_descend(one: _Cursor, other: _Cursor) -> bool:
    """Whether `one` stands before a node that has to be opened before `other` can go on."""
    if one.level <= 0:
        return False
    if other.head is None or one.key < other.key:
        return True
    # Beginning with the same path: the higher is opened first, so that both come to stand before
    # nodes of one level and equal ones are seen.
    return one.key == other.key and one.level >= other.level
