"""Atomic updates: the whole new tree beside the old one, put into place in one step, and back.

The tree is cloned with everything that is the node's own, the clone is updated like any tree in
place, and the two are exchanged. Whoever looks sees the old tree or the new one. The old one stays
beside it, with the state it had, and `rollback` exchanges it back without the network.

Until the exchange nothing of the tree changes, so an interruption leaves the old tree; what it
leaves beside it is removed by the next run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from chunkstore.errors import Conflict, LocalError, NotFound
from chunkstore.fsio import Directory
from chunkstore.objects import delta
from chunkstore.objects.entry import change_letter
from chunkstore.objects.names import STATE_DIR, printable
from chunkstore.pull import hooks
from chunkstore.pull.context import Context
from chunkstore.worktree.clone import clone_tree
from chunkstore.worktree.installed import Installed
from chunkstore.worktree.node import NodeState
from chunkstore.worktree.swap import Swap

_NOT_CLONED = (b"lock", b"new", b"stage", b"journal", b"swarm")


@contextmanager
def beside(context: Context, swap: Swap) -> Iterator[tuple[NodeState, Directory]]:
    """A clone of the tree with a state of its own; put into place when the block ends well.

    `context` is of the tree, whose state is locked. Raises `Conflict`, `LocalError`; then the old
    tree is where it was.
    """
    target = swap.begin()
    try:
        # The state first: making its directory moves the time of the top, which the clone sets.
        _clone_state(context.tree, target)
        shared = clone_tree(context.tree, target, leave_out=[STATE_DIR], progress=context.progress)
        for kind, (_, path, reason) in shared.shortfalls.kinds.items():
            raise LocalError(
                f"can't clone {kind} of {printable(path)}: {reason}; pull without --atomic"
            )
        context.report.shared = shared
        with NodeState(swap.next_path) as state, Directory(swap.next_path) as tree:
            yield state, tree
        if context.report.is_changed:
            swap.complete()
        else:
            swap.discard()
    except BaseException:
        swap.discard()
        raise
    finally:
        target.close()


def _clone_state(tree: Directory, target: Directory) -> None:
    os.mkdir(STATE_DIR, 0o700, dir_fd=target.descriptor)
    with (
        Directory.held(tree.open_directory(STATE_DIR), tree.path + b"/" + STATE_DIR) as source,
        Directory.held(target.open_directory(STATE_DIR), target.path + b"/" + STATE_DIR) as state,
    ):
        clone_tree(source, state, leave_out=_NOT_CLONED)


def settle(directory: str) -> None:
    """Finish what an interrupted exchange left, where there can be any. Raises `LocalError`."""
    with suppress(Conflict, NotFound), Swap(directory) as swap:
        swap.settle()


def previous_tree(directory: str, state: NodeState) -> Installed | None:
    """What the tree kept beside this one is, if it is what this one was before."""
    try:
        with Swap(directory) as swap:
            swap.settle()
            if not swap.has_previous:
                return None
            with NodeState(swap.previous_path, read_only=True) as other:
                kept = other.installed if other.pending is None else None
    except (Conflict, NotFound):
        return None
    return kept if kept is not None and kept == state.previous else None


def exchange_back(context: Context, target: Installed) -> None:
    """Put the tree kept beside this one into its place. Raises `HookFailed`, `Conflict`."""
    old = context.state.installed
    assert old is not None
    with Swap(context.directory) as swap:
        with NodeState(swap.previous_path) as state:
            _note_changes(context, state, old, target)
            waiting = hooks.before(context, target)
            state.owe(waiting, previous=old)
            # What was seen of the store stays seen, or the old tree would believe older refs.
            if context.state.memory is not None:
                state.note_memory(context.state.memory)
            if waiting is not None:
                hooks.hand_over(context.state.changes, state.changes)
        swap.rollback()


def _note_changes(context: Context, state: NodeState, old: Installed, target: Installed) -> None:
    """What the exchange will change, by the manifests of both, in the states of both."""

    def load(digest: bytes) -> bytes:
        return context.state.nodes.get(digest) or state.nodes.get(digest) or context.load(digest)

    report = context.report
    for before, after in delta.diff(old.root, target.root, load):
        entry = after or before
        assert entry is not None
        report.changes.append((change_letter(before, after), entry.path))
    report.changed = sum(letter != "D" for letter, _ in report.changes)
    report.removed = len(report.changes) - report.changed
