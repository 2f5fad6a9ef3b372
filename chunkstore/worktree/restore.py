"""Restoring: one entry onto the file system.

Promises: a path is made new, never opened through a link, and readable by nobody else until its
metadata is complete; metadata goes on in the order in which the kernel does not undo it (owner,
mode, xattrs, time; flags come later, since nothing can be done to an immutable file). What a file
system or a missing privilege can't take is counted by kind in `Shortfalls` and does not stop the
rest. Leaves order, durability and what is already there to its callers.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from chunkstore import fsio
from chunkstore.errors import Corrupt, LocalError
from chunkstore.objects.entry import (
    BLOCK,
    CHARACTER,
    DEVICE,
    FIFO,
    KIND_OF_FORMAT,
    SYMLINK,
    Entry,
)
from chunkstore.objects.names import printable
from chunkstore.worktree import metadata

_REFUSED: Final = (
    errno.EPERM,
    errno.EACCES,
    errno.ENOTSUP,
    errno.EINVAL,
    errno.ENOTTY,
    errno.ENOSYS,
    errno.E2BIG,
    errno.ERANGE,
    errno.EOVERFLOW,
)
_DEFAULT_ACL: Final = b"system.posix_acl_default"
_LABELS: Final = (b"security.selinux", b"security.SMACK", b"security.ima", b"security.evm")
RUN: Final = 1024 * 1024
"""Bytes that are written by one call, or a chunk more."""
_MOST_BUFFERS: Final = 256
"""Fewer than the 1024 that the system takes."""
_PLAIN_TIME: Final = range(2**31 * 1_000_000_000)


class Shortfalls:
    """What could not be set: for each kind of thing how often, and the first path and reason.

    With `strict` the first is an error; `devices` says whether the image may make any.
    """

    def __init__(self, *, strict: bool = False, devices: bool = True) -> None:
        self.strict = strict
        self.devices = devices
        self.kinds: dict[str, tuple[int, bytes, str]] = {}

    def note(self, kind: str, path: bytes, reason: str) -> None:
        """Count one more. Raises `LocalError` if none is allowed."""
        if self.strict:
            raise LocalError(f"{kind} can't be set on {printable(path)}: {reason}")
        count, first, why = self.kinds.get(kind, (0, path, reason))
        self.kinds[kind] = (count + 1, first, why)


Content = Iterable[tuple[bytes | memoryview | None, int]]
"""A file's content as it is written: bytes, or None for a hole, and the length of either."""


def gathered(content: Content) -> Iterator[tuple[list[bytes | memoryview] | None, int]]:
    """A file's content in runs that one call can write, or None for a hole; where each begins."""
    buffers: list[bytes | memoryview] = []
    start = offset = 0
    for data, length in content:
        if data is not None:
            buffers.append(data)
        offset += length
        if data is None or offset - start >= RUN or len(buffers) == _MOST_BUFFERS:
            if buffers:
                yield buffers, start
            if data is None:
                yield None, offset - length
            buffers, start = [], offset
    if buffers:
        yield buffers, start


def make_file(folder: int, name: bytes, content: Content, size: int) -> int:
    """Create a regular file with its content; returns the descriptor, still to be dressed.

    Raises `OSError`; the caller removes what is left.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        has_hole = False
        for data, offset in gathered(content):
            if data is None:
                has_hole = True
            else:
                fsio.write_many(descriptor, data, offset)
        if has_hole:
            os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def make_special(folder: int, name: bytes, entry: Entry, shortfalls: Shortfalls) -> bool:
    """Create a symlink, device or fifo and dress it; False when that was refused."""
    if entry.kind in (CHARACTER, BLOCK) and not shortfalls.devices:
        shortfalls.note("devices", entry.path, "not wanted here")
        return False
    try:
        if entry.kind == SYMLINK:
            os.symlink(entry.content, name, dir_fd=folder)
        elif entry.kind == FIFO:
            os.mkfifo(name, 0o600, dir_fd=folder)
        else:
            form = stat.S_IFCHR if entry.kind == CHARACTER else stat.S_IFBLK
            device = os.makedev(*DEVICE.unpack(entry.content))
            os.mknod(name, form | 0o600, device, dir_fd=folder)
    except PermissionError as error:
        if entry.kind not in (CHARACTER, BLOCK):
            raise
        shortfalls.note("devices", entry.path, error.strerror or "refused")
        return False
    dress(metadata.by_descriptor(folder, name), entry, shortfalls)
    if entry.kind != SYMLINK:
        # There is no chmod without following links; a descriptor that opens nothing stands in.
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            with _allowed("modes", entry, shortfalls):
                os.chmod(b"/proc/self/fd/%d" % descriptor, entry.mode)
        finally:
            os.close(descriptor)
    return True


def dress(target: int | bytes, entry: Entry, shortfalls: Shortfalls) -> None:
    """Set the metadata of an open file or directory, or of a path whose end is not followed.

    All but inode flags, and but the mode of a path: see `make_special`.
    """
    follow = isinstance(target, int)
    try:
        os.chown(target, entry.uid, entry.gid, follow_symlinks=follow)
    except (OSError, OverflowError) as error:
        _note(error, "owners", entry, shortfalls)
    if isinstance(target, int):
        # After the owner: chown takes set-user-id away, and file capabilities.
        try:
            os.fchmod(target, entry.mode)
        except (OSError, OverflowError) as error:
            _note(error, "modes", entry, shortfalls)
    for name, value in entry.xattrs:
        with _allowed(_xattr_kind(name), entry, shortfalls):
            os.setxattr(target, name, value, follow_symlinks=follow)
    set_time(target, entry, shortfalls)


def set_time(target: int | bytes, entry: Entry, shortfalls: Shortfalls) -> None:
    """Set the time of an open file or directory, or of a path whose end is not followed."""
    follow = isinstance(target, int)
    mtime = entry.mtime
    try:
        os.utime(target, ns=(mtime, mtime), follow_symlinks=follow)
        if mtime not in _PLAIN_TIME:
            # Some file systems take times they can't hold and keep the nearest, without a word.
            kept = os.stat(target, follow_symlinks=follow).st_mtime_ns
            if kept != mtime:
                shortfalls.note("times", entry.path, "out of the file system's range")
    except (OSError, OverflowError) as error:
        _note(error, "times", entry, shortfalls)


def undress(descriptor: int, entry: Entry, shortfalls: Shortfalls) -> None:
    """Take from an open file or directory that was there already what the entry has not.

    Security labels stay. Inode flags and a default ACL go even if the entry has them: the one
    would stand in the way of what follows, the other be handed down to what is made inside.
    """
    if metadata.read_flags(descriptor):
        with _allowed("inode flags", entry, shortfalls):
            metadata.write_flags(descriptor, 0)
    wanted = {name for name, _ in entry.xattrs} - {_DEFAULT_ACL}
    for name, _ in metadata.read_xattrs(descriptor):
        if name not in wanted and not name.startswith(_LABELS):
            with _allowed(_xattr_kind(name), entry, shortfalls):
                os.removexattr(descriptor, name)


def check_link(folder: int, name: bytes, entry: Entry) -> None:
    """Make sure that what was linked is what the entry says. Raises `Corrupt`.

    An honest manifest links like to like; another would have us set a file's flags on a device.
    """
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if KIND_OF_FORMAT.get(stat.S_IFMT(status.st_mode)) != entry.kind:
        where = printable(entry.path)
        raise Corrupt(f"{where}: is linked to something of another kind", where=where)


def set_flags(descriptor: int, entry: Entry, shortfalls: Shortfalls) -> None:
    """Set the inode flags of an open file or directory; the last thing done to it."""
    with _allowed("inode flags", entry, shortfalls):
        metadata.write_flags(descriptor, entry.flags)


def _xattr_kind(name: bytes) -> str:
    if name.startswith(b"system.posix_acl_"):
        return "ACLs"
    return f"{name.partition(b'.')[0].decode('ascii', 'replace')} xattrs"


@contextmanager
def _allowed(kind: str, entry: Entry, shortfalls: Shortfalls) -> Iterator[None]:
    """Note a refusal of this file system or these privileges; let every other failure through."""
    try:
        yield
    except (OSError, OverflowError) as error:
        _note(error, kind, entry, shortfalls)


def _note(error: OSError | OverflowError, kind: str, entry: Entry, shortfalls: Shortfalls) -> None:
    """Note a refusal as `_allowed` does, for what is done to every file: that costs time there."""
    if isinstance(error, OSError) and error.errno not in _REFUSED:
        raise error
    shortfalls.note(kind, entry.path, getattr(error, "strerror", None) or str(error))
