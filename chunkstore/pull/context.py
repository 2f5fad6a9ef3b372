"""What every part of a pull works on: the tree, the node's state, and what this run was told."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from chunkstore import fsio
from chunkstore.errors import DamagedState, LocalError, NotFound
from chunkstore.fsio import Directory
from chunkstore.objects.names import printable
from chunkstore.progress import Progress
from chunkstore.pull.remote import Remote
from chunkstore.pull.report import PullOptions, PullReport
from chunkstore.worktree.installed import Installed
from chunkstore.worktree.mounts import mounts_below
from chunkstore.worktree.node import NodeState
from chunkstore.worktree.patterns import Patterns, own_rules
from chunkstore.worktree.restore import Shortfalls

if TYPE_CHECKING:
    from chunkstore.objects.entry import Entry
    from chunkstore.objects.lookup import Lookup
    from chunkstore.worktree.baseline import Baseline, Witness
    from chunkstore.worktree.planner import Planner


class Context:
    """One run on one tree. A context manager; `remote` may be missing.

    `directory` is where the tree is for those who are told of it, if that is somewhere else.
    `left_out` are the patterns of what the tree will lack in the end.
    """

    def __init__(
        self,
        tree: Directory,
        state: NodeState,
        remote: Remote | None,
        options: PullOptions,
        report: PullReport,
        progress: Progress,
        *,
        directory: str | None = None,
    ) -> None:
        self.tree = tree
        self.directory = os.fsdecode(tree.path) if directory is None else directory
        self.state = state
        self.remote = remote
        self.options = options
        self.report = report
        self.progress = progress
        self.mounts = mounts_below(tree)
        self.excludes = Patterns([*options.excludes, *own_rules(tree)])
        self.left_out = self.excludes.lines
        self._baseline: Baseline | None = None
        report.shortfalls = Shortfalls(strict=options.strict, devices=options.devices)
        report.left_alone = [(mount.path, mount.kind) for mount in self.mounts.left_alone]

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        if self._baseline is not None:
            self._baseline.close()

    @property
    def baseline(self) -> Baseline:
        """How the files of the image looked when they were put there."""
        if self._baseline is None:
            self._baseline = self.state.baseline()
        return self._baseline

    def exclude_again(self) -> None:
        """Exclude also what the pull left out that made the tree, which goes on lacking it."""
        self.excludes = Patterns([*self.state.excludes, *self.excludes.lines])
        self.left_out = self.state.excludes

    @property
    def needs_survey(self) -> bool:
        """Whether there may be something to do although the version is the installed one."""
        return self.options.mirror or self.state.excludes != self.excludes.lines

    def load(self, digest: bytes) -> bytes:
        """A node of a manifest or chunk list, from the state, else from the remote."""
        if self.remote is not None:
            return self.remote.load(digest)
        data = self.state.nodes.get(digest)
        if data is None:
            raise DamagedState(
                f"the node's state lacks manifest node {digest.hex()}: "
                "'imgstore verify --repair' fetches it again"
            )
        return data

    def is_as_noted(self, path: bytes) -> bool:
        """Whether a file looks as it did when it was put there."""
        try:
            with fsio.opened(self.tree, path, os.O_PATH) as descriptor:
                return self.baseline.is_as_noted(path, os.fstat(descriptor))
        except OSError:
            return False

    def witness(self, sides: Iterable[Installed]) -> Witness:
        """Tells what came from one of these versions from what is the node's own."""
        from chunkstore.objects.lookup import Lookup
        from chunkstore.worktree.baseline import Witness

        lookups = [Lookup(side.root, self.load) for side in sides]
        return Witness(self.baseline, lambda path: _known(lookups, path), self.load)

    def planner(self, target: Installed, witness: Witness) -> Planner:
        """A planner for making the tree `target`."""
        from chunkstore.objects.lookup import Lookup
        from chunkstore.worktree.planner import Planner

        return Planner(
            self.tree,
            Lookup(target.root, self.load).find,
            witness,
            self.mounts,
            self.excludes,
            is_exact=self.options.mirror,
        )


def _known(lookups: Iterable[Lookup], path: bytes) -> list[Entry]:
    """The entries of one path in several manifests, where there are any."""
    found = []
    for lookup in lookups:
        try:
            found.append(lookup.find(path))
        except NotFound:
            continue
    return found


def require_room(context: Context, entries: Iterable[Entry]) -> None:
    """Raise `LocalError` when a file system has no room for the data and inodes of these files.

    Each mounted file system is asked for what would lie on it. Holes and further links take none.
    """
    from chunkstore.objects import chunklist

    sizes: dict[bytes, int] = {}
    counts: dict[bytes, int] = {}
    for entry in entries:
        point = context.mounts.of(entry.path)
        data = 0 if entry.link else chunklist.data_size(entry, context.load)
        sizes[point] = sizes.get(point, 0) + data
        counts[point] = counts.get(point, 0) + (not entry.link)
    for point, size in sizes.items():
        check_room(context.tree, point, size, counts[point])


def require_writable(context: Context, paths: Iterable[bytes]) -> None:
    """Raise `LocalError` when one of these paths lies on a file system mounted read-only."""
    if not context.mounts.points:
        return  # the tree's own holds the node's state, which was written to already
    for point in sorted({context.mounts.of(path) for path in paths}):
        with fsio.opened(context.tree, point, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
            is_read_only = os.fstatvfs(descriptor).f_flag & os.ST_RDONLY
        if is_read_only:
            place = os.fsdecode(context.tree.path) + (f"/{printable(point)}" if point else "")
            raise LocalError(f"{place} is mounted read-only", errno=errno.EROFS)


def check_room(tree: Directory, point: bytes, size: int, inodes: int) -> None:
    """Raise `LocalError` when the file system at a path has no room for so many bytes and files."""
    with fsio.opened(tree, point, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        room = os.fstatvfs(descriptor)
    place = os.fsdecode(tree.path) + (f"/{printable(point)}" if point else "")
    free = room.f_bavail * room.f_frsize
    if size > free:
        raise LocalError(
            f"no space: {size} bytes are needed, {free} are free in {place}", errno=errno.ENOSPC
        )
    if room.f_files and inodes > room.f_favail:
        raise LocalError(
            f"no inodes: {inodes} are needed, {room.f_favail} are free in {place}",
            errno=errno.ENOSPC,
        )
