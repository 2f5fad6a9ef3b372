"""The public part of a store directory: which files may leave it, and how.

Promises that nothing but the files of the grammar below is ever opened, and
that no symbolic link below the root is followed, whoever planted it: each
component is opened relative to its parent's descriptor with O_NOFOLLOW.

    /store.json
    /images/<image>/ref
    /roots/<number>
    /versions/<64 hex>
    /packs/<64 hex>.pack  .idx  .torrent
    /locate/<64 hex>
    /deltas/<64 hex>  .pack  .idx

A path that fits the grammar has no `.`-only, empty or encoded component, so it
is the file's path below the root as it stands. `local/`, temporary files and
spools do not fit it. HTTP is left to `files`.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import Final

from chunkstore.objects.names import NAME

DIGEST: Final = r"[0-9a-f]{64}"
ROOT_VERSION: Final = r"[1-9][0-9]{0,18}"
DELTA_FILE: Final = DIGEST + r"\.(?:pack|idx)"

_PACK: Final = re.compile(f"({DIGEST})\\.pack")
# O_PATH on a symbolic link would open the link itself; O_DIRECTORY refuses it.
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO planted as a pack must not hang the server in open().
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_ABSENT: Final = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENAMETOOLONG}
)


class PublicTree:
    """A store directory, held open. The root itself may be a symbolic link."""

    def __init__(self, root: Path) -> None:
        """Raise OSError when `root` is not a directory that can be opened."""
        self._root = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Give the descriptor back; the tree is unusable afterwards."""
        os.close(self._root)

    def open(self, path: str) -> tuple[int, os.stat_result]:
        """Open the regular file at `path`, which the caller matched to the grammar.

        The descriptor is the caller's. Raises FileNotFoundError for anything
        that is not a regular file reached without a symbolic link, and other
        OSErrors for trouble: permission, descriptors, disk.
        """
        *directories, name = path.strip("/").split("/")
        try:
            parent = self._walk(directories)
            try:
                fd = os.open(name, _FILE, dir_fd=parent)
            finally:
                if parent != self._root:
                    os.close(parent)
        except OSError as error:
            if error.errno in _ABSENT:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
            raise
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise FileNotFoundError(errno.ENOENT, "not a regular file", path)
        return fd, status

    def images(self) -> list[str]:
        """The names of all images that have a ref, sorted."""
        names = self._names("images")
        return sorted(name for name in names if NAME.fullmatch(name) and self._has_ref(name))

    def packs(self) -> list[bytes]:
        """The ids of all packs that are there, in no order."""
        found = map(_PACK.fullmatch, self._names("packs"))
        return [bytes.fromhex(match[1]) for match in found if match is not None]

    def _names(self, directory: str) -> list[str]:
        try:
            opened = os.open(
                directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._root
            )
        except OSError as error:
            if error.errno in _ABSENT:
                return []
            raise
        try:
            return os.listdir(opened)
        finally:
            os.close(opened)

    def _has_ref(self, image: str) -> bool:
        try:
            fd, _ = self.open(f"images/{image}/ref")
        except FileNotFoundError:
            return False
        os.close(fd)
        return True

    def _walk(self, directories: list[str]) -> int:
        parent = self._root
        for name in directories:
            try:
                child = os.open(name, _DIRECTORY, dir_fd=parent)
            finally:
                if parent != self._root:
                    os.close(parent)
            parent = child
        return parent
