"""Scanning a worktree: which of its paths may have changed since the last scan.

Every path is looked at (`lstat`), none is opened. A path counts as unchanged only if its mode,
inode, size, mtime and ctime are those of the last scan and its ctime was then clearly past: a file
can be written twice within one tick of the clock, and the second time would not show. Of a
directory that is unchanged the names are those of the last scan, where `listing` says so.
Directories are reached by descriptor, symbolic links never followed, other file systems not
entered.

Promises: what it yields comes in entry order and is all that may differ; memory does not grow with
the tree, except for hardlinked files. Leaves reading to `capture`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from chunkstore.fsio import Directory
from chunkstore.objects.names import MAX_PATH, STATE_DIR
from chunkstore.worktree.cache import WorktreeCache
from chunkstore.worktree.listing import (
    Listing,
    Statuses,
    difference,
    keeps_times,
    listed,
    listing_of,
    numbers_of,
    seen_again,
    settled,
)
from chunkstore.worktree.patterns import Patterns

_RACY_NS: Final = 40_000_000
"""Kernel timestamps move in ticks of up to 10 ms; what is younger may change without showing."""


class Found(NamedTuple):
    """A path that may have changed. `folder` is its directory's descriptor, open until the next.

    `link` is the first path of its hardlink group, when this is not the first.
    """

    path: bytes
    status: os.stat_result
    folder: int
    name: bytes
    link: bytes


class Gone(NamedTuple):
    """A path that is there no more; what was below it is gone too."""

    path: bytes


class ScanReport:
    """What a scan met. `warnings` and `errors` are (path, reason)."""

    def __init__(self) -> None:
        self.paths = 0
        self.warnings: list[tuple[bytes, str]] = []
        self.errors: list[tuple[bytes, str]] = []


class _Visit:
    """A directory on the way: the names still to be looked at, and what is known of them."""

    __slots__ = ("changed", "path", "rest", "statuses")

    def __init__(
        self, path: bytes, rest: Iterator[bytes], statuses: Statuses, changed: set[bytes]
    ) -> None:
        self.path = path
        self.rest = rest
        self.statuses = statuses
        self.changed = changed


class Scan:
    """One walk over `tree`; iterate it once. `now`: when it begins, in nanoseconds.

    Afterwards `links` maps the hardlinked paths to the first path of their group.
    """

    def __init__(
        self, tree: Directory, cache: WorktreeCache, excludes: Patterns, *, now: int
    ) -> None:
        self._tree = tree
        self._cache = cache
        self._excludes = excludes
        self._settled = now - _RACY_NS
        self._keeps_times = keeps_times(tree.descriptor)
        self._folder = -1
        self._leaders: dict[tuple[int, int], bytes] = {}
        self.links: dict[bytes, bytes] = {}
        self.report = ScanReport()

    def __iter__(self) -> Iterator[Found | Gone]:
        try:
            yield from self._walk()
        finally:
            self._leave()

    def _walk(self) -> Iterator[Found | Gone]:
        status = os.stat(self._tree.descriptor)
        self._device = status.st_dev
        # The root stands in no directory's listing, so it is kept as a listing of its own.
        listing = Listing([b"."], list(numbers_of(status)), [])
        self.report.paths = 1
        is_as_it_was = self._cache.take(b"") == listing
        if is_as_it_was:
            self._cache.keep(b"")
        else:
            self._cache.replace(b"", settled(listing, self._settled))
            yield Found(b"", status, self._tree.descriptor, b".", b"")
        stack: list[_Visit] = []
        self._push(stack, b"", is_as_it_was=is_as_it_was)
        while stack:
            visit = stack[-1]
            name = next(visit.rest, None)
            if name is None:
                stack.pop()
                self._leave()
                continue
            path = visit.path + b"/" + name if visit.path else name
            status_ = visit.statuses.get(name)
            if status_ is None:
                yield Gone(path)
                continue
            is_directory = stat.S_ISDIR(status_.st_mode)
            if not is_directory or name in visit.changed:
                yield from self._look(visit, name, path, status_)
            if is_directory:
                self._descend(stack, path, status_, is_as_it_was=name not in visit.changed)

    def _look(
        self, visit: _Visit, name: bytes, path: bytes, status: os.stat_result
    ) -> Iterator[Found | Gone]:
        link = b""
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            link = self._leaders.setdefault((status.st_dev, status.st_ino), path)
            self.links[path] = link
            if self._cache.links.get(path) != link:
                visit.changed.add(name)
            if link == path:
                link = b""
        elif path in self._cache.links:
            visit.changed.add(name)
        if name not in visit.changed:
            return
        if stat.S_ISSOCK(status.st_mode):
            self.report.warnings.append((path, "socket left out: only its program can make it"))
            yield Gone(path)
            return
        if self._folder < 0:
            self._folder = self._tree.open_directory(visit.path)
        yield Found(path, status, self._folder, name, link)

    def _descend(
        self, stack: list[_Visit], path: bytes, status: os.stat_result, *, is_as_it_was: bool
    ) -> None:
        # A descriptor for each level of a deep tree could be more than a process may have.
        self._leave()
        if status.st_dev != self._device:
            self.report.warnings.append((path, "mount point: what is mounted there is left out"))
            # What the last scan saw there is hidden now, and as good as gone.
            hidden = self._cache.take(path)
            stack.append(_Visit(path, iter(hidden.names if hidden else ()), {}, set()))
            return
        self._push(stack, path, is_as_it_was=is_as_it_was)

    def _leave(self) -> None:
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def _push(self, stack: list[_Visit], path: bytes, *, is_as_it_was: bool) -> None:
        """Open and look into a directory, compare it with the cache, note what is to be visited."""
        old = self._cache.take(path)
        try:
            self._folder = self._tree.open_directory(path)
            statuses, is_same = self._look_into(path, old if is_as_it_was else None)
        except OSError as error:
            self.report.errors.append((path, error.strerror or str(error)))
            self._leave()
            return
        if old is not None and is_same:
            self.report.paths += len(old.names)
            self._cache.keep(path)
            stack.append(_Visit(path, iter(statuses), statuses, set()))
            return
        new = listing_of(statuses)
        self.report.paths += len(new.names)
        if old == new:
            self._cache.keep(path)
            special = [new.names[place] for place in new.special]
            stack.append(_Visit(path, iter(special), statuses, set()))
            return
        changed, gone = difference(old, new)
        self._cache.replace(path, settled(new, self._settled))
        order = sorted([*new.names, *gone]) if gone else new.names
        stack.append(_Visit(path, iter(order), statuses, changed))

    def _look_into(self, path: bytes, old: Listing | None) -> tuple[Statuses, bool]:
        """What lies in the open directory, but for what is left out; as `seen_again` tells it.

        `old` is its last listing, if its names are still those.
        """
        if old is not None and self._keeps_times:
            try:
                return seen_again(old, self._folder)
            except FileNotFoundError:
                pass  # something was removed since the directory was looked at
        statuses = listed(self._folder)
        if not path:
            statuses.pop(STATE_DIR, None)
        if self._excludes:
            excluded = [name for name in statuses if self._is_excluded(path, name, statuses[name])]
            for name in excluded:
                del statuses[name]
        if len(path) + 256 > MAX_PATH:
            self._leave_out_long(path, statuses)
        return statuses, False

    def _leave_out_long(self, path: bytes, statuses: Statuses) -> None:
        for name in list(statuses):
            if len(path) + len(name) >= MAX_PATH:
                self.report.errors.append((path + b"/" + name, "path is longer than 4095 bytes"))
                del statuses[name]

    def _is_excluded(self, path: bytes, name: bytes, status: os.stat_result) -> bool:
        whole = path + b"/" + name if path else name
        return self._excludes.match(whole, is_directory=stat.S_ISDIR(status.st_mode))
