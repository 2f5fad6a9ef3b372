"""Applying: what a journal says, done to the tree.

Everything needed waits aside, so only the disk can fail. In this order: what changes its kind
gives way and new files are renamed into place, in path order; what is gone is removed, deepest
first; files whose metadata changed are dressed; directories get their metadata last, since all
that came before moved their times; inode flags come at the very end, since nothing can be done to
an immutable file.

Local users may own directories of the tree and change what is in them at any moment. What was
opened is looked at before anything is done to it, and done through the descriptor: metadata and
flags go to the files we put there and to no others.

Promises: a path is its old self or its new self, never something in between. Content of the node's
own is moved to `saved` before its place is taken, whatever the plan knew of it. Doing it all again
after an interruption, wherever that was, gives the same result. A replaced set-user-id file that
is linked from elsewhere loses its powers.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from chunkstore import fsio
from chunkstore.errors import Corrupt
from chunkstore.fsio import NOT_THERE, Directory
from chunkstore.objects.entry import FILE, Entry
from chunkstore.objects.names import is_below, printable, sort_key, split
from chunkstore.worktree import metadata, restore
from chunkstore.worktree.aside import LATE, Aside, link_standing
from chunkstore.worktree.baseline import Witness, holds
from chunkstore.worktree.finish import Finish
from chunkstore.worktree.folders import Folders
from chunkstore.worktree.journal import Journal, Made
from chunkstore.worktree.placed import Placed
from chunkstore.worktree.replaced import Replaced
from chunkstore.worktree.restore import Shortfalls
from chunkstore.worktree.saved import Saved

_NOT_EMPTY: Final = (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY)


class Applier:
    """Does what `journal` says to `tree`.

    `find` gives the new entry of a directory, or raises `NotFound`.
    """

    def __init__(
        self,
        tree: Directory,
        journal: Journal,
        aside: Aside,
        find: Callable[[bytes], Entry],
        witness: Witness,
        shortfalls: Shortfalls,
    ) -> None:
        self._tree = tree
        self._journal = journal
        self._aside = aside
        self._witness = witness
        self._shortfalls = shortfalls
        self._folders = Folders(tree)
        self._placed = Placed()
        self._replaced = Replaced(tree, journal, aside, witness)
        self._finish = Finish(tree, journal, self._folders, self._placed, find, witness, shortfalls)
        self.saved = Saved(tree, journal.stamp)

    @property
    def kept(self) -> list[bytes]:
        """Files that were changed here since this was planned, and were left alone."""
        return self._finish.kept

    def run(self) -> None:
        """Change the tree, durably. Raises `OSError`, and then it can be run again."""
        journal = self._journal
        try:
            for step in self._in_order():
                if isinstance(step, Made):
                    self._place(step)
                else:
                    self._place_directory(step)
            for path in reversed(journal.removed):
                self._remove(path)
            for path in journal.swept:
                # What a mirror must not have: nobody wants it saved.
                self._remove(path, is_unknown=True)
            self._finish.run()
            self._replaced.disarm()
            self._sync()
        finally:
            self._folders.close()

    def _in_order(self) -> Iterator[Made | Entry]:
        steps: list[tuple[bytes, Made | Entry]] = [
            *((sort_key(entry.path), entry) for entry in self._journal.directories),
            *((sort_key(made.entry.path), made) for made in self._journal.made),
        ]
        return (step for _, step in sorted(steps, key=lambda item: item[0]))

    def _sync(self) -> None:
        """Make all of it durable, on whatever file systems inside the tree it lies."""
        self._folders.close()
        fsio.sync_filesystem(self._tree.descriptor)
        for path in self._folders.devices.values():
            with suppress(FileNotFoundError):
                descriptor = self._tree.open_directory(path)
                try:
                    fsio.sync_filesystem(descriptor)
                finally:
                    os.close(descriptor)

    # Placing

    def _place_directory(self, entry: Entry) -> None:
        if not entry.path:
            return
        folder, name = self._folders.holding(entry.path)
        status = fsio.lstat(folder, name)
        if status is not None and stat.S_ISDIR(status.st_mode):
            return
        if status is not None:
            self._give_way(entry.path, folder, name, status)
        self._insist(folder, name, lambda: os.mkdir(name, 0o700, dir_fd=folder))

    def _place(self, made: Made) -> None:
        entry, number, waiting = made
        aside = self._aside.descriptors[number]
        folder, name = self._folders.holding(entry.path)
        status = fsio.lstat(folder, name)
        if waiting == LATE and aside >= 0:
            waiting = self._link_late(entry, aside)
        if not waiting:
            return  # refused
        if aside < 0:
            self._require_placed(entry, folder, name, status)
            return
        try:
            # Held by descriptor until it is there, so that no other can get its number.
            held = os.open(waiting, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=aside)
        except FileNotFoundError:
            return  # in its place since before an interruption: nothing else takes it from there
        try:
            if self._move_in(entry, status, aside, waiting):
                self._placed.note(entry.path, held)
        finally:
            os.close(held)

    def _move_in(
        self, entry: Entry, status: os.stat_result | None, aside: int, waiting: bytes
    ) -> bool:
        """Give a finished file its place. Returns False when it had to be copied there."""
        folder, name = self._folders.holding(entry.path)
        if status is not None and stat.S_ISDIR(status.st_mode):
            self._clear_directory(entry.path, folder, name)
        elif status is not None:
            self._give_way(entry.path, folder, name, status, entry, replaced=True)
        folder, name = self._folders.holding(entry.path)

        def rename() -> None:
            os.rename(waiting, name, src_dir_fd=aside, dst_dir_fd=folder)

        try:
            self._insist(folder, name, rename)
        except OSError as error:
            if error.errno != errno.EXDEV or entry.kind != FILE:
                raise
            self._carry(entry, aside, waiting, folder, name)
            return False
        return True

    def _require_placed(
        self, entry: Entry, folder: int, name: bytes, status: os.stat_result | None
    ) -> None:
        """See that what waited in a directory that is gone is in its place.

        Raises `Corrupt`: then somebody has taken the directory, and only a pull can help.
        """
        if status is None or not holds(folder, name, status, entry, self._witness.load):
            where = printable(entry.path)
            raise Corrupt(f"{where}: what was made for the update is gone: pull again", where=where)

    def _link_late(self, entry: Entry, aside: int) -> bytes:
        """Link to an immutable file, whose flags come back with the others at the end."""
        above, first = split(entry.link)
        with fsio.opened(self._tree, above, os.O_RDONLY | os.O_DIRECTORY) as source:
            metadata.lift_flags(source, first)
        with suppress(FileNotFoundError):
            os.unlink(b"late", dir_fd=aside)
        link_standing(self._tree, entry, aside, b"late", self._witness.load)
        return b"late"

    def _carry(self, entry: Entry, aside: int, waiting: bytes, folder: int, name: bytes) -> None:
        """Bring a file across a border that is no mount, such as that of a btrfs subvolume."""
        temporary = b".imgstore-" + waiting
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        source = fsio.open_file(aside, waiting)
        try:
            parts = iter(lambda: os.read(source, 1 << 20), b"")
            content = ((part, len(part)) for part in parts)
            descriptor = restore.make_file(folder, temporary, content, entry.size)
        finally:
            os.close(source)
        try:
            restore.dress(descriptor, entry, self._shortfalls)
            # Before the rename: else a power cut may leave the name on an empty file.
            os.fsync(descriptor)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            self._placed.note(entry.path, descriptor)
        finally:
            os.close(descriptor)
        os.unlink(waiting, dir_fd=aside)

    # Giving way

    def _give_way(
        self,
        path: bytes,
        folder: int,
        name: bytes,
        status: os.stat_result,
        *more: Entry,
        replaced: bool = False,
    ) -> None:
        """Take away what stands at a path and is no directory; `replaced` by a rename, it stays.

        Content that neither the image had there nor `more` says goes to `saved`.
        """
        if not self._witness.is_ours(path, folder, name, status, *more):
            self._save(path, folder, name)
            return
        self._replaced.hold(path, folder, name, status)
        if not replaced:
            self._insist(folder, name, lambda: os.unlink(name, dir_fd=folder))

    def _clear_directory(self, path: bytes, folder: int, name: bytes) -> None:
        """Take a directory away that becomes something else, with all the image knows in it."""
        for inside in reversed(self._journal.removed):
            if is_below(inside, path):
                self._remove(inside)
        folder, name = self._folders.holding(path)
        try:
            self._insist(folder, name, lambda: os.rmdir(name, dir_fd=folder))
        except OSError as error:
            if error.errno not in _NOT_EMPTY:
                raise
            # The node's own files are in it: they are not ours to delete.
            self._save(path, folder, name)

    def _save(self, path: bytes, folder: int, name: bytes) -> None:
        """Move what the image does not know out of its way."""
        self.saved.take(path, folder, name, lambda move: self._insist(folder, name, move))

    def _remove(self, path: bytes, *, is_unknown: bool = False) -> None:
        """Remove a path the image has no more, or never had; directories only if they are empty."""
        try:
            folder, name = self._folders.holding(path)
        except OSError as error:
            # Something on the way is gone or has become a file or a symlink.
            if error.errno in NOT_THERE:
                return
            raise
        status = fsio.lstat(folder, name)
        if status is None:
            return
        if stat.S_ISDIR(status.st_mode):
            self._remove_directory(folder, name)
        elif is_unknown:
            self._insist(folder, name, lambda: os.unlink(name, dir_fd=folder))
        else:
            self._give_way(path, folder, name, status)

    def _remove_directory(self, folder: int, name: bytes) -> None:
        try:
            self._insist(folder, name, lambda: os.rmdir(name, dir_fd=folder))
        except OSError as error:
            # Something the image does not know is in it and stays, and so does the directory.
            if error.errno not in _NOT_EMPTY:
                raise

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
