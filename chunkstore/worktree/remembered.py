"""What a pulled tree remembers of where it came from, for those who need no more of a pull."""

from __future__ import annotations

import os

from chunkstore.objects.names import STATE_DIR
from chunkstore.worktree.installed import Source
from chunkstore.worktree.node import NodeState


def remembered(directory: str) -> Source | None:
    """Remote and SPEC of the last pull into a directory, or of the one at work; None without any.

    Needs no lock: whoever goes on giving begins before the pull has let go of it.
    """
    if not os.path.isdir(os.path.join(directory, os.fsdecode(STATE_DIR))):
        return None
    with NodeState(directory, read_only=True, locks=False) as state:
        return state.source or state.pending_source
