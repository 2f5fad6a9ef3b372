"""Duplicating the content of one open file into another, new and empty, on the same file system.

By reflink where the file system can, else by copying what is data and leaving the holes. Promises:
what a file system refuses to do the quick way is done the slow way; the length is that of what was
read, even if the source is cut short or grows meanwhile.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

from chunkstore import fsio
from chunkstore.worktree import capture

_PIECE: Final = 32 * 1024 * 1024
_BLOCK: Final = 1024 * 1024
_CANNOT: Final = (errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EXDEV)
_NOT_THIS: Final = (*_CANNOT, errno.EINVAL, errno.ETXTBSY, errno.EPERM, errno.EBADF)
"""What is said of single files as well: a swap file, or one that is not copied on write."""


def can_reflink(folder: int) -> bool:
    """Whether files made in this directory of ours can share content. Raises `OSError`."""
    names = [os.fsencode(fsio.fresh_name()) for _ in range(2)]
    made: list[int] = []
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        made += (os.open(name, flags, 0o600, dir_fd=folder) for name in names)
        # Not an empty file: a file system may find that nothing is easily shared.
        os.write(made[0], bytes(4096))
        fsio.reflink(made[1], made[0])
    except OSError as error:
        if error.errno not in _NOT_THIS:
            raise
        return False
    finally:
        for descriptor, name in zip(made, names, strict=False):
            os.close(descriptor)
            os.unlink(name, dir_fd=folder)
    return True


def share(target: int, source: int) -> bool:
    """Share the content by reflink; False when these two can't. Raises `OSError`."""
    try:
        fsio.reflink(target, source)
    except OSError as error:
        if error.errno not in _NOT_THIS:
            raise
        return False
    return True


def copy(
    target: int,
    source: int,
    status: os.stat_result,
    copied: Callable[[int], None] = lambda _: None,
) -> int:
    """Copy the data of a file of this status; returns how many bytes that was. Raises `OSError`.

    `copied` is told of the bytes as they come.
    """
    size = status.st_size
    done = 0
    end = 0
    for start, stop in capture.extents(source, status):
        end = _copy_extent(target, source, start, stop, copied)
        done += end - start
        if end < stop:
            # The file has been cut short: what was cut off is no hole.
            size = end
            break
    if end < size:
        os.ftruncate(target, size)
    return done


def _copy_extent(
    target: int, source: int, start: int, stop: int, copied: Callable[[int], None]
) -> int:
    """Copy the bytes from `start` up to `stop`; returns where they really end."""
    is_quick = True
    while start < stop:
        length = 0
        if is_quick:
            try:
                length = os.copy_file_range(source, target, min(_PIECE, stop - start), start, start)
            except OSError as error:
                if error.errno not in _NOT_THIS:
                    raise
                is_quick = False
                continue
        else:
            data = os.pread(source, min(_BLOCK, stop - start), start)
            length = len(data)
            fsio.write_at(target, data, start)
        if not length:
            break
        start += length
        copied(length)
    return start
