"""Aside: where new files wait, complete with their metadata, until they are renamed into place.

One directory per file system that is written to, since a rename does not cross a mount: in the
node's own state for the tree's, at the mount point for others. Each belongs to us and nobody else
can look into it, so what waits there is what we made: not even a setuid file can be reached before
its time.

Promises: what `prepare` returns is made and durable, and nothing of it shows in the tree yet.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

from chunkstore import fsio
from chunkstore.errors import ChunkstoreError, Conflict, Corrupt, LocalError
from chunkstore.fsio import Directory
from chunkstore.objects.entry import Entry
from chunkstore.objects.manifest import Load
from chunkstore.objects.names import STATE_DIR, printable, split
from chunkstore.progress import Progress
from chunkstore.worktree import duplicate, patch, restore
from chunkstore.worktree.baseline import holds
from chunkstore.worktree.content import FileContents
from chunkstore.worktree.journal import Made
from chunkstore.worktree.mounts import Mounts
from chunkstore.worktree.powers import disarm
from chunkstore.worktree.restore import Shortfalls
from chunkstore.worktree.sources import TreeChunks
from chunkstore.worktree.writers import Writers

LATE: Final = b"="
"""Instead of a name: a link to what stands in the tree, to be made when that may be touched."""
OLD: Final = b"old-"
"""Begins the names of replaced set-user-id files, which are disarmed at the end."""
_OWN: Final = STATE_DIR + b"/new"
_AT_MOUNT: Final = b".imgstore-new"


class Aside:
    """The directories of one update, open; a context manager. `paths` names them, in order."""

    def __init__(self, tree: Directory, paths: Sequence[bytes], descriptors: list[int]) -> None:
        self._tree = tree
        self.paths = tuple(paths)
        self.descriptors = descriptors

    @classmethod
    def make(cls, tree: Directory, points: Sequence[bytes], mounts: Mounts) -> Aside:
        """Empty directories for the file systems mounted at `points`, the tree's own being b"".

        Raises `OSError`; `LocalError` when somebody else's directory stands there.
        """
        paths = [_place(point, mounts) for point in points]
        descriptors: list[int] = []
        aside = cls(tree, paths, descriptors)
        try:
            for path in paths:
                descriptors.append(_open(tree, path, make=True))
                _empty(descriptors[-1])
        except BaseException:
            aside.close()
            raise
        return aside

    @classmethod
    def again(cls, tree: Directory, paths: Sequence[bytes]) -> Aside:
        """The directories of an update that was interrupted; -1 for one that is gone already."""
        descriptors: list[int] = []
        aside = cls(tree, paths, descriptors)
        try:
            for path in paths:
                try:
                    descriptors.append(_open(tree, path, make=False))
                except FileNotFoundError:
                    descriptors.append(-1)
        except BaseException:
            aside.close()
            raise
        return aside

    @property
    def there(self) -> list[int]:
        """The descriptors of those that are there."""
        return [descriptor for descriptor in self.descriptors if descriptor >= 0]

    def __enter__(self) -> Aside:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the descriptors; what waits goes on waiting."""
        while self.descriptors:
            descriptor = self.descriptors.pop()
            if descriptor >= 0:
                os.close(descriptor)

    def remove(self) -> None:
        """Take the directories away with all that is left in them."""
        for path, descriptor in zip(self.paths, self.descriptors, strict=True):
            if descriptor < 0:
                continue
            _empty(descriptor)
            above, name = split(path)
            flags = os.O_RDONLY | os.O_DIRECTORY
            with suppress(OSError), fsio.opened(self._tree, above, flags) as folder:
                with _same_time(folder):
                    os.rmdir(name, dir_fd=folder)
                # Before the state says that all is done, since nobody would look for it again.
                os.fsync(folder)


def leftovers(tree: Directory, mounts: Mounts, find: Callable[[bytes], Entry] | None) -> None:
    """Remove what an update that was cut off before its journal had made aside.

    `find` gives entries of the version that is installed, if one is: a mount point that the update
    had made a directory in, and not given its own time again yet, gets that of the image.
    """
    for point in (b"", *mounts.points):
        path = _place(point, mounts)
        with suppress(OSError, ChunkstoreError):
            descriptor = _open(tree, path, make=False)
            with Aside(tree, (path,), [descriptor]) as aside:
                aside.remove()
            above = split(path)[0]
            if find is not None and above != STATE_DIR:
                with fsio.opened(tree, above, os.O_RDONLY | os.O_DIRECTORY) as folder:
                    restore.set_time(folder, find(above), Shortfalls())


def _place(point: bytes, mounts: Mounts) -> bytes:
    if not point and not mounts.of(_OWN):
        return _OWN
    return point + b"/" + _AT_MOUNT if point else _AT_MOUNT


def _open(tree: Directory, path: bytes, *, make: bool) -> int:
    above, name = split(path)
    with fsio.opened(tree, above, os.O_RDONLY | os.O_DIRECTORY) as folder:
        if make:
            with suppress(FileExistsError), _same_time(folder):
                os.mkdir(name, 0o700, dir_fd=folder)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=folder)
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        os.close(descriptor)
        # Anybody may make a directory in `/tmp`; files that wait in it could be exchanged.
        raise LocalError(f"{printable(path)} is not ours alone: look who made it, and remove it")
    return descriptor


@contextmanager
def _same_time(folder: int) -> Iterator[None]:
    """Leave no trace in the times of a mount point: it is a directory of the image."""
    status = os.fstat(folder)
    yield
    os.utime(folder, ns=(status.st_atime_ns, status.st_mtime_ns))


def _empty(descriptor: int) -> None:
    for name in map(os.fsencode, os.listdir(descriptor)):
        try:
            if name.startswith(OLD):
                # Of an update that lost its journal: nobody else will come for it.
                disarm(descriptor, name)
            else:
                os.unlink(name, dir_fd=descriptor)
        except IsADirectoryError:
            os.rmdir(name, dir_fd=descriptor)


class Preparation:
    """Makes the files of one update aside, in the file systems they are for."""

    def __init__(
        self,
        tree: Directory,
        aside: Aside,
        points: Sequence[bytes],
        mounts: Mounts,
        sources: TreeChunks,
        load: Load,
        shortfalls: Shortfalls,
        progress: Progress,
    ) -> None:
        self._tree = tree
        self._load = load
        self._aside = aside
        self._sources = sources
        self._shares: dict[int, bool] = {}
        self._points = {point: number for number, point in enumerate(points)}
        self._mounts = mounts
        self._shortfalls = shortfalls
        self._progress = progress
        self._names: dict[bytes, tuple[int, bytes]] = {}
        self._refused: set[bytes] = set()
        self._writers = Writers()

    def prepare(self, contents: FileContents) -> list[Made]:
        """Make everything, durably. Raises `OSError`, and what reading chunks raises."""
        with self._writers:
            made = [self._make(entry, is_wanted, contents) for entry, is_wanted in contents.entries]
        for descriptor in self._aside.descriptors:
            # Before the journal: it must never name a file that a power cut has emptied.
            fsio.sync_filesystem(descriptor)
        return made

    def _make(self, entry: Entry, is_wanted: bool, contents: FileContents) -> Made:
        aside = self._points[self._mounts.of(entry.path)]
        folder = self._aside.descriptors[aside]
        name = b"%d" % len(self._names)
        if entry.link:
            name = self._link(entry, folder, name)
        elif is_wanted:
            self._make_file(entry, folder, name, contents)
        elif not restore.make_special(folder, name, entry, self._shortfalls):
            self._refused.add(entry.path)
            name = b""
        self._names[entry.path] = (folder, name)
        self._progress.advance(files=1, size=entry.size)
        return Made(entry, aside, name)

    def _make_file(self, entry: Entry, folder: int, name: bytes, contents: FileContents) -> None:
        content = contents.content(entry)
        dress = partial(restore.dress, entry=entry, shortfalls=self._shortfalls)
        base = self._base(entry, folder, contents)
        if base is None:
            self._writers.make(folder, name, content, entry.size, dress)
            return
        try:
            descriptor = patch.make_like(folder, name, base, content, entry.size)
        finally:
            os.close(base)
        try:
            dress(descriptor)
        finally:
            os.close(descriptor)

    def _base(self, entry: Entry, folder: int, contents: FileContents) -> int | None:
        """A file of the tree that has much of this one in the same place, open; None without."""
        if entry.size < patch.WORTH:
            return None
        shares = self._shares.get(folder)
        if shares is None:
            shares = self._shares[folder] = duplicate.can_reflink(folder)
        path = self._sources.like(contents.chunks(entry)) if shares else None
        if path is None or self._mounts.of(path) != self._mounts.of(entry.path):
            return None
        with suppress(OSError):
            return self._tree.open(path, os.O_RDONLY | os.O_NONBLOCK)
        return None

    def _link(self, entry: Entry, folder: int, name: bytes) -> bytes:
        """Link a member of a group to its first path, made aside or standing; the name it got."""
        if entry.link in self._refused:
            self._shortfalls.note("devices", entry.path, "what it is linked to was refused")
            return b""
        waiting = self._names.get(entry.link)
        if waiting is None:
            try:
                link_standing(self._tree, entry, folder, name, self._load)
            except PermissionError:
                # It is immutable: that is lifted when the tree may be touched.
                return LATE
            return name
        above, first = waiting
        os.link(first, name, src_dir_fd=above, dst_dir_fd=folder, follow_symlinks=False)
        restore.check_link(folder, name, entry)
        return name


def link_standing(tree: Directory, entry: Entry, folder: int, name: bytes, load: Load) -> None:
    """Link `name` to the first path of the entry's group as it stands in the tree.

    Raises `Conflict` when that has become something else since it was looked at.
    """
    above, first = split(entry.link)
    try:
        with fsio.opened(tree, above, os.O_PATH | os.O_DIRECTORY) as source:
            os.link(first, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError as error:
        where = printable(entry.path)
        raise Corrupt(f"{where}: the file it is linked to is missing", where=where) from error
    restore.check_link(folder, name, entry)
    status = fsio.lstat(folder, name)
    if status is None or not holds(folder, name, status, entry, load):
        os.unlink(name, dir_fd=folder)
        where = printable(entry.link)
        raise Conflict(f"{where} was changed while the tree was looked at: pull again")


def points_of(paths: Iterable[bytes], mounts: Mounts) -> list[bytes]:
    """The file systems these paths lie on, the tree's own first whether it is needed or not."""
    return [b"", *sorted({mounts.of(path) for path in paths} - {b""})]
