"""Recovery: finishing a change that was interrupted, from the journal and without the network."""

from __future__ import annotations

import os

from chunkstore.errors import Corrupt
from chunkstore.fsio import NOT_THERE
from chunkstore.pull.context import Context
from chunkstore.worktree import journal
from chunkstore.worktree.installed import Source


def finish_interrupted(context: Context) -> bool:
    """Finish what a journal says is left to do. Returns whether there was anything.

    What an update had made aside that had not come to its journal is removed.

    A change whose journal can't be read, or whose files or directories are gone, stays pending, for
    a pull to compare everything: nothing is lost by that but time.
    """
    state = context.state
    target, token = state.pending, state.token
    if target is None or not token:
        if state.has_new or context.mounts.points:
            _remove_leftovers(context)
        if target is None and os.path.exists(state.journal):
            # It was cut off when only sweeping up was left.
            journal.remove(state.journal)
        return False
    from chunkstore.pull.change import finish
    from chunkstore.worktree.aside import Aside
    from chunkstore.worktree.preload import everything

    try:
        step = journal.read(state.journal, token)
        if step is None:
            return False
        # What was interrupted may have replaced half of this program and its libraries already.
        everything()
        with Aside.again(context.tree, step.asides) as aside:
            finish(context, step, aside, target, state.pending_source or Source("", ""))
    except Corrupt:
        return False
    except OSError as error:
        # Somebody has taken away, since it was planned, a directory that files were to be put into.
        if error.errno not in NOT_THERE:
            raise
        return False
    report = context.report
    report.layers = target.layers
    report.entries = target.root.entries
    report.changed, report.removed = step.writes, len(step.removed) + len(step.swept)
    report.is_recovered = report.is_changed = True
    return True


def _remove_leftovers(context: Context) -> None:
    from chunkstore.objects.lookup import Lookup
    from chunkstore.worktree.aside import leftovers

    installed = context.state.installed
    old = None if installed is None else Lookup(installed.root, context.load).find
    leftovers(context.tree, context.mounts, old)
