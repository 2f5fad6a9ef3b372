"""Surveying: a whole tree held against the version it should be.

One pass over the manifest and the directories it names. What differs comes with its letter as in a
diff, in path order; what the image does not know is gathered beside it. With a baseline a path
whose status is as it was noted counts as right without being opened; without one every byte is
read. Excluded paths, and mounts that are not ours, are passed over.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final

from chunkstore import fsio
from chunkstore.fsio import Directory
from chunkstore.objects.entry import DIRECTORY, Entry
from chunkstore.objects.manifest import Load
from chunkstore.objects.names import STATE_DIR, is_below
from chunkstore.worktree.baseline import Baseline
from chunkstore.worktree.compare import drift
from chunkstore.worktree.mounts import Mounts
from chunkstore.worktree.patterns import Patterns

_ANEW: Final = ("M", "T", "D")
"""Letters of what has to be made anew; it will be another file for those that are linked to it."""


class Survey:
    """One pass; iterate it once, then look at `unknown`.

    `unknown` holds paths the image does not have, of a directory only itself. `checked` is told of
    each entry that was looked at.
    """

    def __init__(
        self,
        tree: Directory,
        entries: Iterable[Entry],
        load: Load,
        *,
        excludes: Patterns,
        mounts: Mounts,
        baseline: Baseline | None = None,
        checked: Callable[[Entry], None] = lambda _: None,
    ) -> None:
        self._tree = tree
        self._entries = entries
        self._load = load
        self._excludes = excludes
        self._mounts = mounts
        self._baseline = baseline
        self._checked = checked
        self._open: list[tuple[bytes, set[bytes]]] = []
        self._anew: set[bytes] = set()
        self.unknown: list[bytes] = []

    def __iter__(self) -> Iterator[tuple[str, Entry]]:
        """The entries that differ, each with its letter."""
        for entry in self._entries:
            self._leave(entry.path)
            if self._is_passed_over(entry.path, is_directory=entry.kind == DIRECTORY):
                continue  # whether what stands there counts is for its own kind to say
            above, _, name = entry.path.rpartition(b"/")
            if self._open and self._open[-1][0] == above:
                self._open[-1][1].discard(name)
            letter = "" if self._is_as_noted(entry) else drift(self._tree, entry, self._load)
            if not letter and entry.link and self._is_parted(entry):
                letter = "m"
            if letter in _ANEW:
                self._anew.add(entry.path)
            if letter:
                yield letter, entry
            if entry.kind == DIRECTORY and letter not in ("D", "T"):
                self._open.append((entry.path, self._names(entry.path)))
            self._checked(entry)
        self._leave(None)
        self.unknown.sort()

    def _is_passed_over(self, path: bytes, *, is_directory: bool) -> bool:
        return self._excludes.covers(path, is_directory=is_directory) or self._mounts.is_left_alone(
            path
        )

    def _is_parted(self, entry: Entry) -> bool:
        """Whether a further link is no longer one of the file it should be, or soon won't be."""
        if self._is_passed_over(entry.link, is_directory=False):
            return False
        if self._mounts.of(entry.link) != self._mounts.of(entry.path):
            return False
        if entry.link in self._anew:
            return True
        first, this = self._lstat(entry.link), self._lstat(entry.path)
        return first is None or this is None or not os.path.samestat(first, this)

    def _lstat(self, path: bytes) -> os.stat_result | None:
        above, _, name = path.rpartition(b"/")
        try:
            with fsio.opened(self._tree, above, os.O_PATH | os.O_DIRECTORY) as folder:
                return fsio.lstat(folder, name)
        except OSError:
            return None

    def _is_as_noted(self, entry: Entry) -> bool:
        if self._baseline is None or entry.kind == DIRECTORY or not self._open:
            return False
        status = self._lstat(entry.path)
        return status is not None and self._baseline.is_as_noted(entry.path, status)

    def _names(self, path: bytes) -> set[bytes]:
        descriptor = self._tree.open_directory(path)
        try:
            names = {os.fsencode(name) for name in os.listdir(descriptor)}
        finally:
            os.close(descriptor)
        return names - {STATE_DIR} if not path else names

    def _leave(self, path: bytes | None) -> None:
        """What is left of the names of directories that were passed is unknown to the image."""
        while self._open and (path is None or not is_below(path, self._open[-1][0])):
            above, names = self._open.pop()
            prefix = above + b"/" if above else b""
            self.unknown.extend(prefix + name for name in names if self._counts(prefix + name))

    def _counts(self, path: bytes) -> bool:
        if path.rpartition(b"/")[2].startswith(STATE_DIR):
            return False  # made by a pull, on another file system than its state
        is_directory = False
        if self._excludes:
            with suppress(OSError), fsio.opened(self._tree, path, os.O_PATH) as descriptor:
                is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        return not self._is_passed_over(path, is_directory=is_directory)


def below(tree: Directory, path: bytes, excludes: Patterns, mounts: Mounts) -> Iterator[bytes]:
    """All paths at and below an unknown one, those inside a directory before it.

    What is excluded, or on a mount, is left out with the directories it is in. Links are not
    followed. Raises `OSError`.
    """
    waiting = [(path, False)]
    staying: set[bytes] = set()
    while waiting:
        place, is_done = waiting.pop()
        above, _, name = place.rpartition(b"/")
        if is_done:
            if place in staying:
                staying.add(above)
            else:
                yield place
            continue
        with fsio.opened(tree, above, os.O_PATH | os.O_DIRECTORY) as folder:
            status = fsio.lstat(folder, name)
        if status is None:
            continue
        is_directory = stat.S_ISDIR(status.st_mode)
        if (
            excludes.covers(place, is_directory=is_directory)
            or mounts.is_left_alone(place)
            or place in mounts.points
        ):
            staying.add(above)
            continue
        waiting.append((place, True))
        if is_directory:
            with fsio.opened(tree, place, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
                names = sorted(map(os.fsencode, os.listdir(descriptor)), reverse=True)
            waiting.extend((place + b"/" + inner, False) for inner in names)
