"""Pinning: telling a node which store to believe, before it pulls or ever after.

Promises: what is pinned is durable, in the node's own directory, where no image can reach it; what
was seen of a store before is only let go of when somebody says so. Leaves following the store from
there to `pull`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from chunkstore.errors import Conflict, local_errors
from chunkstore.objects.names import STATE_DIR
from chunkstore.storage import believe
from chunkstore.storage.backend import Reader
from chunkstore.storage.repository import Repository
from chunkstore.trust.root import Root, SignedRoot
from chunkstore.worktree.node import NodeState


def pin(
    reader: Reader,
    directory: str,
    *,
    clock: int,
    keys: Sequence[bytes] = (),
    document: SignedRoot | None = None,
) -> Root:
    """Let `directory` trust the store whose root is `document`, or that all root `keys` sign for.

    With neither, whatever the store shows, if the directory trusts none yet. Returns the newest
    root. Raises `Untrusted` when the store is not signed so, or goes back behind what was seen of
    it; `Conflict` when another store is trusted already and no key was named.
    """
    repository = Repository(reader)
    is_first_use = document is None and not keys
    if document is not None:
        chain = believe.by_document(repository, document)
    elif keys:
        chain = believe.by_keys(repository, keys)
    else:
        chain = believe.first_use(repository)
    roots = list(chain)
    store_id = roots[0].root.store_id
    with local_errors("can't pin"):
        os.makedirs(directory, exist_ok=True)
    with NodeState(directory) as state:
        now = state.memory
        if is_first_use and now is not None and now.root.store_id != store_id:
            raise Conflict(
                f"{directory} trusts store {now.root.store_id.hex()} already: name the key of "
                "another with --key"
            )
        known = state.memory_of(store_id)
        memory = believe.settle(roots, known, clock=clock, may_replace=not is_first_use)
        state.note_memory(memory)
    return memory.root


def forget(directory: str) -> None:
    """Let `directory` trust no store, and forget what it has seen of all."""
    if os.path.isdir(os.path.join(directory, os.fsdecode(STATE_DIR))):
        with NodeState(directory) as state:
            state.forget_trust()
