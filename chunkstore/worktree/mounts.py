"""Mounts inside a tree: which file system a path lies on, and which are not the image's to change.

Files are made aside and renamed into place, and a rename does not cross a mount; so whoever
prepares files has to know where they will lie. Kernel file systems such as `/proc`, single files
that something is mounted on, and the `tmpfs` of a running system are left alone, as whoever
administers that system would.

Promises: only what is visible counts, mounts hidden below other mounts do not. Looks once; mounts
that come later are met when a rename fails.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import Final, NamedTuple

from chunkstore import fsio
from chunkstore.fsio import Directory
from chunkstore.objects.names import is_below
from chunkstore.worktree import mountinfo

_KERNEL: Final = frozenset(
    (
        *("autofs", "binder", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs"),
        *("devpts", "devtmpfs", "efivarfs", "fusectl", "hugetlbfs", "mqueue", "nfsd", "nsfs"),
        *("proc", "pstore", "ramfs", "resctrl", "rpc_pipefs", "securityfs", "selinuxfs"),
        *("smackfs", "sysfs", "tracefs"),
    )
)
"""File systems that hold what the kernel says, not files that somebody put there."""
_OF_A_RUNNING_SYSTEM: Final = frozenset(("tmpfs", "overlay", "squashfs", "fuse"))
"""Below a running root these are `/run`, `/tmp`, containers and removable media."""


class Mount(NamedTuple):
    """A mount point, relative to the tree, and what kind of file system is there."""

    path: bytes
    kind: str


class Mounts:
    """What is mounted below the top of a tree."""

    def __init__(self, writable: Iterable[Mount] = (), left_alone: Iterable[Mount] = ()) -> None:
        self._points = sorted((mount.path for mount in writable), key=len, reverse=True)
        self.left_alone = tuple(sorted(left_alone))
        self._foreign = [mount.path for mount in self.left_alone]

    @property
    def points(self) -> tuple[bytes, ...]:
        """Where file systems are mounted that may be written to, without the tree's own."""
        return tuple(sorted(self._points))

    def of(self, path: bytes) -> bytes:
        """The mount point whose file system holds what is at `path`; empty for the tree's own.

        What stands at a mount point itself lies in the mounted file system.
        """
        for point in self._points:
            if path == point or is_below(path, point):
                return point
        return b""

    def __bool__(self) -> bool:
        return bool(self._points or self._foreign)

    def is_on_the_way(self, path: bytes) -> bool:
        """Whether something is mounted at the path or below it."""
        points = (*self._points, *self._foreign)
        return any(point == path or is_below(point, path) for point in points)

    def is_left_alone(self, path: bytes) -> bool:
        """Whether the path is, or is below, a mount that is not ours to change."""
        return any(path == point or is_below(path, point) for point in self._foreign)


NO_MOUNTS: Final = Mounts()


def mounts_below(tree: Directory) -> Mounts:
    """Look what is mounted inside `tree`; nothing where there is no `/proc`."""
    try:
        found = mountinfo.mounts()
        top = mountinfo.path_of(tree.descriptor)
    except OSError:
        return Mounts()
    prefix = top.rstrip(b"/") + b"/"
    is_running = os.path.samestat(os.stat(tree.descriptor), os.stat("/"))
    writable, left_alone = [], []
    for number, place, kind in found:
        if not place.startswith(prefix) or len(place) == len(prefix):
            continue
        path = place[len(prefix) :]
        mode = _visible_mode(tree, path, number)
        if mode is None:
            continue
        # A file system in user space names its program behind a dot.
        is_foreign = kind in _KERNEL or (
            is_running and kind.partition(".")[0] in _OF_A_RUNNING_SYSTEM
        )
        if is_foreign or not stat.S_ISDIR(mode):
            left_alone.append(Mount(path, kind))
        else:
            writable.append(Mount(path, kind))
    return Mounts(writable, left_alone)


def _visible_mode(tree: Directory, path: bytes, number: bytes) -> int | None:
    """The mode of what is at a mount point, if it is this mount that one gets to see there."""
    try:
        with fsio.opened(tree, path, os.O_PATH) as descriptor:
            if mountinfo.mount_id(descriptor) != number:
                return None
            return os.fstat(descriptor).st_mode
    except OSError:
        return None
