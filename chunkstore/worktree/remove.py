"""Removing a tree of our own: one that was given up, or that nobody goes back to.

Promises: no symbolic link is followed, no mount is entered, whoever moves things about in the tree
meanwhile; paths may be of any depth and files immutable; memory grows with the depth and the width
of the directories on the way only. What is hardlinked from elsewhere keeps its inode flags there.
Leaves making sure that the tree is ours to its callers. A crash leaves part of the tree.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from chunkstore.errors import Conflict, local_errors
from chunkstore.fsio import NOT_THERE, Directory
from chunkstore.objects.names import printable
from chunkstore.worktree import metadata, mountinfo

_ATTEMPTS: Final = 3
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Visit(NamedTuple):
    """A directory on the way, and the directories in it that are still to be emptied."""

    path: bytes
    rest: Iterator[bytes]


def remove_tree(folder: int, name: bytes) -> None:
    """Remove what `name` in the open directory `folder` is, with all below it; nothing is fine.

    Raises `Conflict` at a mount inside, and when somebody goes on filling it; `LocalError`.
    """
    with local_errors(f"can't remove {printable(name)}"):
        try:
            is_directory = stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return
        if not is_directory:
            with _lifted(folder, name):
                os.unlink(name, dir_fd=folder)
            return
        descriptor = _open_anyway(folder, name)
        with Directory.held(descriptor, mountinfo.path_of(descriptor)) as tree:
            mountinfo.require_none_below(descriptor)
            for _ in range(_ATTEMPTS):
                _empty(tree)
                # The folder is not ours to change, so this is no `_rmdir`.
                with _lifted(folder, name), suppress(FileNotFoundError):
                    try:
                        os.rmdir(name, dir_fd=folder)
                    except OSError as error:
                        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                            raise
                        continue
                return
        raise Conflict(f"{printable(tree.path)}: somebody goes on filling it, it can't be removed")


def _open_anyway(folder: int, name: bytes) -> int:
    """Open a directory even if its mode keeps us out, which for root it does not."""
    try:
        return os.open(name, _FOLDER, dir_fd=folder)
    except PermissionError:
        descriptor = os.open(name, os.O_PATH | _FOLDER, dir_fd=folder)
        try:
            os.chmod(b"/proc/self/fd/%d" % descriptor, 0o700)
        finally:
            os.close(descriptor)
        return os.open(name, _FOLDER, dir_fd=folder)


def _empty(tree: Directory) -> None:
    """Remove all below `tree`, but for what others put there meanwhile."""
    mount = mountinfo.mount_id(tree.descriptor)
    stack = [_Visit(b"", _clear(tree, b"", mount))]
    while stack:
        visit = stack[-1]
        name = next(visit.rest, None)
        if name is not None:
            path = visit.path + b"/" + name if visit.path else name
            stack.append(_Visit(path, _clear(tree, path, mount)))
            continue
        stack.pop()
        if visit.path:
            above, _, name = visit.path.rpartition(b"/")
            with _folder(tree, above) as folder:
                if folder is not None:
                    _rmdir(folder, name)


def _clear(tree: Directory, path: bytes, mount: bytes) -> Iterator[bytes]:
    """Remove all but directories from a directory; returns those that are not empty."""
    with _folder(tree, path) as folder:
        if folder is None:
            return iter(())
        if mountinfo.mount_id(folder) != mount:
            # It came after the check. What is mounted there is not ours.
            where = printable(mountinfo.path_of(folder))
            raise Conflict(f"{where} has been mounted where a tree is removed: unmount it")
        kept = []
        with os.scandir(folder) as entries:
            found = [
                (os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries
            ]
        for name, is_directory in found:
            if not is_directory:
                _unlink(folder, name)
            elif not _rmdir(folder, name):
                kept.append(name)
        return iter(kept)


@contextmanager
def _folder(tree: Directory, path: bytes) -> Iterator[int | None]:
    """A directory of the tree; None when it is there no more, or something else now.

    Always from the top: what was moved out of the tree can't be reached that way, while `..` of a
    directory that was moved would lead outside.
    """
    try:
        descriptor = _open_inside(tree, path)
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_inside(tree: Directory, path: bytes) -> int:
    try:
        return tree.open_directory(path)
    except PermissionError:
        above, _, name = path.rpartition(b"/")
        folder = tree.open_directory(above)
        try:
            return _open_anyway(folder, name)
        finally:
            os.close(folder)


def _unlink(folder: int, name: bytes) -> None:
    with suppress(FileNotFoundError, IsADirectoryError):
        _insist(folder, name, os.unlink)


def _rmdir(folder: int, name: bytes) -> bool:
    """Remove an empty directory; False when it is not empty."""
    try:
        _insist(folder, name, os.rmdir)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def _insist(folder: int, name: bytes, remove: Callable[..., None]) -> None:
    """Remove a name, whatever flags or mode its directory in the tree and itself have."""
    try:
        remove(name, dir_fd=folder)
    except PermissionError:
        with suppress(OSError):
            metadata.write_flags(folder, 0)
        with suppress(OSError):
            os.fchmod(folder, 0o700)
        with _lifted(folder, name):
            remove(name, dir_fd=folder)


@contextmanager
def _lifted(folder: int, name: bytes) -> Iterator[None]:
    """Have a file or directory without inode flags; where it lives on they come back."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        is_flagged = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
        # Opening a device or a fifo would do something to it.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=folder) if is_flagged else -1
    except PermissionError:
        descriptor = -1
    if descriptor < 0:
        yield
        return
    try:
        before = metadata.read_flags(descriptor)
        with suppress(OSError):
            metadata.write_flags(descriptor, 0)
        try:
            yield
        finally:
            if before and os.fstat(descriptor).st_nlink:
                with suppress(OSError):
                    metadata.write_flags(descriptor, before)
    finally:
        os.close(descriptor)
