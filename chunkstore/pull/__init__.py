"""Pull: make a directory the version a remote names, moving only what it lacks.

    recover   finish what an interrupted pull had begun
    resolve   refs that can be believed, versions, the manifest nodes that are not here yet
    plan      difference of the manifests, held against the tree
    fetch     chunks that no file of the node has, checked, to the stage
    prepare   make the new files aside; the tree is not touched yet
    apply     journal, rename into place, remove, dress

A first installation streams instead: chunks become files as they arrive. Promises: the tree is
the old version, the new one, or marked as in between, and then the next pull, or `recover` without
the network, finishes it. Nothing is changed on the word of a ref that can't be believed. Nothing
outside the directory is written. Leaves the reading of remotes to `storage.backends` and the rules
of trust to `trust`.

Most pulls find nothing to do. So what changes trees is imported when there is something to change;
before the tree is touched `worktree.preload` brings in the rest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from chunkstore.errors import Conflict, NotFound, local_errors
from chunkstore.fsio import Directory
from chunkstore.objects.names import STATE_DIR, Spec, layers_text
from chunkstore.progress import Progress, Unwatched
from chunkstore.pull import crowd
from chunkstore.pull.context import Context
from chunkstore.pull.recovery import finish_interrupted
from chunkstore.pull.remote import Remote
from chunkstore.pull.report import PullOptions, PullReport, Trust
from chunkstore.storage.backend import Reader
from chunkstore.storage.metered import MeteredReader
from chunkstore.worktree.installed import Source
from chunkstore.worktree.node import NodeState
from chunkstore.worktree.remembered import remembered

__all__ = [
    "PullOptions",
    "PullReport",
    "Trust",
    "mend",
    "pull",
    "recover",
    "remembered",
    "rollback",
]


def pull(
    reader: Reader,
    specs: Sequence[Spec],
    directory: str,
    *,
    location: str = "",
    remember: str = "",
    options: PullOptions | None = None,
    progress: Progress | None = None,
) -> PullReport:
    """Make `directory` what `specs` name, laid over each other, in the store `reader` reads.

    `location` is what to remember as the remote, `remember` as the SPEC if not `specs`. Raises
    `Conflict` when the directory is neither empty nor pulled, `NotFound`, `Corrupt`, `Untrusted`,
    `TransferError`, `HookFailed`, `LocalError`; all but a failing disk before the tree is touched.
    """
    options = options or PullOptions()
    if not options.dry_run and not _has_state(directory):
        _require_empty(directory)
    watched = progress or Unwatched()
    metered = MeteredReader(reader, came=lambda count: watched.came(server=count))
    report = PullReport()
    with local_errors("can't pull"), _opened(directory, options) as (state, tree):
        if state.is_new and not options.dry_run:
            _require_empty(directory)
        with (
            crowd.joined(metered, options, state, report) as joined,
            Remote(joined, specs, state) as remote,
            Context(tree, state, remote, options, report, watched) as context,
        ):
            if not options.dry_run:
                finish_interrupted(context)
            source = Source(location, remember or layers_text(specs))
            if options.atomic and state.installed is not None and not options.dry_run:
                is_swapped = _run_beside(context, remote, source)
            else:
                is_swapped = False
                _run(context, remote, source)
            if not options.dry_run and not is_swapped:
                _run_hooks(context)
        if is_swapped:
            _after_swap(directory, options, report)
    report.requests, report.received = metered.traffic
    return report


@contextmanager
def _opened(directory: str, options: PullOptions) -> Iterator[tuple[NodeState, Directory]]:
    with ExitStack() as stack:
        if options.dry_run and not os.path.isdir(directory):
            import tempfile

            # Nothing is made in a dry run, not even the directory: an empty one stands for it.
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="imgstore-"))
        state = stack.enter_context(NodeState(directory, read_only=options.dry_run))
        yield state, stack.enter_context(Directory(directory))


def _run(context: Context, remote: Remote, source: Source) -> None:
    state, report = context.state, context.report
    old = state.installed
    refs = remote.refs(context.options, report)
    is_whole = old is not None and not state.halves
    if old is not None and is_whole and remote.is_installed(refs, old):
        report.layers, report.before = old.layers, old.layers
        report.entries = old.root.entries
        if not context.needs_survey:
            if state.source != source and not context.options.dry_run:
                state.note_source(source)
            return
    target = remote.resolve(refs)
    report.layers, report.before = target.layers, old.layers if old is not None else ()
    report.entries = target.root.entries
    if old is None:
        from chunkstore.pull.first import FirstInstallation

        report.is_changed = True
        FirstInstallation(context, remote, target, source).run()
    elif target != old or not is_whole or context.needs_survey:
        from chunkstore.pull.update import update

        update(context, old, target, source)
        report.is_changed = target != old or not is_whole or bool(report.changes)
    elif not context.options.dry_run:
        state.note_source(source)
    if not context.options.dry_run:
        from chunkstore.pull.sweep import sweep

        sweep(context, target.root)


def _run_beside(context: Context, remote: Remote, source: Source) -> bool:
    """Update a clone of the tree and put it into place. Returns whether there was anything."""
    from chunkstore.pull.atomic import beside, settle
    from chunkstore.worktree.swap import Swap

    state, report = context.state, context.report
    refs = remote.refs(context.options, report)
    old = state.installed
    assert old is not None
    if not state.halves and remote.is_installed(refs, old) and not context.needs_survey:
        settle(context.directory)
        _run(context, remote, source)
        return False
    directory = os.path.realpath(context.directory)
    with (
        Swap(directory) as swap,
        beside(context, swap) as (clone_state, clone),
        Remote(remote.reader, remote.specs, clone_state) as again,
        Context(
            *(clone, clone_state, again, context.options, report, context.progress),
            directory=directory,
        ) as own,
    ):
        _run(own, again, source)
    return report.is_changed


def _after_swap(directory: str, options: PullOptions, report: PullReport) -> None:
    """Run what has to run now that another tree is in place."""
    with NodeState(directory) as state, Directory(directory) as tree:
        shortfalls = report.shortfalls
        with Context(tree, state, None, options, report, Unwatched()) as context:
            _run_hooks(context)
        report.shortfalls = shortfalls


def _run_hooks(context: Context) -> None:
    """Run what still has to run after a change, this one or one before."""
    if context.state.after is not None:
        from chunkstore.pull import hooks

        hooks.after(context)


def rollback(
    reader: Reader,
    directory: str,
    *,
    options: PullOptions | None = None,
    progress: Progress | None = None,
) -> PullReport:
    """Make `directory` the version it was before.

    When the last pull was atomic its old tree is put back, without the network; else it is done in
    place, with what the remote has of that version. The remote and SPEC that are remembered stay,
    so the next pull goes forward again. Raises `NotFound` when there was none
    before, or the remote has dropped it.
    """
    from chunkstore.pull.atomic import exchange_back, previous_tree

    if not _has_state(directory):
        raise NotFound(f"nothing was pulled into {directory}", name=directory)
    options = options or PullOptions()
    with local_errors("can't roll back"), NodeState(directory) as state:
        before, source = state.previous, state.source
        if before is None or source is None:
            raise NotFound(f"{directory} has no version before this one", name=directory)
        if previous_tree(directory, state) is not None:
            report = PullReport(
                before.layers,
                is_changed=True,
                is_exchanged=True,
                entries=before.root.entries,
            )
            with (
                Directory(directory) as tree,
                Context(tree, state, None, options, report, progress or Unwatched()) as context,
            ):
                report.before = state.installed.layers if state.installed is not None else ()
                exchange_back(context, before)
            _after_swap(directory, options, report)
            return report
    specs = [Spec(layer.image, layer.version.hex(), 0) for layer in before.layers]
    return pull(
        *(reader, specs, directory),
        location=source.remote,
        remember=source.spec,
        options=options,
        progress=progress,
    )


def recover(
    directory: str, *, options: PullOptions | None = None, progress: Progress | None = None
) -> PullReport:
    """Finish what an interrupted pull had begun, without the network.

    Also runs hooks that had to run after it. Raises `NotFound` when nothing was pulled here,
    `Conflict` when only a pull can finish it.
    """
    from chunkstore.pull.atomic import settle

    if not _has_state(directory):
        raise NotFound(f"nothing was pulled into {directory}", name=directory)
    report = PullReport()
    with (
        local_errors("can't recover"),
        NodeState(directory) as state,
        Directory(directory) as tree,
        Context(
            tree, state, None, options or PullOptions(), report, progress or Unwatched()
        ) as own,
    ):
        if not finish_interrupted(own) and state.pending is not None:
            raise Conflict(
                f"{directory} is a first installation, or has lost its journal: "
                f"only 'imgstore pull {directory}' can finish it"
            )
        settle(directory)
        _run_hooks(own)
        if not report.layers and state.installed is not None:
            report.layers = state.installed.layers
            report.entries = state.installed.root.entries
    return report


def mend(
    reader: Reader | None,
    directory: str,
    *,
    options: PullOptions | None = None,
    progress: Progress | None = None,
) -> PullReport:
    """Make a pulled tree what its version says, comparing every byte; unknown files stay.

    What was changed here is saved. Without a `reader` only what the node itself holds can be used.
    """
    from chunkstore.pull.update import repair

    if not _has_state(directory):
        raise NotFound(f"nothing was pulled into {directory}", name=directory)
    options = options or PullOptions()
    report = PullReport()
    with local_errors("can't repair"), NodeState(directory) as state, Directory(directory) as tree:
        installed = state.installed
        if installed is None:
            raise NotFound(f"nothing was pulled into {directory} completely", name=directory)
        metered = MeteredReader(reader) if reader is not None else None
        specs = [Spec(layer.image, layer.version.hex(), 0) for layer in installed.layers]
        with ExitStack() as stack:
            remote = None
            if metered is not None:
                remote = stack.enter_context(Remote(metered, specs, state))
            context = stack.enter_context(
                Context(tree, state, remote, options, report, progress or Unwatched())
            )
            finish_interrupted(context)
            installed = state.installed or installed
            context.exclude_again()
            if remote is not None:
                remote.reopen(installed)
            report.layers = report.before = installed.layers
            report.entries = installed.root.entries
            repair(context, installed, state.source or Source("", ""))
            report.is_changed = bool(report.changes)
            _run_hooks(context)
        if metered is not None:
            report.requests, report.received = metered.traffic
    return report


def _require_empty(directory: str) -> None:
    from chunkstore.worktree.install import require_empty

    require_empty(directory)


def _has_state(directory: str) -> bool:
    return os.path.isdir(os.path.join(directory, os.fsdecode(STATE_DIR)))
