"""Whether a tree can be swapped for another one that is made in the same folder.

Promises: no mount is torn from its tree, and nobody but us and root can get at what is made beside
it. The names there are known to everybody, so a local user who may write to the folder could plant
a directory or a link where we expect ours, have root fill or delete it, or see a tree of his own
put into place by a rollback. Therefore the folder must be ours or root's, and either closed to
others or sticky; in a sticky one, only what is ours can't be renamed by others, so the tree has to
be ours as well.
"""

from __future__ import annotations

import errno
import os
import stat

from chunkstore.errors import Conflict, LocalError
from chunkstore.objects.names import printable
from chunkstore.worktree import metadata, mountinfo


def check_place(path: str, folder: int, tree: int) -> None:
    """Raise `Conflict` or `LocalError` unless the open `tree` in `folder` can be swapped.

    `path` is where it lies, for messages.
    """
    shown = printable(os.fsencode(path))
    above, status, root = os.stat(folder), os.stat(tree), os.stat("/")
    if (status.st_dev, status.st_ino) == (root.st_dev, root.st_ino):
        raise Conflict(f"{shown} is /, which can't be swapped: pull without --atomic")
    # A bind mount has the device number of what is around it; so that alone does not tell.
    if mountinfo.mount_id(tree) != mountinfo.mount_id(folder):
        raise Conflict(f"{shown} is a mount point: pull without --atomic")
    if status.st_dev != above.st_dev:
        raise Conflict(
            f"{shown} is a subvolume, and would be a plain directory afterwards: "
            "pull without --atomic"
        )
    mountinfo.require_none_below(tree)
    _check_owners(path, above, status)
    for what, descriptor in (("it", tree), ("its folder", folder)):
        if metadata.read_flags(descriptor) & metadata.IMMUTABLE_FLAGS:
            raise Conflict(
                f"{shown} can't be swapped: {what} is immutable (chattr -i -a), "
                "or pull without --atomic"
            )
    # A directory that moves to another folder is written to itself: its `..` is in it.
    for descriptor in (folder, tree):
        if not os.access(b"/proc/self/fd/%d" % descriptor, os.W_OK | os.X_OK, effective_ids=True):
            where = printable(mountinfo.path_of(descriptor))
            raise LocalError(
                f"{where} can't be written to, and {shown} has to move to be swapped: "
                "pull without --atomic",
                errno=errno.EACCES,
            )


def _check_owners(path: str, above: os.stat_result, tree: os.stat_result) -> None:
    shown = printable(os.fsencode(path))
    folder = printable(os.path.dirname(os.fsencode(path)))
    if above.st_uid not in (0, os.geteuid()):
        raise Conflict(
            f"{folder} belongs to another user, who could replace what is made there: "
            "pull without --atomic"
        )
    # An ACL that lets others write shows as write permission of the group.
    if above.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        if not above.st_mode & stat.S_ISVTX:
            raise Conflict(
                f"others can write to {folder} and could replace what is made there: "
                "chmod go-w it, or pull without --atomic"
            )
        if tree.st_uid != os.geteuid():
            raise Conflict(
                f"{shown} belongs to another user, who could put another tree in its place: "
                "pull without --atomic"
            )
