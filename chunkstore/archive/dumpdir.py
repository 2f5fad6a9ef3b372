"""Deletions as GNU tar's incremental archives tell them: what a directory holds, and no more.

A directory's member carries the names of all that lies right in it, and `tar --incremental -x`
removes what is there and not among them, or is a directory where it should be none, or none where
it should be one. In POSIX archives the list is the PAX record `GNU.dumpdir`: a letter and a name,
NUL after each, in the order of their bytes (GNU tar looks names up by halving), and a NUL at the
end. The letters: `Y` a file that is in the archive too, `N` one that is not, `D` a directory.

Only a directory in which something has to go gets a list, since all that a machine has in a listed
directory beside it is removed. Readers that know nothing of lists find a directory like any other.

Promises: pure. Memory is the names that change in the directories on the way to the current path,
and the lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from chunkstore.archive.selection import Removal, Revisit, Step
from chunkstore.objects.entry import DIRECTORY, Entry
from chunkstore.objects.names import STATE_DIR, is_below

_DIRECTORY: Final = b"D"
_IN_ARCHIVE: Final = b"Y"
_NOT_IN_ARCHIVE: Final = b"N"


class _Folder:
    """A directory on the way to the current path."""

    __slots__ = ("loses", "members", "path")

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.members: set[bytes] = set()
        self.loses = False


def listings(
    steps: Iterable[Step], children: Callable[[bytes], Iterable[Entry]]
) -> dict[bytes, bytes]:
    """The lists that the directories among `steps` have to carry, by path.

    `children` gives what lies right in a directory of the new version.
    """
    found: dict[bytes, bytes] = {}
    way: list[_Folder] = []

    def leave(path: bytes | None) -> None:
        while way and (path is None or not is_below(path, way[-1].path)):
            left = way.pop()
            if left.loses:
                found[left.path] = _listing(left, children(left.path))

    for step in steps:
        if isinstance(step, Revisit):
            continue
        leave(step.path)
        if isinstance(step, Removal):
            # What tar can replace by itself is no reason to remove all that is unknown here.
            way[-1].loses |= not step.same_kind
            continue
        if way:
            way[-1].members.add(step.path)
        if step.kind == DIRECTORY:
            way.append(_Folder(step.path))
    leave(None)
    return found


def _listing(folder: _Folder, children: Iterable[Entry]) -> bytes:
    lines = {name: letter for letter, name in _lines(folder, children)}
    if not folder.path:
        # A node's own directory is in no image, and not to be lost for that.
        lines[STATE_DIR] = _DIRECTORY
    return b"".join(lines[name] + name + b"\0" for name in sorted(lines)) + b"\0"


def _lines(folder: _Folder, children: Iterable[Entry]) -> Iterator[tuple[bytes, bytes]]:
    for entry in children:
        letter = _IN_ARCHIVE if entry.path in folder.members else _NOT_IN_ARCHIVE
        yield _DIRECTORY if entry.kind == DIRECTORY else letter, entry.path.rpartition(b"/")[2]
