"""Powers that a file gives to whoever runs it: set-user-id, set-group-id, file capabilities.

Promises: what was found to have them has them no more once `take_powers` returned.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import Final

from chunkstore import fsio
from chunkstore.worktree import metadata

_BITS: Final = stat.S_ISUID | stat.S_ISGID
_CAPABILITIES: Final = b"security.capability"


def has_powers(folder: int, name: bytes, status: os.stat_result) -> bool:
    """Whether the regular file at `name` in an open directory has any."""
    if status.st_mode & _BITS:
        return True
    if not status.st_mode & 0o111:
        return False
    try:
        path = metadata.by_descriptor(folder, name)
        os.getxattr(path, _CAPABILITIES, follow_symlinks=False)
    except OSError:
        return False
    return True


def take_powers(descriptor: int) -> None:
    """Take them from an open file. Raises `OSError`."""
    os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & ~_BITS)
    with suppress(OSError):
        os.removexattr(descriptor, _CAPABILITIES)


def disarm(folder: int, name: bytes) -> None:
    """Remove a name of a file that was replaced; if it has other names, not without its powers."""
    descriptor = fsio.open_file(folder, name)
    try:
        if os.fstat(descriptor).st_nlink > 1:
            take_powers(descriptor)
    finally:
        os.close(descriptor)
    os.unlink(name, dir_fd=folder)
