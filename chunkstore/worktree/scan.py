"""Scanning a worktree: which of its paths may have changed since the last scan.

Every path is looked at (`lstat`), none is opened. A path counts as unchanged only if its mode,
inode, size, mtime and ctime are those of the last scan and its ctime was then clearly past: a file
can be written twice within one tick of the clock, and the second time would not show. Directories
are reached by descriptor, symbolic links never followed, other file systems not entered.

Promises: what it yields comes in entry order and is all that may differ; memory does not grow with
the tree, except for hardlinked files. Leaves reading to `capture`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from typing import Final, NamedTuple

from chunkstore.fsio import Directory
from chunkstore.objects.names import MAX_PATH, STATE_DIR
from chunkstore.worktree.cache import Listing, WorktreeCache
from chunkstore.worktree.patterns import Patterns

_FIELDS: Final = 5
_numbers = attrgetter("st_mode", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
"""What of a status tells whether a path has changed."""
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


@dataclass
class ScanReport:
    """What a scan met. `warnings` and `errors` are (path, reason)."""

    paths: int = 0
    size: int = 0
    warnings: list[tuple[bytes, str]] = field(default_factory=list)
    errors: list[tuple[bytes, str]] = field(default_factory=list)


class _Visit:
    """A directory on the way: its listing, and the names still to be looked at."""

    __slots__ = ("changed", "path", "rest", "statuses")

    def __init__(
        self,
        path: bytes,
        rest: Iterator[bytes],
        statuses: dict[bytes, os.stat_result],
        changed: set[bytes],
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
        listing = ([b"."], list(_numbers(status)))
        self.report.paths = 1
        if self._cache.take(b"") == listing:
            self._cache.keep(b"")
        else:
            self._cache.replace(b"", *self._settle(listing))
            yield Found(b"", status, self._tree.descriptor, b".", b"")
        stack: list[_Visit] = []
        self._push(stack, b"")
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
            yield from self._look(visit, name, path, status_)
            if stat.S_ISDIR(status_.st_mode):
                self._descend(stack, path, status_)

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

    def _descend(self, stack: list[_Visit], path: bytes, status: os.stat_result) -> None:
        # A descriptor for each level of a deep tree could be more than a process may have.
        self._leave()
        if status.st_dev != self._device:
            self.report.warnings.append((path, "mount point: what is mounted there is left out"))
            # What the last scan saw there is hidden now, and as good as gone.
            hidden, _ = self._cache.take(path) or ([], [])
            stack.append(_Visit(path, iter(hidden), {}, set()))
            return
        self._push(stack, path)

    def _leave(self) -> None:
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def _push(self, stack: list[_Visit], path: bytes) -> None:
        """Open and list a directory, compare it with the cache, and note what is to be visited."""
        try:
            self._folder = self._tree.open_directory(path)
            listing, statuses = self._list(path, self._folder)
        except OSError as error:
            self.report.errors.append((path, error.strerror or str(error)))
            self._leave()
            return
        names, numbers = listing
        self.report.paths += len(names)
        self.report.size += sum(numbers[2::_FIELDS])
        old = self._cache.take(path)
        if old == listing:
            self._cache.keep(path)
            stack.append(_Visit(path, iter(self._special(path, statuses)), statuses, set()))
            return
        changed, gone = _compare(old, names, numbers)
        self._cache.replace(path, *self._settle(listing))
        order = sorted([*names, *gone]) if gone else names
        stack.append(_Visit(path, iter(order), statuses, changed))

    def _list(self, path: bytes, folder: int) -> tuple[Listing, dict[bytes, os.stat_result]]:
        """What lies in an open directory, but for what is left out."""
        # This runs once per path of the tree, so it is written for speed.
        names = sorted(map(os.fsencode, os.listdir(folder)))
        if not path and STATE_DIR in names:
            names.remove(STATE_DIR)
        try:
            statuses = {name: os.stat(name, dir_fd=folder, follow_symlinks=False) for name in names}
        except FileNotFoundError:
            statuses = _present(names, folder)
        if self._excludes:
            excluded = [name for name in statuses if self._is_excluded(path, name, statuses[name])]
            for name in excluded:
                del statuses[name]
        if len(path) + 256 > MAX_PATH:
            self._leave_out_long(path, statuses)
        numbers = list(chain.from_iterable(map(_numbers, statuses.values())))
        return (list(statuses), numbers), statuses

    def _leave_out_long(self, path: bytes, statuses: dict[bytes, os.stat_result]) -> None:
        for name in list(statuses):
            if len(path) + len(name) >= MAX_PATH:
                self.report.errors.append((path + b"/" + name, "path is longer than 4095 bytes"))
                del statuses[name]

    def _special(self, path: bytes, statuses: dict[bytes, os.stat_result]) -> list[bytes]:
        """The names to be visited in a directory that is as it was."""
        chosen = [
            name
            for name, status in statuses.items()
            if status.st_nlink > 1 or stat.S_ISDIR(status.st_mode)
        ]
        return self._with_links(path, list(statuses), chosen) if self._cache.links else chosen

    def _with_links(self, path: bytes, names: list[bytes], special: list[bytes]) -> list[bytes]:
        """Add the names that were hardlinked at the last scan, and may stand alone now."""
        prefix = path + b"/" if path else b""
        links = self._cache.links
        chosen = set(special)
        return [name for name in names if name in chosen or prefix + name in links]

    def _is_excluded(self, path: bytes, name: bytes, status: os.stat_result) -> bool:
        whole = path + b"/" + name if path else name
        return self._excludes.match(whole, is_directory=stat.S_ISDIR(status.st_mode))

    def _settle(self, listing: Listing) -> Listing:
        """The listing as it may be believed at the next scan: too young statuses left blank."""
        names, numbers = listing
        if max(numbers[4::_FIELDS], default=0) < self._settled:
            return listing
        settled = list(numbers)
        for start in range(0, len(numbers), _FIELDS):
            if numbers[start + 4] >= self._settled:
                settled[start : start + _FIELDS] = [0] * _FIELDS
        return names, settled


def _present(names: list[bytes], folder: int) -> dict[bytes, os.stat_result]:
    """The statuses of those that have not been removed since they were listed."""
    found = {}
    for name in names:
        with suppress(FileNotFoundError):
            found[name] = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return found


def _compare(
    old: Listing | None, names: list[bytes], numbers: list[int]
) -> tuple[set[bytes], list[bytes]]:
    """The names that are new or differ, and the names that are gone."""
    if old is None:
        return set(names), []
    old_names, old_numbers = old
    before = {
        name: old_numbers[position * _FIELDS : (position + 1) * _FIELDS]
        for position, name in enumerate(old_names)
    }
    changed = {
        name
        for position, name in enumerate(names)
        if before.pop(name, None) != numbers[position * _FIELDS : (position + 1) * _FIELDS]
    }
    return changed, list(before)
