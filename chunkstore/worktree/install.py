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
from collections.abc import Callable

from chunkstore import fsio
from chunkstore.errors import Conflict, Corrupt, local_errors
from chunkstore.fsio import Directory
from chunkstore.objects.entry import DIRECTORY, FILE, Entry
from chunkstore.objects.names import is_below, printable
from chunkstore.progress import Progress
from chunkstore.worktree import metadata, restore
from chunkstore.worktree.content import FileContents, has_content
from chunkstore.worktree.restore import Shortfalls

LOST_AND_FOUND = b"lost+found"
"""What a file system of its own is born with; nothing else may be in the way."""


def split(path: bytes) -> tuple[bytes, bytes]:
    """A path's directory and its name."""
    folder, _, name = path.rpartition(b"/")
    return folder, name


def require_empty(directory: str, *, but: bytes = LOST_AND_FOUND) -> None:
    """Make the directory if need be. Raises `Conflict` unless it is empty (`lost+found` aside)."""
    with local_errors("can't use the directory"):
        os.makedirs(directory, exist_ok=True)
        allowed = {os.fsdecode(name) for name in (LOST_AND_FOUND, but)}
        held = set(os.listdir(directory)) - allowed
    if held:
        raise Conflict(f"{directory} is not empty (it holds {sorted(held)[0]!r}): name a new one")


class Installer:
    """Writes one version into `tree`. `written` is told of each file once its bytes are there."""

    def __init__(
        self,
        tree: Directory,
        shortfalls: Shortfalls,
        progress: Progress,
        *,
        written: Callable[[Entry], None] = lambda _: None,
        resume: bool = False,
    ) -> None:
        self._tree = tree
        self._shortfalls = shortfalls
        self._progress = progress
        self._written = written
        self._resume = resume
        self._around: list[Entry] = []
        self._folder = -1
        self._flagged: list[Entry] = []
        self._refused: set[bytes] = set()

    def run(self, contents: FileContents) -> None:
        """Install all entries. Raises `OSError`, and what reading chunks raises."""
        try:
            for entry, is_wanted in contents.entries:
                self._leave(entry.path)
                self._install(entry, contents if is_wanted else None)
                self._progress.advance(files=1, size=entry.size)
            self._leave(None)
        finally:
            self._close()
        for entry in reversed(self._flagged):
            with fsio.opened(self._tree, entry.path, os.O_RDONLY | os.O_NONBLOCK) as descriptor:
                restore.set_flags(descriptor, entry, self._shortfalls)
        fsio.sync_filesystem(self._tree.descriptor)

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
        elif not restore.make_special(folder, name, entry, self._shortfalls):
            self._refused.add(entry.path)
        self._note_flags(entry)

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
            if not self._resume and entry.path != LOST_AND_FOUND:
                raise
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=folder)
        self._enter(entry, descriptor)
        if not is_new:
            restore.undress(descriptor, entry, self._shortfalls)

    def _file(self, entry: Entry, folder: int, name: bytes, contents: FileContents | None) -> None:
        if contents is not None:
            descriptor = restore.make_file(folder, name, contents.content(entry), entry.size)
        else:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            if contents is None:
                restore.undress(descriptor, entry, self._shortfalls)
            restore.dress(descriptor, entry, self._shortfalls)
        finally:
            os.close(descriptor)
        self._written(entry)

    def _link(self, entry: Entry, folder: int, name: bytes) -> None:
        if entry.link in self._refused:
            self._shortfalls.note("devices", entry.path, "what it is linked to was refused")
            return
        above, first = split(entry.link)
        source = self._tree.open_directory(above)
        try:
            os.link(first, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError as error:
            where = printable(entry.path)
            raise Corrupt(f"{where}: the file it is linked to is missing", where=where) from error
        finally:
            os.close(source)
        restore.check_link(folder, name, entry)


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
