"""Finishing a change of a tree: metadata, once every name is in its place.

Files that only get new metadata first; then directories, inner ones before outer ones, since all
that came before moved their times; inode flags at the very end, since nothing can be done to an
immutable file. Promises: metadata and flags go to files we put there, or that hold what the image
put there, and to no others; what was opened is looked at first, and changed by its descriptor.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from chunkstore import fsio
from chunkstore.errors import NotFound
from chunkstore.fsio import NOT_THERE, Directory
from chunkstore.objects.entry import DIRECTORY, FILE, Entry
from chunkstore.objects.names import sort_key
from chunkstore.worktree import metadata, restore
from chunkstore.worktree.aside import LATE
from chunkstore.worktree.baseline import Witness
from chunkstore.worktree.compare import same_content
from chunkstore.worktree.folders import Folders
from chunkstore.worktree.journal import Journal
from chunkstore.worktree.placed import Placed
from chunkstore.worktree.restore import Shortfalls


class Finish:
    """The end of what `journal` says. `find` gives a directory's new entry, or `NotFound`."""

    def __init__(
        self,
        tree: Directory,
        journal: Journal,
        folders: Folders,
        placed: Placed,
        find: Callable[[bytes], Entry],
        witness: Witness,
        shortfalls: Shortfalls,
    ) -> None:
        self._tree = tree
        self._journal = journal
        self._folders = folders
        self._placed = placed
        self._find = find
        self._witness = witness
        self._shortfalls = shortfalls
        self._group_sizes = Counter(made.entry.link or made.entry.path for made in journal.made)
        self._group_sizes.update({made.entry.link for made in journal.made if made.name == LATE})
        self.kept: list[bytes] = []
        """Files that were changed here since this was planned, and were left alone."""

    def run(self) -> None:
        """Do it all. Raises `OSError`, and then it can be run again."""
        for entry in self._journal.dressed:
            self._dress_file(entry)
        self._dress_directories()
        self._set_flags()
        self._note_baseline()

    @contextmanager
    def _opened(self, path: bytes) -> Iterator[int]:
        descriptor = fsio.open_file(*self._folders.holding(path))
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _dress_file(self, entry: Entry) -> None:
        try:
            status = fsio.lstat(*self._folders.holding(entry.path))
            if status is None or not stat.S_ISREG(status.st_mode):
                return
            with self._opened(entry.path) as descriptor:
                if self._witness.may_dress(entry.path, descriptor, entry):
                    self._dress(descriptor, entry)
                    self._placed.note(entry.path, descriptor)
                else:
                    self.kept.append(entry.path)
        except OSError as error:
            # It was regular when this was planned; what took its place since is not the image's.
            if error.errno not in (*NOT_THERE, errno.ENXIO):
                raise

    def _dress(self, descriptor: int, entry: Entry) -> None:
        restore.undress(descriptor, entry, self._shortfalls)
        restore.dress(descriptor, entry, self._shortfalls)
        restore.set_flags(descriptor, entry, self._shortfalls)

    def _dress_directories(self) -> None:
        """Metadata of changed directories, times of those something changed in; inner ones first.

        A mode or owner given to a directory here stays if the image does not change it.
        """
        self._folders.close()
        changed = {entry.path: entry for entry in self._journal.directories}
        for path in sorted({*self._journal.touched, *changed}, key=sort_key, reverse=True):
            entry = changed.get(path)
            try:
                entry = entry or self._find(path)
                descriptor = self._tree.open_directory(path)
            except NotFound:
                continue
            except OSError as error:
                if error.errno in NOT_THERE:
                    continue
                raise
            try:
                if path in changed:
                    self._dress(descriptor, entry)
                elif entry.kind == DIRECTORY:
                    if entry.flags:
                        with suppress(OSError):
                            metadata.write_flags(descriptor, 0)
                    restore.set_time(descriptor, entry, self._shortfalls)
                    if entry.flags:
                        restore.set_flags(descriptor, entry, self._shortfalls)
            finally:
                os.close(descriptor)

    def _set_flags(self) -> None:
        for entry, _, waiting in self._journal.made:
            if entry.flags and entry.kind == FILE and waiting:
                with suppress(FileNotFoundError), self._opened(entry.path) as descriptor:
                    if self._placed.is_untouched(entry.path, os.fstat(descriptor)) or (
                        entry.path not in self._placed and self._was_placed(entry, descriptor)
                    ):
                        restore.set_flags(descriptor, entry, self._shortfalls)
                        self._placed.note(entry.path, descriptor)

    def _was_placed(self, entry: Entry, descriptor: int) -> bool:
        """Whether an open file is, for all one sees, in its place since before an interruption.

        It has no more names than its group, so that none of them lies elsewhere.
        """
        status = os.fstat(descriptor)
        return (
            stat.S_ISREG(status.st_mode)
            and status.st_size == entry.size
            and status.st_nlink <= self._group_sizes[entry.link or entry.path]
            and same_content(descriptor, entry, self._witness.load)
        )

    def _note_baseline(self) -> None:
        """Remember how things stand now, to tell later what was changed here."""
        baseline = self._witness.baseline
        for path in self._journal.removed:
            baseline.forget(path)
        made = [step.entry for step in self._journal.made if step.name]
        for entry in sorted((*made, *self._journal.dressed), key=lambda item: sort_key(item.path)):
            with suppress(OSError):
                status = fsio.lstat(*self._folders.holding(entry.path))
                # What came to its place before an interruption will be compared by content.
                if status is not None and self._placed.is_untouched(entry.path, status):
                    baseline.note(entry.path, status)
        baseline.flush()
