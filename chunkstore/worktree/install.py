"""Installing: all entries of a version into an empty directory, as their chunks arrive.

One pass in path order, nothing is written twice. A directory gets its own metadata when the walk
leaves it, since filling it changes its times; inode flags come when all is there, since nothing
can be linked to an immutable file. Promises: memory is bounded, everything is durable on return.
After an interruption the tree is incomplete, which its owner has to know; installing again with
`resume` keeps what was already there and right.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial

from chunkstore import fsio
from chunkstore.errors import Conflict, Corrupt, local_errors
from chunkstore.fsio import Directory
from chunkstore.objects.entry import DIRECTORY, FILE, Entry
from chunkstore.objects.names import STATE_DIR, is_below, printable, split
from chunkstore.progress import Progress
from chunkstore.worktree import metadata, restore
from chunkstore.worktree.baseline import Baseline
from chunkstore.worktree.content import FileContents, has_content
from chunkstore.worktree.early import EarlySync
from chunkstore.worktree.mounts import NO_MOUNTS, Mounts, mounts_below
from chunkstore.worktree.patterns import Patterns
from chunkstore.worktree.restore import Shortfalls
from chunkstore.worktree.writers import Writers

LOST_AND_FOUND = b"lost+found"
"""What a file system of its own is born with; nothing else may be in the way."""


def require_empty(directory: str) -> None:
    """Make the directory if need be. Raises `Conflict` unless it is empty.

    What is mounted inside may be there, with the directories on the way; so may `lost+found`, and
    the node's own state.
    """
    with local_errors("can't use the directory"):
        os.makedirs(directory, exist_ok=True)
        with Directory(directory) as tree:
            held = next(_foreign(tree, mounts_below(tree)), None)
    if held is not None:
        raise Conflict(
            f"{directory} is not empty (it holds {printable(held)!r}): name a new directory"
        )


def _foreign(tree: Directory, mounts: Mounts) -> Iterator[bytes]:
    """Paths that somebody put there before an installation."""
    waiting = [b"", *mounts.points]
    while waiting:
        folder = waiting.pop()
        with fsio.opened(tree, folder, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
            names = sorted(map(os.fsencode, os.listdir(descriptor)))
        for name in names:
            path = folder + b"/" + name if folder else name
            if name == LOST_AND_FOUND or path == STATE_DIR or mounts.is_on_the_way(path):
                is_looked_at = path in mounts.points or mounts.is_left_alone(path)
                if mounts.is_on_the_way(path) and not is_looked_at:
                    waiting.append(path)
            else:
                yield path


def wanted(entries: Iterable[Entry], excludes: Patterns, mounts: Mounts) -> Iterator[Entry]:
    """The entries that are to be installed: none that is excluded or on a mount not ours.

    A hardlink group whose first path is left out, or on another file system, gets another first,
    on each file system one of its own.
    """
    if not excludes and not mounts:
        yield from entries
        return
    leaders: dict[tuple[bytes, bytes], bytes] = {}
    for entry in entries:
        if excludes.covers(
            entry.path, is_directory=entry.kind == DIRECTORY
        ) or mounts.is_left_alone(entry.path):
            continue
        if entry.link:
            group = entry.link, mounts.of(entry.path)
            leader = leaders.get(group)
            if leader is None:
                can_lead = mounts.of(entry.link) == mounts.of(entry.path) and not (
                    excludes.covers(entry.link, is_directory=False)
                    or mounts.is_left_alone(entry.link)
                )
                leader = leaders[group] = entry.link if can_lead else entry.path
            entry = entry._replace(link=b"" if leader == entry.path else leader)  # noqa: PLW2901
        yield entry


class Installer:
    """Writes one version into `tree`. `written` is told of each file once its bytes are there."""

    def __init__(
        self,
        tree: Directory,
        shortfalls: Shortfalls,
        progress: Progress,
        *,
        baseline: Baseline | None = None,
        mounts: Mounts = NO_MOUNTS,
        written: Callable[[Entry], None] = lambda _: None,
        resume: bool = False,
    ) -> None:
        self._tree = tree
        self._shortfalls = shortfalls
        self._progress = progress
        self._baseline = baseline or Baseline(None)
        self._mounts = mounts
        self._written = written
        self._resume = resume
        self._around: list[Entry] = []
        self._folder = -1
        self._writers = Writers()
        self._unfinished: set[bytes] = set()
        self._early = EarlySync(tree.descriptor)
        self._flagged: list[Entry] = []
        self._refused: set[bytes] = set()

    def run(self, contents: FileContents) -> None:
        """Install all entries. Raises `OSError`, and what reading chunks raises."""
        try:
            with self._writers:
                for entry, is_wanted in contents.entries:
                    self._leave(entry.path)
                    self._install(entry, contents if is_wanted else None)
                    self._progress.advance(files=1, size=entry.size)
                self._leave(None)
        finally:
            self._early.close()
            self._close()
        for entry in reversed(self._flagged):
            with fsio.opened(self._tree, entry.path, os.O_RDONLY | os.O_NONBLOCK) as descriptor:
                restore.set_flags(descriptor, entry, self._shortfalls)
        self._baseline.flush()
        self._early.finish()
        for point in (b"", *self._mounts.points):
            with fsio.opened(self._tree, point, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
                fsio.sync_filesystem(descriptor)

    # Only the innermost directory is open: a descriptor for each level of a deep tree could be
    # more than a process may have.

    def _enter(self, entry: Entry, descriptor: int) -> None:
        self._close()
        self._around.append(entry)
        self._folder = descriptor

    def _current(self) -> int:
        if self._folder < 0:
            self._folder = self._tree.open_directory(self._around[-1].path)
        return self._folder

    def _close(self) -> None:
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def _leave(self, path: bytes | None) -> None:
        """Complete the directories that do not hold `path`; all of them for `None`."""
        while self._around:
            entry = self._around[-1]
            if path is not None and is_below(path, entry.path):
                return
            restore.dress(self._current(), entry, self._shortfalls)
            self._close()
            self._around.pop()

    def _install(self, entry: Entry, contents: FileContents | None) -> None:
        """Make one path; without `contents` a file is there already and only dressed."""
        if not entry.path:
            root = os.dup(self._tree.descriptor)
            self._enter(entry, root)
            restore.undress(root, entry, self._shortfalls)
            _close_to_others(root)
            self._note_flags(entry)
            return
        above, name = split(entry.path)
        if not self._around or self._around[-1].path != above:
            where = printable(entry.path)
            raise Corrupt(f"{where}: its directory is not in the manifest", where=where)
        folder = self._current()
        is_kept = contents is None and has_content(entry)
        if self._resume and not is_kept:
            _clear(folder, name, entry)
        if entry.kind == DIRECTORY:
            self._directory(entry, folder, name)
        elif entry.link:
            self._link(entry, folder, name)
            return
        elif entry.kind == FILE:
            self._file(entry, folder, name, contents)
        elif restore.make_special(folder, name, entry, self._shortfalls):
            self._note(entry, folder, name)
        else:
            self._refused.add(entry.path)
        self._note_flags(entry)

    def _note(self, entry: Entry, folder: int, name: bytes) -> None:
        status = fsio.lstat(folder, name)
        if status is not None:
            self._baseline.note(entry.path, status)

    def _note_flags(self, entry: Entry) -> None:
        # Only these have flags; opening another to set them would do something to it.
        if entry.flags and entry.kind in (FILE, DIRECTORY):
            self._flagged.append(entry)

    def _directory(self, entry: Entry, folder: int, name: bytes) -> None:
        is_new = True
        try:
            os.mkdir(name, 0o700, dir_fd=folder)
        except FileExistsError:
            is_new = False
            is_expected = (
                self._resume
                or split(entry.path)[1] == LOST_AND_FOUND
                or self._mounts.is_on_the_way(entry.path)
            )
            if not is_expected:
                raise
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=folder)
        self._enter(entry, descriptor)
        if not is_new:
            restore.undress(descriptor, entry, self._shortfalls)
            _close_to_others(descriptor)

    def _file(self, entry: Entry, folder: int, name: bytes, contents: FileContents | None) -> None:
        if contents is not None:
            content = contents.content(entry)
            self._unfinished.add(entry.path)
            self._writers.make(folder, name, content, entry.size, partial(self._complete, entry))
            return
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            restore.undress(descriptor, entry, self._shortfalls)
            self._complete(entry, descriptor)
        finally:
            os.close(descriptor)

    def _complete(self, entry: Entry, descriptor: int) -> None:
        """Give a file that has its bytes the rest."""
        self._unfinished.discard(entry.path)
        self._early.wrote(entry.size)
        restore.dress(descriptor, entry, self._shortfalls)
        self._baseline.note(entry.path, os.fstat(descriptor))
        self._written(entry)

    def _link(self, entry: Entry, folder: int, name: bytes) -> None:
        if entry.link in self._refused:
            self._shortfalls.note("devices", entry.path, "what it is linked to was refused")
            return
        if entry.link in self._unfinished:
            # What is noted of the two is how they look with both names.
            self._writers.finish()
        above, first = split(entry.link)
        source = self._tree.open_directory(above)
        try:
            os.link(first, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError as error:
            where = printable(entry.path)
            raise Corrupt(f"{where}: the file it is linked to is missing", where=where) from error
        else:
            restore.check_link(folder, name, entry)
            # One more link has moved the time of change of them all; of the others that are there
            # the content will be compared.
            self._note(entry, folder, name)
            self._note(entry._replace(path=entry.link), source, first)
        finally:
            os.close(source)


def _close_to_others(descriptor: int) -> None:
    """Keep others out of a directory that was there, until it is complete, as they are of new ones.

    Else its owner could exchange what is just being made in it.
    """
    with suppress(OSError):
        os.fchown(descriptor, os.geteuid(), os.getegid())
    with suppress(OSError):
        os.fchmod(descriptor, 0o700)


def _clear(folder: int, name: bytes, entry: Entry) -> None:
    """Take away what an interrupted installation left at the entry's place, directories aside."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    is_directory = stat.S_ISDIR(status.st_mode)
    if is_directory and entry.kind == DIRECTORY:
        return
    remove = os.rmdir if is_directory else os.unlink
    try:
        remove(name, dir_fd=folder)
    except PermissionError:
        metadata.lift_flags(folder, name)
        remove(name, dir_fd=folder)
