"""Hardlink groups of a plan: under which path each file that is made anew can be linked.

Promises: a member is linked to a file that holds, or will hold, what the image says; where the
group's first path can't be that, because it is excluded, lies on another file system or was changed
here, the next member takes its part. On each file system a group has a first path of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from chunkstore.errors import Corrupt, NotFound
from chunkstore.objects.entry import Entry
from chunkstore.objects.names import printable
from chunkstore.worktree.baseline import Witness, holds
from chunkstore.worktree.folders import Folders
from chunkstore.worktree.mounts import Mounts
from chunkstore.worktree.patterns import Patterns


class Groups:
    """The groups of one plan. `find` gives the new entry of a path, or raises `NotFound`."""

    def __init__(
        self,
        find: Callable[[bytes], Entry],
        witness: Witness,
        mounts: Mounts,
        excludes: Patterns,
        folders: Folders,
    ) -> None:
        self._find = find
        self._witness = witness
        self._mounts = mounts
        self._excludes = excludes
        self._folders = folders
        self._leaders: dict[tuple[bytes, bytes], bytes] = {}
        self._made: set[bytes] = set()

    def is_made(self, path: bytes) -> bool:
        """Whether what stands at the path is to be made anew."""
        return path in self._made

    def settle(self, entry: Entry) -> Entry:
        """Take an entry that is made anew; returns it with a first path that can be linked to.

        That is none when it has to lead itself. Raises `Corrupt`.
        """
        self._made.add(entry.path)
        if not entry.link:
            return entry
        group = entry.link, self._mounts.of(entry.path)
        leader = self._leaders.get(group)
        if leader is None:
            self._check(entry)
            leader = entry.link if self._can_lead(entry) else entry.path
            self._leaders[group] = leader
        return entry._replace(link=b"" if leader == entry.path else leader)

    def _check(self, entry: Entry) -> None:
        """Make sure that the image has an honest first path for the group. Raises `Corrupt`."""
        where = printable(entry.path)
        try:
            first = self._find(entry.link)
        except NotFound as error:
            raise Corrupt(f"{where}: the file it is linked to is missing", where=where) from error
        if first.kind != entry.kind or first.link:
            raise Corrupt(f"{where}: is linked to something of another kind", where=where)

    def _can_lead(self, entry: Entry) -> bool:
        """Whether the first path of the entry's group will hold what the entry holds."""
        if self._mounts.of(entry.link) != self._mounts.of(entry.path):
            return False
        if self._mounts.is_left_alone(entry.link):
            return False
        if entry.link in self._made:
            return True
        if self._excludes.covers(entry.link, is_directory=False):
            return False
        status = self._folders.lstat(entry.link)
        if status is None:
            return False
        folder, name = self._folders.of(entry.link)
        # Not by the baseline: that vouches for what the old version had there.
        return holds(folder, name, status, entry, self._witness.load)
