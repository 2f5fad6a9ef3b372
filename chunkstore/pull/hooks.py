"""Hooks around a change: when they run, and what becomes of their failures.

A hook that runs before and fails stops the pull with the tree untouched. What has to run after is
noted in the state together with the change, so that an interruption does not lose it; it is done
only when all of it has succeeded, and until then every pull and `recover` tries again. When another
change comes before that, the hooks are told of both: a kernel that no boot loader knows yet is not
forgotten because the next version leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from chunkstore import fsio
from chunkstore.errors import HookFailed, Untrusted
from chunkstore.pull.context import Context
from chunkstore.worktree import hooks
from chunkstore.worktree.installed import After, Installed

Changes = Iterable[tuple[str, bytes]]


def before(
    context: Context, target: Installed, changes: Callable[[], Changes] | None = None
) -> After | None:
    """Run what has to run before the change; returns what has to run after it, if anything.

    `changes` gives the paths that change, when the report has not got them. Raises `HookFailed`.
    """
    options = context.options
    old, owed = context.state.installed, context.state.owed
    before = old.version.hex() if old is not None else ""
    commands = options.post_apply
    if owed is not None:
        before = owed.old
        commands = (*(command for command in owed.commands if command not in commands), *commands)
    after = After(image=target.image, old=before, new=target.version.hex(), commands=commands)
    if not (options.pre_apply or commands or hooks.are_there(context.tree)):
        return None
    found = changes() if changes is not None else context.report.changes
    # What an installation changes is everything, also when it is the second try.
    earlier = hooks.read_changes(context.state.changes) if owed is not None and old else {}
    hooks.write_changes(context.state.changes, found, earlier)
    _run(context, hooks.PRE_APPLY, after, options.pre_apply)
    return after


def after(context: Context) -> None:
    """Run what still has to run after a change; a failure is noted in the report, not raised."""
    waiting = context.state.after
    if waiting is None:
        return
    try:
        _run(context, hooks.POST_APPLY, waiting, waiting.commands)
    except (HookFailed, Untrusted) as error:
        context.report.hook_error = str(error)
    else:
        context.state.hooks_done()


def hand_over(changes: str, to: str) -> None:
    """Give another tree's state the list of changes."""
    with suppress(FileNotFoundError), open(changes, "rb") as file:
        fsio.write_durably(to, file.read(), mode=0o600)


def _run(context: Context, stage: str, waiting: After, commands: tuple[str, ...]) -> None:
    occasion = hooks.Occasion(
        stage=stage,
        directory=context.directory,
        image=waiting.image,
        old_version=waiting.old,
        new_version=waiting.new,
        changes=context.state.changes,
    )
    hooks.run_hooks(
        occasion,
        commands,
        environment=context.options.environment,
        output=context.options.listener,
    )
