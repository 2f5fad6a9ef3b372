"""Cloning: a second tree that is like a first and independent of it, on the same file system.

Everything a file system keeps comes along: all types but sockets, numeric owners, modes, times to
the nanosecond, xattrs with ACLs, capabilities and labels, inode flags, hardlinks within the tree,
holes. Content is shared by reflink where the file system can, so that it takes no space until one
side is written to; elsewhere it is copied. It is never shared by hardlink: a program that writes
into its file in place would change both trees (decision 0005).

Promises: no symbolic link is followed and no mount entered, whoever moves things about in the
source meanwhile; the target stays closed to others (0700) until all is in it and dressed; memory
grows with the depth of the tree and with its hardlinked files only. What is being written to
meanwhile is cloned as it is read, which may be a mixture, with the times it had before; what
vanishes is left out and counted. Leaves durability, and removing what an interruption left, to
callers.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import NamedTuple

from chunkstore.errors import Conflict, local_errors
from chunkstore.fsio import Directory
from chunkstore.objects.entry import Entry
from chunkstore.objects.names import printable
from chunkstore.progress import Progress, Unwatched
from chunkstore.worktree import capture, duplicate, metadata, mountinfo, restore
from chunkstore.worktree.original import Source, require_room
from chunkstore.worktree.twin import CloneReport, Twins, join


class _Visit(NamedTuple):
    """A directory on the way: what it is to be in the end, and the directories left in it."""

    path: bytes
    entry: Entry
    rest: Iterator[str]


def clone_tree(
    source: Directory,
    target: Directory,
    *,
    leave_out: Collection[bytes] = (),
    progress: Progress | None = None,
) -> CloneReport:
    """Make `target`, a directory of ours on the same file system, like `source`.

    Names at the top that are in `leave_out` are not cloned, and may be in the target already;
    nothing else may. Raises `Conflict` when something is mounted inside the source, and
    `LocalError` naming the path; ENOSPC with figures before anything is made.
    """
    with local_errors(f"can't clone {printable(source.path)}"):
        tree = Source(source, leave_out)
        _require_empty(target, leave_out)
        if os.stat(target.descriptor).st_dev != tree.device:
            raise Conflict(
                f"{printable(target.path)} is on another file system than {printable(source.path)}"
            )
        mountinfo.require_none_below(source.descriptor)
        survey = tree.survey()
        shares = duplicate.can_reflink(target.descriptor)
        require_room(target, survey, shares=shares)
        progress = progress or Unwatched()
        progress.expect(files=survey.paths, size=survey.size)
        report = CloneReport()
        twins = Twins(target, report, progress, shares=shares)
        _Walk(tree, target, twins, report, progress).run()
        return report


def _require_empty(target: Directory, leave_out: Collection[bytes]) -> None:
    held = set(map(os.fsencode, os.listdir(target.descriptor))) - set(leave_out)
    if held:
        where = printable(target.path)
        raise Conflict(f"{where} is not empty (it holds {printable(min(held))}): name a new one")


class _Walk:
    """One pass over the source, inner directories completed before outer ones.

    Only the innermost directory is open: a descriptor for each level of a deep tree could be more
    than a process may have.
    """

    def __init__(
        self,
        source: Source,
        target: Directory,
        twins: Twins,
        report: CloneReport,
        progress: Progress,
    ) -> None:
        self._source = source
        self._target = target
        self._twins = twins
        self._report = report
        self._progress = progress

    def run(self) -> None:
        """Clone all."""
        # What the target's folder handed down to it, it would hand down to all that is made inside.
        os.fchmod(self._target.descriptor, 0o700)
        top = os.stat(self._target.descriptor)
        bare = capture.describe(b"", top, content=b"", xattrs=(), flags=0, link=b"")
        restore.undress(self._target.descriptor, bare, self._report.shortfalls)
        stack: list[_Visit] = []
        self._push(stack, b"")
        while stack:
            visit = stack[-1]
            name = next(visit.rest, None)
            if name is not None:
                self._push(stack, join(visit.path, name))
                continue
            stack.pop()
            if not stack:
                self._twins.set_late_flags()
            folder = self._target.open_directory(visit.path)
            try:
                self._twins.complete(folder, visit.entry)
            finally:
                os.close(folder)

    def _push(self, stack: list[_Visit], path: bytes) -> None:
        """Clone a directory with all but its directories, which are made and left empty."""
        folder = self._source.enter(path)
        target = self._target.open_directory(path)
        try:
            if folder is None:
                self._report.vanished += 1
                self._drop(path)
                return
            status = os.stat(folder)
            entry = capture.describe(
                path,
                status,
                content=b"",
                xattrs=metadata.read_xattrs(folder),
                flags=metadata.read_flags(folder),
                link=b"",
            )
            inner = []
            for found in self._source.list(folder, path):
                if found.is_dir(follow_symlinks=False):
                    # A directory that changes while it is read may name something twice.
                    with suppress(FileExistsError):
                        os.mkdir(found.name, 0o700, dir_fd=target)
                        inner.append(found.name)
                else:
                    is_file = found.is_file(follow_symlinks=False)
                    self._twins.clone(folder, target, path, found.name, is_file=is_file)
            self._report.paths += 1
            self._progress.advance(files=1)
            if inner or not stack:
                stack.append(_Visit(path, entry, iter(inner)))
            else:
                self._twins.complete(target, entry)
        finally:
            os.close(target)
            if folder is not None:
                os.close(folder)

    def _drop(self, path: bytes) -> None:
        above, _, name = path.rpartition(b"/")
        folder = self._target.open_directory(above)
        try:
            os.rmdir(name, dir_fd=folder)
        finally:
            os.close(folder)
