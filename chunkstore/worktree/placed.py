"""What one run has put into place: how each file looked when we let go of it.

Promises: a file is taken for the one that was put there only while nobody has touched it since.
Its inode number alone does not tell: the next file that is made gets that of one that is gone.
"""

from __future__ import annotations

import os

from chunkstore.worktree.baseline import marks


class Placed:
    """Files by path. Of linked files each further one moves the marks of all: kept by inode."""

    def __init__(self) -> None:
        self._inodes: dict[bytes, tuple[int, int]] = {}
        self._marks: dict[tuple[int, int], bytes] = {}

    def __contains__(self, path: bytes) -> bool:
        return path in self._inodes

    def note(self, path: bytes, descriptor: int) -> None:
        """Remember an open file that was just put there, or given new metadata."""
        status = os.fstat(descriptor)
        inode = self._inodes[path] = status.st_dev, status.st_ino
        self._marks[inode] = marks(status)

    def is_untouched(self, path: bytes, status: os.stat_result) -> bool:
        """Whether this is the status of what was put there."""
        inode = self._inodes.get(path)
        return inode is not None and self._marks[inode] == marks(status)
