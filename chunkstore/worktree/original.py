"""Surveying a tree that is to be cloned: what is there, and whether it can be cloned whole.

Promises: other mounts and subvolumes are found before anything is made; links are not followed.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator
from typing import NamedTuple

from chunkstore.errors import Conflict, LocalError
from chunkstore.fsio import Directory
from chunkstore.objects.names import printable
from chunkstore.worktree import mountinfo
from chunkstore.worktree.twin import GONE, join


class Extent(NamedTuple):
    """What there is: paths, the length of files, bytes that data and directories occupy."""

    paths: int
    size: int
    data: int
    folders: int


class Source:
    """The tree that is cloned, less the names at the top that are left out.

    Directories are opened from the top each time, never by `..`: what somebody has moved out of
    the tree can't be reached that way. Raises `Conflict` at what is mounted inside.
    """

    def __init__(self, tree: Directory, leave_out: Collection[bytes]) -> None:
        self._tree = tree
        self._leave_out = {os.fsdecode(name) for name in leave_out}
        self._mount = mountinfo.mount_id(tree.descriptor)
        self.device = os.stat(tree.descriptor).st_dev

    def enter(self, path: bytes) -> int | None:
        """Open a directory of the source; None when there is none any more."""
        try:
            folder = self._tree.open_directory(path)
        except OSError as error:
            if error.errno in GONE:
                return None
            raise
        if mountinfo.mount_id(folder) != self._mount:
            os.close(folder)
            raise self._foreign(path)
        return folder

    def list(self, folder: int, path: bytes) -> Iterator[os.DirEntry[str]]:
        """What is in an open directory."""
        with os.scandir(folder) as entries:
            for entry in entries:
                if path or entry.name not in self._leave_out:
                    yield entry

    def survey(self) -> Extent:
        """Look at every path."""
        paths, size, data, folders = 1, 0, 0, 0
        linked: set[int] = set()
        pending = [b""]
        while pending:
            path = pending.pop()
            folder = self.enter(path)
            if folder is None:
                continue
            try:
                for entry in self.list(folder, path):
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    paths += 1
                    if stat.S_ISDIR(status.st_mode):
                        below = join(path, entry.name)
                        if status.st_dev != self.device:
                            raise self._foreign(below)
                        folders += status.st_blocks * 512
                        pending.append(below)
                        continue
                    size += status.st_size if stat.S_ISREG(status.st_mode) else 0
                    if status.st_nlink == 1 or status.st_ino not in linked:
                        data += status.st_blocks * 512
                    if status.st_nlink > 1:
                        linked.add(status.st_ino)
            finally:
                os.close(folder)
        return Extent(paths, size, data, folders)

    def _foreign(self, path: bytes) -> Conflict:
        where = printable(self._tree.path + b"/" + path)
        return Conflict(
            f"{where} is a mount or a subvolume inside the tree: "
            "take it away, or do it in place, without --atomic"
        )


def require_room(target: Directory, survey: Extent, *, shares: bool) -> None:
    """Raise `LocalError` (ENOSPC) when what was surveyed has no room on the file system."""
    room = os.fstatvfs(target.descriptor)
    free = room.f_bavail * room.f_frsize
    needed = survey.folders + (0 if shares else survey.data)
    where = printable(target.path)
    if needed > free:
        raise LocalError(
            f"no space to clone the tree: {needed} bytes are needed, {free} are free in "
            f"{where}; make room, or do it in place, without --atomic",
            errno=errno.ENOSPC,
        )
    if room.f_files and survey.paths > room.f_favail:
        raise LocalError(
            f"no inodes to clone the tree: {survey.paths} are needed, {room.f_favail} are "
            f"free in {where}; make room, or do it in place, without --atomic",
            errno=errno.ENOSPC,
        )
