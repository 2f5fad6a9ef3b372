"""The directories of a tree by path, the last one held open: paths come in order.

So a step for each path costs one open for each directory. What is reached through a descriptor
stays what it was, whoever moves the directory meanwhile.
"""

from __future__ import annotations

import os

from chunkstore import fsio
from chunkstore.fsio import NOT_THERE, Directory
from chunkstore.objects.names import is_below, split


class Folders:
    """The directories of `tree`. `devices` are the file systems entered, each with a path in it."""

    def __init__(self, tree: Directory) -> None:
        self._tree = tree
        self._path: bytes | None = None
        self._descriptor = -1
        self._missing: bytes | None = None
        self.devices: dict[int, bytes] = {}

    def close(self) -> None:
        """Let go of the directory that is held."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._path, self._descriptor = None, -1

    def open(self, path: bytes) -> int:
        """A descriptor of a directory, good until another is asked for. Raises `OSError`."""
        if path != self._path:
            self.close()
            self._descriptor = self._tree.open_directory(path)
            self._path = path
            self.devices.setdefault(os.fstat(self._descriptor).st_dev, path)
        return self._descriptor

    def holding(self, path: bytes) -> tuple[int, bytes]:
        """The directory a path lies in and the path's name there. Raises `OSError`."""
        above, name = split(path)
        return self.open(above), name

    def find(self, path: bytes) -> int:
        """As `open`, and -1 for a path at which there is no directory.

        That is remembered as long as paths below it are asked for.
        """
        if self._missing is not None and (path == self._missing or is_below(path, self._missing)):
            return -1
        self._missing = None
        try:
            return self.open(path)
        except OSError as error:
            if error.errno not in NOT_THERE:
                raise
        self._missing = path
        return -1

    def of(self, path: bytes) -> tuple[int, bytes]:
        """As `holding`, and -1 for a directory that is not there."""
        above, name = split(path)
        return self.find(above), name or b"."

    def lstat(self, path: bytes) -> os.stat_result | None:
        """The status of what stands at a path; None for nothing."""
        folder, name = self.of(path)
        return None if folder < 0 else fsio.lstat(folder, name)
