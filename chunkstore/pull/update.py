"""Updating a tree that was pulled before: what differs, and the plan for it.

Usually the difference of two manifests says it all. More is looked at where that can't be enough:
for a mirror, for paths that were excluded and no longer are, and for a tree that an interruption
left in between without a journal.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator

from chunkstore.errors import Corrupt
from chunkstore.objects import delta, manifest
from chunkstore.objects.delta import Difference
from chunkstore.objects.entry import DIRECTORY, Entry
from chunkstore.objects.names import is_below, printable, sort_key
from chunkstore.pull.change import carry_out
from chunkstore.pull.context import Context
from chunkstore.worktree.baseline import Baseline
from chunkstore.worktree.installed import Installed, Source
from chunkstore.worktree.patterns import Patterns
from chunkstore.worktree.plan import Plan
from chunkstore.worktree.planner import Planner
from chunkstore.worktree.survey import Survey, below


def update(context: Context, old: Installed, target: Installed, source: Source) -> None:
    """Change the tree from the old version, or from half way to others, into `target`."""
    sides = [old, *context.state.halves]
    carry_out(context, _plan(context, sides, target), sides, target, source)


def repair(context: Context, installed: Installed, source: Source) -> None:
    """Make the tree what it should be, comparing every byte; unknown files stay."""
    planner = context.planner(installed, context.witness([installed]))
    entries = manifest.walk(installed.root, context.load)
    survey = _survey(context, entries, baseline=None)
    for letter, entry in survey:
        planner.mend(letter, entry)
    carry_out(context, planner.done(), [installed], installed, source)


def _plan(context: Context, sides: list[Installed], target: Installed) -> Plan:
    is_certain = len(sides) == 1
    planner = context.planner(target, context.witness([*sides, target]))
    differences = _united(delta.diff(side.root, target.root, context.load) for side in sides)
    if not is_certain:
        # The tree may be any of them anywhere: only what is gone can be told from manifests.
        differences = (pair for pair in differences if pair[1] is None)
    differences = _whole(context, differences, target)
    seen: set[bytes] = set()
    planner.take(_noting(differences, seen))
    seen -= planner.left
    entries = _to_survey(context, target, is_certain=is_certain)
    if entries is not None:
        # It vouches for what some version put there: not for half of two, and not for the one
        # before a path was excluded.
        is_good = is_certain and context.state.excludes == context.excludes.lines
        baseline = context.baseline if is_good else None
        _survey_into(context, planner, entries, baseline, seen)
    return planner.done()


def _whole(
    context: Context, differences: Iterable[Difference], target: Installed
) -> Iterator[Difference]:
    """See to it that a directory which goes, or becomes something else, takes all it held along.

    What the new version still has below it shows in no difference, and would be found out when
    half of the tree is changed. Raises `Corrupt`.
    """
    gone: bytes | None = None
    for old, new in differences:
        if old is not None and old.kind == DIRECTORY and (new is None or new.kind != DIRECTORY):
            is_known = gone is not None and is_below(old.path, gone)
            if not is_known and manifest.has_below(target.root, old.path, context.load):
                where = printable(old.path)
                raise Corrupt(f"{where}: is no directory, but holds something", where=where)
            gone = gone if is_known else old.path
        yield old, new


def _to_survey(context: Context, target: Installed, *, is_certain: bool) -> Iterable[Entry] | None:
    """The entries that have to be held against the tree; None for none."""
    entries = manifest.walk(target.root, context.load)
    if context.options.mirror or not is_certain:
        return entries
    excluded = Patterns(context.state.excludes)
    if excluded.lines == context.excludes.lines:
        return None
    return (
        entry
        for entry in entries
        if excluded.covers(entry.path, is_directory=entry.kind == DIRECTORY)
        or (entry.link and excluded.covers(entry.link, is_directory=False))
    )


def _survey_into(
    context: Context,
    planner: Planner,
    entries: Iterable[Entry],
    baseline: Baseline | None,
    seen: set[bytes],
) -> None:
    survey = _survey(context, entries, baseline)
    for letter, entry in survey:
        if entry.path not in seen:
            planner.mend(letter, entry)
    if context.options.mirror:
        planner.sweep(
            inside
            for path in survey.unknown
            for inside in below(context.tree, path, context.excludes, context.mounts)
        )


def _survey(context: Context, entries: Iterable[Entry], baseline: Baseline | None) -> Survey:
    return Survey(
        context.tree,
        entries,
        context.load,
        excludes=context.excludes,
        mounts=context.mounts,
        baseline=baseline,
    )


def _noting(differences: Iterable[Difference], seen: set[bytes]) -> Iterator[Difference]:
    for old, new in differences:
        entry = new or old
        assert entry is not None
        seen.add(entry.path)
        yield old, new


def _united(streams: Iterable[Iterable[Difference]]) -> Iterator[Difference]:
    """All streams in path order, each path once; their new sides are those of one version."""

    def key(difference: Difference) -> bytes:
        entry = difference[0] or difference[1]
        assert entry is not None
        return sort_key(entry.path)

    merged = heapq.merge(*streams, key=key)
    return (next(group) for _, group in itertools.groupby(merged, key))
