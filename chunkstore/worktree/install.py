"""Installing: all entries of a version into an empty directory, as their chunks arrive.

One pass in path order, nothing is written twice. A directory gets its own metadata when the walk
leaves it, since filling it changes its times; inode flags come last of all, since nothing can be
linked to an immutable file. Promises: memory is bounded, and everything is durable on return.
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
from chunkstore.worktree import restore
from chunkstore.worktree.content import FileContents, has_content
from chunkstore.worktree.restore import Shortfalls


def split(path: bytes) -> tuple[bytes, bytes]:
    """A path's directory and its name."""
    folder, _, name = path.rpartition(b"/")
    return folder, name


def require_empty(directory: str) -> None:
    """Make the directory if need be. Raises `Conflict` unless it is empty (`lost+found` aside)."""
    with local_errors("can't use the directory"):
        os.makedirs(directory, exist_ok=True)
        held = [name for name in os.listdir(directory) if name != "lost+found"]
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
        self._open: list[tuple[Entry, int]] = []
        self._flagged: list[Entry] = []

    def run(self, contents: FileContents) -> None:
        """Install all entries. Raises `OSError`, and what reading chunks raises."""
        try:
            for entry, is_wanted in contents.entries:
                self._leave(entry.path)
                self._install(entry, contents if is_wanted else None)
                self._progress.advance(files=1, size=entry.size)
            self._leave(None)
        finally:
            for _, descriptor in self._open:
                os.close(descriptor)
        fsio.sync_filesystem(self._tree.descriptor)
        for entry in reversed(self._flagged):
            with fsio.opened(self._tree, entry.path) as descriptor:
                restore.set_flags(descriptor, entry, self._shortfalls)

    def _leave(self, path: bytes | None) -> None:
        """Complete the directories that do not hold `path`; all of them for `None`."""
        while self._open:
            entry, descriptor = self._open[-1]
            if path is not None and is_below(path, entry.path):
                return
            self._open.pop()
            try:
                restore.dress(descriptor, entry, self._shortfalls)
            finally:
                os.close(descriptor)

    def _install(self, entry: Entry, contents: FileContents | None) -> None:
        """Make one path; without `contents` a file is there already and only dressed."""
        if not entry.path:
            self._open.append((entry, os.dup(self._tree.descriptor)))
            return
        above, name = split(entry.path)
        if not self._open or self._open[-1][0].path != above:
            where = printable(entry.path)
            raise Corrupt(f"{where}: its directory is not in the manifest", where=where)
        folder = self._open[-1][1]
        is_kept = contents is None and has_content(entry)
        if self._resume and not is_kept:
            _clear(folder, name, entry)
        if entry.kind == DIRECTORY:
            try:
                os.mkdir(name, 0o700, dir_fd=folder)
            except FileExistsError:
                if not self._resume:
                    raise
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            self._open.append((entry, os.open(name, flags, dir_fd=folder)))
        elif entry.link:
            self._link(entry, folder, name)
            return
        elif entry.kind == FILE:
            self._file(entry, folder, name, contents)
        else:
            restore.make_special(folder, name, entry, self._shortfalls)
        if entry.flags:
            self._flagged.append(entry)

    def _file(self, entry: Entry, folder: int, name: bytes, contents: FileContents | None) -> None:
        if contents is not None:
            descriptor = restore.make_file(folder, name, contents.content(entry), entry.size)
        else:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            restore.dress(descriptor, entry, self._shortfalls)
        finally:
            os.close(descriptor)
        self._written(entry)

    def _link(self, entry: Entry, folder: int, name: bytes) -> None:
        above, first = split(entry.link)
        source = self._tree.open_directory(above)
        try:
            os.link(first, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError as error:
            where = printable(entry.path)
            raise Corrupt(f"{where}: the file it is linked to is missing", where=where) from error
        finally:
            os.close(source)


def _clear(folder: int, name: bytes, entry: Entry) -> None:
    """Take away what an interrupted installation left at the entry's place, directories aside."""
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode):
        if entry.kind != DIRECTORY:
            os.rmdir(name, dir_fd=folder)
        return
    os.unlink(name, dir_fd=folder)
