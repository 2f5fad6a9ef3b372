"""Verification of a pulled tree: every byte and all metadata against the version it should be.

Promises: reads everything and changes nothing; what differs is named, and so is what the image
does not know. Needs neither the store nor the network: the manifest is in the node's state.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from chunkstore.errors import DamagedState, NotFound, local_errors
from chunkstore.fsio import Directory
from chunkstore.objects import manifest
from chunkstore.objects.names import STATE_DIR
from chunkstore.progress import Progress, Unwatched
from chunkstore.worktree.installed import Installed
from chunkstore.worktree.mounts import mounts_below
from chunkstore.worktree.node import NodeState
from chunkstore.worktree.patterns import Patterns, own_rules
from chunkstore.worktree.survey import Survey


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


def verify_tree(
    directory: str, *, excludes: Iterable[bytes] = (), progress: Progress | None = None
) -> TreeReport:
    """Compare a pulled tree with its version. Raises `NotFound` when nothing was pulled there.

    Left out is what the pull left out, what `excludes` says, and mounts that are not the image's.
    """
    if not os.path.isdir(os.path.join(directory, os.fsdecode(STATE_DIR))):
        raise NotFound(f"nothing was pulled into {directory}", name=directory)
    watched = progress or Unwatched()
    with (
        local_errors("can't verify"),
        NodeState(directory, read_only=True) as state,
        Directory(directory) as tree,
    ):
        pending = state.pending
        installed = state.installed or pending
        if installed is None:
            raise NotFound(f"nothing was pulled into {directory}", name=directory)
        root = installed.root
        watched.expect(files=root.entries, size=root.size)
        survey = Survey(
            tree,
            manifest.walk(root, partial(_load, state)),
            partial(_load, state),
            excludes=Patterns([*state.excludes, *excludes, *own_rules(tree)]),
            mounts=mounts_below(tree),
            checked=lambda entry: watched.advance(files=1, size=entry.size),
        )
        drifted = [(letter, entry.path) for letter, entry in survey]
        return TreeReport(installed, pending is not None, drifted, survey.unknown)


def _load(state: NodeState, digest: bytes) -> bytes:
    data = state.nodes.get(digest)
    if data is None:
        raise DamagedState(
            f"the node's state lacks manifest node {digest.hex()}: "
            "'imgstore verify --repair' fetches it again"
        )
    return data
