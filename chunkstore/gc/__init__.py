"""Garbage collection: drop what no tag reaches, without breaking a pull that runs beside it.

Mark every chunk the kept versions need; give up packs nobody needs; rewrite the needed part of
those that are mostly garbage, or small and many; later delete. Promises: what a kept version needs
is never deleted; what was given up ("doomed") stays where it is for the grace time, so that a pull
which began before still finds it; a crash at any point leaves a whole store, and the next run goes
on. The order that makes it so: new packs durable, hints of all kept versions rewritten, old packs
doomed, and only what is doomed deleted.

Every run works out anew what is needed. The list of the doomed only says since when, and no pack
is deleted for standing on it. Leaves holding other writers off to the store's lock.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final

from chunkstore.database import database_errors
from chunkstore.errors import Usage, local_errors
from chunkstore.gc.census import Census
from chunkstore.gc.collection import Collection, GcReport
from chunkstore.gc.deltas import unneeded_deltas
from chunkstore.gc.leftovers import leftovers
from chunkstore.progress import Progress, Unwatched
from chunkstore.storage.store import Store

__all__ = ["GRACE", "GcReport", "collect"]

GRACE: Final = 24 * 3600.0
"""Seconds; longer than any pull should take."""


def collect(
    store: Store,
    *,
    keep: int | None = None,
    grace: float = GRACE,
    dry_run: bool = False,
    now: int,
    progress: Progress | None = None,
) -> GcReport:
    """Collect a store's garbage. `now` is the time in nanoseconds, `grace` is in seconds.

    With `keep`, of each image's history only the `keep` newest versions stay, and what is tagged.
    Raises `Corrupt`, before anything is changed, when a kept version is damaged or incomplete.
    """
    if keep is not None and keep < 0:
        raise Usage(f"can't keep {keep} versions")
    with store.locked("imgstore gc"):
        before = now - int(grace * 1e9)
        with (
            database_errors("can't keep the books of the collection"),
            Census() as census,
            store.chunks() as chunks,
        ):
            run = Collection(store, census, chunks, now, before)
            run.look(keep)
            if not dry_run:
                run.change(progress or Unwatched())
            swept = _sweep(store, before, dry_run=dry_run)
            report = run.report(swept=swept, dry_run=dry_run)
        freed = _drop_deltas(store, dry_run=dry_run)
        return replace(report, freed=report.freed + freed)


def _sweep(store: Store, before: int, *, dry_run: bool) -> int:
    with local_errors("can't sweep the store"):
        found = list(leftovers(store, before))
        if not dry_run:
            for path in found:
                os.unlink(path)
    return len(found)


def _drop_deltas(store: Store, *, dry_run: bool) -> int:
    """Remove delta packs nobody will ask for; returns their bytes."""
    names = unneeded_deltas(store)
    freed = sum(map(store.reader.size, names))
    if not dry_run:
        for name in names:
            store.backend.delete(name)
    return freed
