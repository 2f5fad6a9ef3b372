"""Updating: a tree that is one version into another, in place.

First every new file is made aside, complete with its metadata, while the tree is untouched; then
all of it is made durable; then files are renamed into place, in path order, and what is gone is
removed; directories get their metadata last, since the renames change their times. Promises: a
path is its old self or its new self, never something in between; what the image does not know is
neither removed nor overwritten, but moved to the node's `saved` directory when it is in the way.
Running it again after an interruption gives the same result, whatever had been done.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field

from chunkstore import fsio
from chunkstore.errors import Corrupt, NotFound
from chunkstore.fsio import Directory
from chunkstore.objects.entry import DIRECTORY, FILE, Entry
from chunkstore.objects.names import is_below, printable, sort_key
from chunkstore.progress import Progress
from chunkstore.worktree import metadata, restore
from chunkstore.worktree.content import FileContents, has_content
from chunkstore.worktree.install import split
from chunkstore.worktree.restore import Shortfalls


@dataclass
class Plan:
    """What has to be done, by path. `made` and `directories` are in path order."""

    made: list[Entry] = field(default_factory=list)
    """Everything but directories that is new or has to be made anew."""
    directories: list[Entry] = field(default_factory=list)
    """Directories that are new or differ."""
    dressed: list[Entry] = field(default_factory=list)
    """Files that only differ in metadata."""
    removed: list[bytes] = field(default_factory=list)
    """Paths that are in the image no more, in path order."""
    added: set[bytes] = field(default_factory=set)
    """Paths the tree's version has not: what stands there is the node's own."""

    def __bool__(self) -> bool:
        return bool(self.made or self.directories or self.dressed or self.removed)

    @property
    def size(self) -> int:
        """Bytes of the files that are made."""
        return sum(entry.size for entry in self.made if has_content(entry))


def plan_update(
    differences: Iterable[tuple[Entry | None, Entry | None]], *, is_certain: bool
) -> Plan:
    """Sort differences into steps. Not `is_certain`: the tree may be neither old nor new."""
    plan = Plan()
    for old, new in differences:
        if new is None:
            assert old is not None
            plan.removed.append(old.path)
            continue
        if is_certain and old is None:
            plan.added.add(new.path)
        if new.kind == DIRECTORY:
            plan.directories.append(new)
        elif is_certain and old is not None and _differs_in_metadata(old, new):
            plan.dressed.append(new)
        else:
            plan.made.append(new)
    return plan


def _differs_in_metadata(old: Entry, new: Entry) -> bool:
    same = (old.content, old.size, old.depth, old.link) == (
        new.content,
        new.size,
        new.depth,
        new.link,
    )
    return old.kind == new.kind == FILE and same


class Updater:
    """Carries out one plan on `tree`.

    `aside` is an empty directory of the node's own; `saved` says where a path goes that is in the
    way; `directory_entry` finds the new entry of a directory, or raises `NotFound`.
    """

    def __init__(
        self,
        tree: Directory,
        plan: Plan,
        aside: str,
        saved: str,
        directory_entry: Callable[[bytes], Entry],
        shortfalls: Shortfalls,
        progress: Progress,
    ) -> None:
        self._tree = tree
        self._plan = plan
        self._aside = os.open(aside, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._saved_root = saved
        self._directory_entry = directory_entry
        self._shortfalls = shortfalls
        self._progress = progress
        self._names: dict[bytes, bytes] = {}
        self._late: set[bytes] = set()
        self._refused: set[bytes] = set()
        self._touched: set[bytes] = set()
        self.saved: list[tuple[bytes, str]] = []

    def close(self) -> None:
        """Let go of the directory aside."""
        os.close(self._aside)

    def prepare(self, contents: FileContents) -> None:
        """Make all new files aside and durable; the tree is not touched."""
        for entry, is_wanted in contents.entries:
            name = b"%d" % len(self._names)
            if entry.link:
                if not self._link(entry, name):
                    continue
            elif is_wanted:
                descriptor = restore.make_file(
                    self._aside, name, contents.content(entry), entry.size
                )
                try:
                    restore.dress(descriptor, entry, self._shortfalls)
                finally:
                    os.close(descriptor)
            elif not restore.make_special(self._aside, name, entry, self._shortfalls):
                self._refused.add(entry.path)
                continue
            self._names[entry.path] = name
            self._progress.advance(files=1, size=entry.size)
        fsio.sync_filesystem(self._aside)

    def _link(self, entry: Entry, name: bytes) -> bool:
        """Link a member of a hardlink group to its first path, made aside or standing already."""
        if entry.link in self._refused:
            self._shortfalls.note("devices", entry.path, "what it is linked to was refused")
            return False
        first = self._names.get(entry.link)
        if first is not None:
            os.link(
                *(first, name),
                src_dir_fd=self._aside,
                dst_dir_fd=self._aside,
                follow_symlinks=False,
            )
            restore.check_link(self._aside, name, entry)
            return True
        try:
            self._link_standing(entry, name)
        except PermissionError:
            # It is immutable: that is lifted when the tree may be touched.
            self._late.add(entry.path)
        return True

    def _link_standing(self, entry: Entry, name: bytes, *, insist: bool = False) -> None:
        above, first = split(entry.link)
        try:
            folder = self._tree.open_directory(above)
            try:
                if insist:
                    metadata.lift_flags(folder, first)
                os.link(
                    *(first, name),
                    src_dir_fd=folder,
                    dst_dir_fd=self._aside,
                    follow_symlinks=False,
                )
            finally:
                os.close(folder)
        except FileNotFoundError as error:
            where = printable(entry.path)
            raise Corrupt(f"{where}: the file it is linked to is missing", where=where) from error
        restore.check_link(self._aside, name, entry)

    def apply(self) -> None:
        """Change the tree. Everything it needs is aside; only the disk can fail now."""
        for entry in self._in_order():
            with self._folder(entry.path) as folder:
                if entry.kind == DIRECTORY:
                    self._place_directory(entry, folder)
                else:
                    self._place(entry, folder)
        for path in reversed(self._plan.removed):
            self._remove(path)
        for entry in self._plan.dressed:
            self._dress_file(entry)
        self._dress_directories()
        for entry in self._plan.made:
            if entry.flags and entry.kind == FILE and entry.path in self._names:
                with self._opened(entry.path) as descriptor:
                    restore.set_flags(descriptor, entry, self._shortfalls)
        fsio.sync_filesystem(self._tree.descriptor)

    def _in_order(self) -> Iterator[Entry]:
        both = [*self._plan.directories, *self._plan.made]
        return iter(sorted(both, key=lambda entry: sort_key(entry.path)))

    def _opened(self, path: bytes) -> AbstractContextManager[int]:
        return fsio.opened(self._tree, path, os.O_RDONLY | os.O_NONBLOCK)

    def _folder(self, path: bytes) -> _Folder:
        above = split(path)[0]
        folder = _Folder(self._tree, above)
        self._touched.add(above)
        return folder

    def _place_directory(self, entry: Entry, folder: int) -> None:
        if not entry.path:
            return
        name = split(entry.path)[1]
        status = _lstat(folder, name)
        if status is not None and stat.S_ISDIR(status.st_mode):
            return
        if status is not None and entry.path in self._plan.added:
            self._save(entry.path, folder, name)
        elif status is not None:
            self._unlink(folder, name)
        self._insist(folder, name, lambda: os.mkdir(name, 0o700, dir_fd=folder))

    def _place(self, entry: Entry, folder: int) -> None:
        aside = self._names.get(entry.path)
        if aside is None:
            return
        if entry.path in self._late:
            self._link_standing(entry, aside, insist=True)
        name = split(entry.path)[1]
        status = _lstat(folder, name)
        if status is not None and entry.path in self._plan.added:
            self._save(entry.path, folder, name)
        elif status is not None and stat.S_ISDIR(status.st_mode):
            self._clear_directory(entry.path, folder, name)

        def rename() -> None:
            os.rename(aside, name, src_dir_fd=self._aside, dst_dir_fd=folder)

        try:
            self._insist(folder, name, rename)
        except OSError as error:
            if error.errno != errno.EXDEV or entry.kind != FILE:
                raise
            self._carry(entry, aside, folder, name)

    def _carry(self, entry: Entry, aside: bytes, folder: int, name: bytes) -> None:
        """Bring a file to another file system that is mounted inside the tree."""
        temporary = b".imgstore-" + aside
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        source = os.open(aside, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._aside)
        try:
            parts = iter(lambda: os.read(source, 1 << 20), b"")
            content = ((part, len(part)) for part in parts)
            descriptor = restore.make_file(folder, temporary, content, entry.size)
        finally:
            os.close(source)
        try:
            restore.dress(descriptor, entry, self._shortfalls)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)

    def _clear_directory(self, path: bytes, folder: int, name: bytes) -> None:
        """Take a directory away that becomes something else, with all the image knows in it."""
        for inside in reversed(self._plan.removed):
            if is_below(inside, path):
                self._remove(inside)
        try:
            self._insist(folder, name, lambda: os.rmdir(name, dir_fd=folder))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            # The node's own files are in it: they are not ours to delete.
            self._save(path, folder, name)

    def _save(self, path: bytes, folder: int, name: bytes) -> None:
        """Move what the image does not know out of its way."""
        os.makedirs(self._saved_root, mode=0o700, exist_ok=True)
        target = os.path.join(self._saved_root, fsio.fresh_name(_plain(name)))
        self._insist(folder, name, lambda: os.rename(name, target, src_dir_fd=folder))
        self.saved.append((path, target))

    def _remove(self, path: bytes) -> None:
        try:
            opened = self._folder(path)
        except OSError as error:
            # Something on the way is gone or has become a file or a symlink.
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return
            raise
        name = split(path)[1]
        with opened as folder:
            status = _lstat(folder, name)
            if status is None:
                return
            if not stat.S_ISDIR(status.st_mode):
                self._unlink(folder, name)
                return
            try:
                self._insist(folder, name, lambda: os.rmdir(name, dir_fd=folder))
            except OSError as error:
                # Something the image does not know is in it and stays, and so does the directory.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
                    raise

    def _unlink(self, folder: int, name: bytes) -> None:
        self._insist(folder, name, lambda: os.unlink(name, dir_fd=folder))

    def _insist(self, folder: int, name: bytes, action: Callable[[], None]) -> None:
        """Do it; when an immutable file or directory is in the way, lift that and do it again.

        The directory gets its flags back with its other metadata, at the end.
        """
        try:
            action()
        except PermissionError:
            with suppress(OSError):
                metadata.write_flags(folder, 0)
            metadata.lift_flags(folder, name)
            action()

    def _dress_file(self, entry: Entry) -> None:
        with self._opened(entry.path) as descriptor:
            self._dress(descriptor, entry)

    def _dress(self, descriptor: int, entry: Entry) -> None:
        restore.undress(descriptor, entry, self._shortfalls)
        restore.dress(descriptor, entry, self._shortfalls)
        restore.set_flags(descriptor, entry, self._shortfalls)

    def _dress_directories(self) -> None:
        """Give changed directories, and those something changed in, their metadata; inner first."""
        entries = {entry.path: entry for entry in self._plan.directories}
        for path in sorted(self._touched | entries.keys(), key=sort_key, reverse=True):
            try:
                entry = entries.get(path) or self._directory_entry(path)
            except NotFound:
                continue
            if entry.kind == DIRECTORY:
                descriptor = self._tree.open_directory(path)
                try:
                    self._dress(descriptor, entry)
                finally:
                    os.close(descriptor)


class _Folder:
    """A directory of the tree, open for the length of a `with`."""

    def __init__(self, tree: Directory, path: bytes) -> None:
        self._descriptor = tree.open_directory(path)

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _plain(name: bytes) -> str:
    """What of a name is safe to show and to use."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name.decode("ascii", "replace"))[:100]


def _lstat(folder: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
