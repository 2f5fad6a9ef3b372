"""Swapping: a tree for another that was made beside it, in one step, and back again.

Beside the tree DIR, in the same folder, lies a directory of ours, `.NAME.imgstore`:

    next          a tree that is being made
    ready-INODE   a tree made and durable, on its way into the place of the old one
    previous      the tree that was in place before

DIR and `ready-INODE` change places by one system call, so there is a whole tree at DIR at every
moment, before a power cut and after. What an interruption left shows by the names: `next` is of no
use; `ready-INODE` has been swapped in if and only if what lies there now has another inode, and
then is to be the previous tree, whatever is left of the one before that. Promises: `complete` is
durable when it returns, and a tree that is only half made never gets to DIR. Leaves making the
tree, and what its versions are, to callers. What others write into DIR between the cloning and the
swap is not in the new tree, but stays in the previous one.

Who could meddle: see `swappable` for the folder, `beside` for what lies in it.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress
from typing import Final

from chunkstore import fsio
from chunkstore.errors import Conflict, LocalError, NotFound, local_errors
from chunkstore.fsio import Directory
from chunkstore.objects.names import printable
from chunkstore.worktree import metadata, mountinfo
from chunkstore.worktree.beside import Beside
from chunkstore.worktree.remove import remove_tree
from chunkstore.worktree.swappable import check_place

NEXT: Final = b"next"
PREVIOUS: Final = b"previous"
_READY: Final = re.compile(rb"ready-([0-9]+)")
_PROBES: Final = (b"probe-1", b"probe-2")
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_NAME: Final = 255 - len(b"..imgstore")


def check_swappable(directory: str) -> None:
    """Raise `Conflict` or `LocalError` unless the tree can be swapped; makes nothing durable."""
    with Swap(directory) as swap:
        swap.probe()


class Swap:
    """The tree at `directory`, its folder, and what lies beside it. Use it in a `with` statement.

    Only the holder of the tree's lock may call what changes something. Making one raises
    `Conflict` when the tree is `/` or a mount point, has something mounted inside, or lies where
    others could meddle; `NotFound` when there is none; `LocalError`.
    """

    def __init__(self, directory: str) -> None:
        self.path = os.path.realpath(directory)
        above, name = os.path.split(self.path)
        if not name:
            raise Conflict("/ can't be swapped for another tree: pull without --atomic")
        self._name = os.fsencode(name)
        self._shown = printable(os.fsencode(self.path))
        if len(self._name) > _MAX_NAME:
            raise LocalError(f"{self._shown}: the name is too long to make another beside it")
        with local_errors("can't swap the tree"):
            self._above = os.open(above, _FOLDER)
            try:
                descriptor = os.open(self._name, _FOLDER, dir_fd=self._above)
            except BaseException as error:
                os.close(self._above)
                if isinstance(error, FileNotFoundError):
                    raise NotFound(f"there is no {self._shown}", name=self._shown) from error
                raise
        self.tree: Final = Directory.held(descriptor, os.fsencode(self.path))
        self._beside = Beside(self._above, os.fsencode(above), self._name)
        try:
            with local_errors("can't swap the tree"):
                check_place(self.path, self._above, self.tree.descriptor)
        except BaseException:
            self.close()
            raise

    @property
    def next_path(self) -> str:
        """Where the new tree is made; for those who take no descriptor."""
        return os.path.join(self._beside.path, "next")

    @property
    def previous_path(self) -> str:
        """Where the previous tree lies, when there is one."""
        return os.path.join(self._beside.path, "previous")

    def close(self) -> None:
        """Let go of all descriptors."""
        self.tree.close()
        self._beside.close()
        os.close(self._above)

    def __enter__(self) -> Swap:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def probe(self) -> None:
        """Try an exchange with nothing at stake. Raises `LocalError` where there is none."""
        with local_errors("can't swap the tree"):
            folder = self._beside.make()
            try:
                for name in _PROBES:
                    with suppress(FileExistsError):
                        os.mkdir(name, 0o700, dir_fd=folder)
                self._exchange(folder, _PROBES[0], folder, _PROBES[1])
            finally:
                for name in _PROBES:
                    with suppress(OSError):
                        os.rmdir(name, dir_fd=folder)
                self._beside.tidy()

    def _exchange(self, folder: int, name: bytes, other: int, other_name: bytes) -> None:
        try:
            fsio.exchange(folder, name, other, other_name)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                kind = mountinfo.file_system(os.fsencode(self.path))
                raise LocalError(
                    f"{self._shown} is on a file system ({kind}) that can't exchange two "
                    "directories: pull without --atomic",
                    errno=error.errno,
                ) from error
            if error.errno in (errno.EBUSY, errno.EXDEV):
                raise Conflict(
                    f"{self._shown} is in use as a mount point, or what is beside it is on "
                    "another file system: pull without --atomic",
                    errno=error.errno,
                ) from error
            raise

    def settle(self) -> None:
        """Finish or clear away what an interrupted run left. Raises `LocalError`, `Conflict`."""
        with local_errors("can't clear away what an interrupted run left"):
            folder = self._beside.open()
            if folder is None:
                return
            for text in os.listdir(folder):
                name = os.fsencode(text)
                ready = _READY.fullmatch(name)
                if ready is None:
                    continue
                inode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_ino
                if inode == int(ready[1]):
                    # Never swapped in, and stale: who knows what was written to the tree since.
                    remove_tree(folder, name)
                else:
                    self._keep(folder, name)
            for name in (NEXT, *_PROBES):
                remove_tree(folder, name)
            self._beside.tidy()

    def begin(self) -> Directory:
        """Make an empty directory for the new tree; the caller closes it."""
        self.settle()
        self.probe()
        with local_errors("can't make a tree beside the old one"):
            folder = self._beside.make()
            os.mkdir(NEXT, 0o700, dir_fd=folder)
            return Directory.held(
                os.open(NEXT, _FOLDER, dir_fd=folder), os.fsencode(self.next_path)
            )

    def discard(self) -> None:
        """Give up the new tree, and its space; the old one is where it was."""
        self.settle()

    def complete(self) -> None:
        """Put the new tree into place, durably; the old one becomes the previous one.

        Raises `Conflict` when something was mounted, or the tree was replaced, meanwhile.
        """
        with local_errors("can't swap the tree"):
            folder = self._beside.open()
            if folder is None:
                raise NotFound(f"there is no new tree beside {self._shown}", name=self._shown)
            check_place(self.path, self._above, self.tree.descriptor)
            self._check_unmoved()
            new = os.open(NEXT, _FOLDER, dir_fd=folder)
            try:
                # A mount in it, say of a hook that forgot it, would come to DIR with it.
                mountinfo.require_none_below(new)
                self._swap_in(folder, new)
            finally:
                os.close(new)

    def _swap_in(self, folder: int, new: int) -> None:
        """Swap the open `next` in and make the old tree the previous one."""
        # What is immutable can't be renamed. A power cut in between loses the flag, no more.
        flags = metadata.read_flags(new)
        if flags & metadata.IMMUTABLE_FLAGS:
            metadata.write_flags(new, flags & ~metadata.IMMUTABLE_FLAGS)
        # A swap that outlives a power cut must not lead to a tree that does not.
        fsio.sync_filesystem(folder)
        ready = b"ready-%d" % os.fstat(new).st_ino
        os.rename(NEXT, ready, src_dir_fd=folder, dst_dir_fd=folder)
        # The name says which tree is which, so it must be there before they change places.
        os.fsync(folder)
        self._change_places(folder, ready)
        self._keep(folder, ready)
        if flags & metadata.IMMUTABLE_FLAGS:
            metadata.write_flags(new, flags)

    def _check_unmoved(self) -> None:
        ours, there = os.stat(self.tree.descriptor), self._status(self._above, self._name)
        if there is None or (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino):
            raise Conflict(f"{self._shown} was replaced by something else meanwhile: pull again")

    @staticmethod
    def _status(folder: int, name: bytes) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _change_places(self, folder: int, other: bytes) -> None:
        ours = os.stat(self._name, dir_fd=self._above, follow_symlinks=False)
        theirs = os.stat(other, dir_fd=folder, follow_symlinks=False)
        self._exchange(folder, other, self._above, self._name)
        # xfs counts another `..` as a change of what is in a directory.
        for name, above, status in (
            (self._name, self._above, theirs),
            (other, folder, ours),
        ):
            times = (status.st_atime_ns, status.st_mtime_ns)
            os.utime(name, ns=times, dir_fd=above, follow_symlinks=False)
        # Both: if a power cut left only one of them, a tree would have two names or none.
        os.fsync(self._above)
        os.fsync(folder)

    def _keep(self, folder: int, name: bytes) -> None:
        """Make the tree that was replaced the previous one, in the place of the one before it.

        As long as it has its old name, `settle` comes back here: nobody goes back to half a tree.
        """
        remove_tree(folder, PREVIOUS)
        os.rename(name, PREVIOUS, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)

    @property
    def has_previous(self) -> bool:
        """Whether there is a tree to go back to, once `settle` was called."""
        with local_errors("can't look beside the tree"):
            folder = self._beside.open()
            return folder is not None and self._status(folder, PREVIOUS) is not None

    def rollback(self) -> None:
        """Put the previous tree into place, durably; this one becomes the previous one.

        Raises `NotFound` when there is none, `Conflict` as `complete` does.
        """
        self.settle()
        if not self.has_previous:
            raise NotFound(
                f"no tree to go back to: only pull --atomic leaves one beside {self._shown}",
                name=self._shown,
            )
        with local_errors("can't go back to the previous tree"):
            folder = self._beside.open()
            assert folder is not None
            self._check_unmoved()
            self._change_places(folder, PREVIOUS)
