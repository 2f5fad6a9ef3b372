"""Carrying out a plan: fetch, make aside, write the journal, change the tree, say it is done.

Up to the journal the tree is untouched, and whatever goes wrong leaves it so. From then on only
the node itself is needed: `finish` does what a journal says, now or after an interruption, and can
be interrupted and repeated itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from chunkstore.errors import Corrupt, LocalError, NotFound
from chunkstore.objects.lookup import Lookup
from chunkstore.objects.names import printable, split
from chunkstore.pull import deltas, hooks
from chunkstore.pull.context import Context, require_room, require_writable
from chunkstore.pull.deltas import DeltaChunks, Offered
from chunkstore.pull.local import fetch, find_locally, frames_of, needed_for, spans, weigh
from chunkstore.pull.remote import CONNECTIONS, Remote
from chunkstore.storage.backend import Foreseeing, Reader, foresee
from chunkstore.storage.chunks import ChunkReader, Locator, Nowhere
from chunkstore.storage.stage import Stage, StagedFirst
from chunkstore.worktree import journal
from chunkstore.worktree.apply import Applier
from chunkstore.worktree.aside import Aside, Preparation, points_of
from chunkstore.worktree.content import FileContents
from chunkstore.worktree.installed import Installed, Source
from chunkstore.worktree.journal import Journal, Made
from chunkstore.worktree.plan import Plan
from chunkstore.worktree.preload import everything
from chunkstore.worktree.sources import TreeChunks


def carry_out(
    context: Context, plan: Plan, sides: list[Installed], target: Installed, source: Source
) -> None:
    """Make the tree `target` by `plan`; `sides` are the versions it may hold parts of now."""
    report = context.report
    report.changes = plan.changes
    report.changed = len(plan.made) + len(plan.dressed) + len(plan.directories)
    report.removed = len(plan.removed) + len(plan.swept)
    report.kept = plan.kept
    state = context.state
    if not plan and target == state.installed and not state.halves:
        if not context.options.dry_run:
            state.note_source(source, excludes=context.left_out)
        return
    context.progress.expect(files=len(plan.made), size=plan.size)
    sources = TreeChunks(context.tree)
    try:
        needed = needed_for(context, plan.made)
        offer = _offered(context, target, needed)
        roots = [side.root for side in sides]
        missing = find_locally(context, needed, roots, sources, besides=deltas.bases(offer))
        chosen = deltas.choose(offer, missing, sources, context.is_as_noted)
        if context.options.dry_run:
            report.saved = [(path, b"") for path in plan.saved]
            if context.remote is not None:
                brought = deltas.chunks(chosen)
                weigh(context, context.remote, [item for item in missing if item not in brought])
                report.moving += deltas.size(chosen)
            return
        _prepare_and_apply(context, plan, missing, chosen, sources, target, source)
    finally:
        sources.close()


def _offered(context: Context, target: Installed, needed: Mapping[bytes, int]) -> list[Offered]:
    """The delta frames that the remote has for what is needed."""
    if context.remote is None:
        return []
    versions = (layer.version for layer in target.layers)
    return deltas.offered(context.remote.reader, versions, needed)


def _prepare_and_apply(
    context: Context,
    plan: Plan,
    missing: list[bytes],
    chosen: list[Offered],
    sources: TreeChunks,
    target: Installed,
    source: Source,
) -> None:
    require_writable(context, plan.paths())
    require_room(context, plan.made)
    stage = context.state.stage()
    with DeltaChunks(sources, stage) as local:
        _fetch_missing(context, plan, missing, chosen, stage, local)
        points = points_of((entry.path for entry in plan.made), context.mounts)
        with Aside.make(context.tree, points, context.mounts) as aside:
            made = _make_aside(context, plan, points, aside, sources, local)
            context.report.delta_chunks = local.count(missing)
            after = hooks.before(context, target)
            step = _journal(context, plan, made, aside)
            # What is done from here on may replace this very program and its libraries.
            everything()
            journal.write(context.state.journal, step)
            context.state.begin(target, source, step.token, after=after)
            finish(context, step, aside, target, source)


def _fetch_missing(
    context: Context,
    plan: Plan,
    missing: list[bytes],
    chosen: list[Offered],
    stage: Stage,
    local: DeltaChunks,
) -> None:
    """Bring to the stage what no file of the node has."""
    if missing:
        if context.remote is None or context.remote.locator is None:
            raise Corrupt(f"chunk {missing[0].hex()} is not on this node: pull again")
        if chosen:
            _foresee_all(context, context.remote, missing, chosen)
            local.fetch(chosen, context.remote.reader, threads=CONNECTIONS)
        rest = local.lacks(missing)
        context.report.moving = deltas.size(chosen)
        if rest:
            fetch(context, context.remote, rest, stage)
        require_room(context, plan.made)


def _foresee_all(
    context: Context, remote: Remote, missing: list[bytes], chosen: list[Offered]
) -> None:
    """Tell of the delta frames and of all else at once.

    What is too little for a swarm by itself is not so beside the rest, and what comes later is on
    its way meanwhile.
    """
    if not isinstance(remote.reader, Foreseeing):
        return
    parts = deltas.spans(chosen)
    reserve = context.report.needed_bytes + deltas.size(chosen)
    brought = deltas.chunks(chosen)
    # Packs that are not where they were are looked for again when they are fetched.
    with suppress(NotFound, Corrupt):
        frames = frames_of(remote, (item for item in missing if item not in brought))
        parts |= spans(frames)
        reserve += sum(frame.stored for frame in frames)
    foresee(remote.reader, parts, reserve=reserve)


def _make_aside(
    context: Context,
    plan: Plan,
    points: list[bytes],
    aside: Aside,
    sources: TreeChunks,
    local: DeltaChunks,
) -> list[Made]:
    preparation = Preparation(
        *(context.tree, aside, points, context.mounts),
        *(sources, context.load, context.report.shortfalls, context.progress),
    )
    locator: Locator | None = context.remote.locator if context.remote is not None else None
    if locator is None:
        # Nothing is missing, and what turns out to have gone since has nowhere to come from.
        locator = Nowhere()
    reader: Reader = context.state.stage()
    if context.remote is not None:
        # What a delta frame was to bring, and does not, is missed here only.
        reader = StagedFirst(context.state.stage(), context.remote.reader)
    with ChunkReader(reader, locator, max_gap=0) as staged:
        contents = FileContents(plan.made, staged, context.load, reuse=local)
        return preparation.prepare(contents)


def _journal(context: Context, plan: Plan, made: list[Made], aside: Aside) -> Journal:
    return Journal(
        token=journal.fresh_token(),
        stamp=context.options.stamp,
        asides=aside.paths,
        directories=tuple(plan.directories),
        made=tuple(made),
        dressed=tuple(plan.dressed),
        removed=tuple(plan.removed),
        swept=tuple(plan.swept),
        touched=tuple(plan.touched(split(path)[0] for path in aside.paths)),
        saved=tuple(plan.saved),
        excludes=context.left_out,
    )


def finish(
    context: Context, step: Journal, aside: Aside, target: Installed, source: Source
) -> None:
    """Do what the journal says, and complete the state. Raises `OSError`; then do it again."""
    before = context.state.installed
    strict, context.report.shortfalls.strict = context.report.shortfalls.strict, False
    applier = Applier(
        context.tree,
        step,
        aside,
        Lookup(target.root, context.load).find,
        context.witness([side for side in (before, target) if side is not None]),
        context.report.shortfalls,
    )
    applier.run()
    context.report.saved += applier.saved.all_of(step.saved)
    context.report.kept += applier.kept
    # Before the state says that it is done: one that is left at a mount point would show.
    aside.remove()
    context.state.complete(target, source, excludes=step.excludes)
    context.state.clear()
    if strict and context.report.shortfalls.kinds:
        kind, (_, path, reason) = next(iter(context.report.shortfalls.kinds.items()))
        raise LocalError(
            f"{kind} could not be set on {printable(path)}: {reason}; all else is done"
        )
