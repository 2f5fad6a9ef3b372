"""Metadata of one path as the system keeps it: xattrs, ACLs, inode flags, device numbers.

ACLs are the xattrs `system.posix_acl_*`; numeric owners and binary values are kept as they are.
Everything goes through descriptors, or through `/proc/self/fd` where the system has no call that
takes one, so that no symbolic link is followed on the way.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from contextlib import suppress
from typing import Final

_GET_FLAGS: Final = 0x80086601
_SET_FLAGS: Final = 0x40086602
_FLAGS: Final = struct.Struct("i4x")

KEPT_FLAGS: Final = 0x20000000 | 0x00800000 | 0x00030000 | 0x0000C000 | 0x000000FF
"""The flags `chattr` sets: s u c S i a d A, D T, j t, C, P. The rest describe the file system."""
IMMUTABLE_FLAGS: Final = 0x00000030
"""`i` and `a`: a file that has one can't be linked, renamed or written to any more."""

_KEPT_XATTRS: Final = ("user.", "trusted.", "security.", "system.posix_acl_")
_UNSUPPORTED: Final = (errno.ENOTSUP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EPERM)


def by_descriptor(folder: int, name: bytes) -> bytes:
    """A path to `name` inside the open directory `folder`, for calls that take only paths."""
    return b"/proc/self/fd/%d/%s" % (folder, name)


def read_xattrs(target: int | bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The xattrs of an open file, or of a path whose last component is not followed, sorted."""
    follow = isinstance(target, int)
    try:
        listed = os.listxattr(target, follow_symlinks=follow)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSYS):
            return ()
        raise
    if not listed:
        return ()
    found = []
    for name in listed:
        if name.startswith(_KEPT_XATTRS):
            try:
                value = os.getxattr(target, name, follow_symlinks=follow)
            except OSError as error:
                if error.errno == errno.ENODATA:  # removed since it was listed
                    continue
                raise
            found.append((os.fsencode(name), value))
    return tuple(sorted(found))


def read_flags(descriptor: int) -> int:
    """The inode flags of an open file or directory; 0 where the file system has none."""
    try:
        packed = fcntl.ioctl(descriptor, _GET_FLAGS, bytes(_FLAGS.size))
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return 0
        raise
    flags: int = _FLAGS.unpack(packed)[0]
    return flags & KEPT_FLAGS


def write_flags(descriptor: int, flags: int) -> None:
    """Set the kept inode flags, leaving the others alone. Raises `OSError`."""
    packed = fcntl.ioctl(descriptor, _GET_FLAGS, bytes(_FLAGS.size))
    before: int = _FLAGS.unpack(packed)[0]
    after = (before & ~KEPT_FLAGS) | flags
    if after != before:
        fcntl.ioctl(descriptor, _SET_FLAGS, _FLAGS.pack(after))


def lift_flags(folder: int, name: bytes) -> None:
    """Take the inode flags off a file or directory, as far as that is allowed."""
    with suppress(OSError):
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            return  # opening a device or fifo does something to it
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=folder)
        try:
            write_flags(descriptor, 0)
        finally:
            os.close(descriptor)
