"""What a differential archive holds: the members, and what has to go before them.

Works on the stream of `delta.diff` and keeps its order. Members are the entries that are new or
differ in anything, whole, and every directory on the way to a change, so that its time comes out
right. A further name of an unchanged file is a hardlink member whose target is in the base.

GNU tar and Python set the time of a directory once it is full. libarchive and busybox set it at
once when the directory exists, and then put files into it. So a directory of the base in which
something changes comes a second time after what it holds, as `Revisit`.

Removals are what unpacking over the base would not do by itself:

- what is not in the new version; of a directory only itself, not what was in it;
- what changes its kind, such as a directory that became a symlink;
- further names of an inode, before or after the change, and devices and fifos: a reader that
  writes into what is there (Python's tarfile does) would write through the shared inode, and one
  that creates without removing would fail.

So whatever is still there when a member is unpacked is of the same kind and goes by no other
name. GNU tar, libarchive and busybox remove what is in the way of a file themselves; the third
point is for the others.

Promises: pure; memory is the depth of the tree. How removals are recorded is a matter of `sidecar`,
`dumpdir` or `whiteout`, as the caller likes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from chunkstore.objects.delta import Difference
from chunkstore.objects.entry import DIRECTORY, FILE, SYMLINK, Entry
from chunkstore.objects.names import is_below


class Removal(NamedTuple):
    """A path that has to go.

    `returns` if a member follows that takes its place; `same_kind` if that is of the same kind, so
    that only a reader which writes into what is there needs it gone.
    """

    path: bytes
    returns: bool
    same_kind: bool


class Revisit(NamedTuple):
    """A member once more: a directory of the base, after the members in it."""

    entry: Entry


Step = Entry | Revisit | Removal


def select(
    differences: Iterable[Difference],
    directory: Callable[[bytes], Entry],
    lost: Counter[str] | None = None,
) -> Iterator[Step]:
    """Yield members and removals in path order, a removal before the member it makes room for.

    `directory` looks up a directory of the new version. `lost` counts, by kind, changes that no
    member can make.
    """
    way: list[_Directory] = []
    gone: bytes | None = None
    for old, new in differences:
        entry = new or old
        assert entry is not None
        path = entry.path
        if gone is not None and is_below(path, gone):
            continue
        yield from _leave(way, path)
        for parent in _parents(path)[len(way) :]:
            way.append(_Directory(directory(parent), in_base=True))
            yield way[-1].entry
        stays = old is not None and new is not None and old.kind == new.kind == DIRECTORY
        if way and not stays:
            way[-1].is_changed = True
        if old is not None and (new is None or _is_in_the_way(old, new)):
            yield Removal(path, new is not None, new is not None and old.kind == new.kind)
            gone = path
        if new is not None:
            yield new
            if new.kind == DIRECTORY:
                way.append(_Directory(new, in_base=stays))
                if lost is not None and old is not None and stays and _loses_xattrs(old, new):
                    lost["extended attributes taken from a directory"] += 1
                gone = None
    yield from _leave(way, None)


class _Directory:
    """A directory on the way to the current path."""

    __slots__ = ("entry", "in_base", "is_changed")

    def __init__(self, entry: Entry, *, in_base: bool) -> None:
        self.entry = entry
        self.in_base = in_base
        self.is_changed = False


def _leave(way: list[_Directory], path: bytes | None) -> Iterator[Revisit]:
    """Take the directories off the way that `path` is not below."""
    while way and (path is None or not is_below(path, way[-1].entry.path)):
        left = way.pop()
        if left.in_base and left.is_changed:
            yield Revisit(left.entry)


def _parents(path: bytes) -> list[bytes]:
    """The directories that `path` lies in, from the root down."""
    if not path:
        return []
    slashes = [position for position, byte in enumerate(path) if byte == ord("/")]
    return [b"", *(path[:position] for position in slashes)]


def _is_in_the_way(old: Entry, new: Entry) -> bool:
    if old.kind != new.kind:
        return True
    if old.kind == DIRECTORY:
        return False
    return bool(old.link or new.link) or old.kind not in (FILE, SYMLINK)


def _loses_xattrs(old: Entry, new: Entry) -> bool:
    """Whether an attribute would have to go from a directory that stays: readers only add."""
    return not {name for name, _ in old.xattrs} <= {name for name, _ in new.xattrs}
