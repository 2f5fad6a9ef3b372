"""Making a file out of one that is like it: shared by reflink, and written only where it differs.

On file systems that can (xfs, btrfs), a large file of which little changes, or that only moved,
takes neither time nor room for what stays. Every byte was checked on its way here; what is shared
is compared with it before it counts, so a file that changes meanwhile is no danger. Copying by the
kernel (`copy_file_range`) is not used: what it reads is not what was checked.
"""

from __future__ import annotations

import os
from typing import Final

from chunkstore import fsio
from chunkstore.worktree import duplicate
from chunkstore.worktree.restore import Content

WORTH: Final = 256 * 1024
"""Bytes of the smallest file that is shared: below, looking costs more than it saves."""


def make_like(folder: int, name: bytes, base: int, content: Content, size: int) -> int:
    """Create a file of this content that shares with the open file `base` what is the same.

    Returns the descriptor, still to be dressed. Raises `OSError`; the caller removes what is left.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        is_shared = duplicate.share(descriptor, base)
        offset = 0
        for data, length in content:
            if data is None:
                if is_shared:
                    fsio.punch(descriptor, offset, length)
            elif not is_shared or fsio.read_at(descriptor, offset, offset + length) != data:
                fsio.write_at(descriptor, data, offset)
            offset += length
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
