"""Verification of a pulled tree: every byte and all metadata against the version it should be.

Promises: reads everything and changes nothing; what differs is named, and so is what the image
does not know. Needs neither the store nor the network: the manifest is in the node's state.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from chunkstore.errors import Corrupt, NotFound, local_errors
from chunkstore.fsio import Directory
from chunkstore.objects import manifest
from chunkstore.objects.entry import DIRECTORY, Entry
from chunkstore.objects.names import STATE_DIR, is_below
from chunkstore.progress import Progress, Unwatched
from chunkstore.worktree.compare import drift
from chunkstore.worktree.node import Installed, NodeState


@dataclass
class TreeReport:
    """What was found: `drifted` as (letter, path) in path order, letters as in a diff.

    `unknown` are paths the image does not have, of a directory only itself. `is_pending` says that
    an interrupted pull left the tree in between.
    """

    installed: Installed
    is_pending: bool = False
    drifted: list[tuple[str, bytes]] = field(default_factory=list)
    unknown: list[bytes] = field(default_factory=list)


def verify_tree(directory: str, *, progress: Progress | None = None) -> TreeReport:
    """Compare a pulled tree with its version. Raises `NotFound` when nothing was pulled there."""
    if not os.path.isdir(os.path.join(directory, os.fsdecode(STATE_DIR))):
        raise NotFound(f"nothing was pulled into {directory}", name=directory)
    with (
        local_errors("can't verify"),
        NodeState(directory) as state,
        Directory(directory) as tree,
    ):
        pending = state.pending
        installed = state.installed or pending
        if installed is None:
            raise NotFound(f"nothing was pulled into {directory}", name=directory)
        report = TreeReport(installed, is_pending=pending is not None)
        check = _Check(state, tree, report, progress or Unwatched())
        check.run(installed)
        return report


class _Check:
    def __init__(
        self, state: NodeState, tree: Directory, report: TreeReport, progress: Progress
    ) -> None:
        self._state = state
        self._tree = tree
        self._report = report
        self._progress = progress
        self._open: list[tuple[bytes, set[bytes]]] = []

    def _load(self, digest: bytes) -> bytes:
        data = self._state.node(digest)
        if data is None:
            raise Corrupt(f"the node's state lacks manifest node {digest.hex()}: pull again")
        return data

    def run(self, installed: Installed) -> None:
        root = installed.root
        self._progress.expect(files=root.entries, size=root.size)
        for entry in manifest.walk(root, self._load):
            self._leave(entry.path)
            self._check(entry)
            self._progress.advance(files=1, size=entry.size)
        self._leave(None)
        self._report.unknown.sort()

    def _check(self, entry: Entry) -> None:
        letter = drift(self._tree, entry, self._load)
        if letter:
            self._report.drifted.append((letter, entry.path))
        if self._open:
            self._open[-1][1].discard(entry.path.rpartition(b"/")[2])
        if entry.kind == DIRECTORY and letter not in ("D", "T"):
            self._open.append((entry.path, self._names(entry.path)))

    def _names(self, path: bytes) -> set[bytes]:
        descriptor = self._tree.open_directory(path)
        try:
            names = {os.fsencode(name) for name in os.listdir(descriptor)}
        finally:
            os.close(descriptor)
        return names - {STATE_DIR} if not path else names

    def _leave(self, path: bytes | None) -> None:
        """What is left of the names of directories that were passed is unknown to the image."""
        while self._open and (path is None or not is_below(path, self._open[-1][0])):
            above, names = self._open.pop()
            prefix = above + b"/" if above else b""
            self._report.unknown.extend(prefix + name for name in names)
