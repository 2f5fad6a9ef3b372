"""Commit after a dist-upgrade of the tree that was recorded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from contest import OURS, Contender, Scenario
from job import SETTLE, Job
from trees import disk_usage


@contextmanager
def scenarios(job: Job) -> Iterator[list[Scenario]]:
    """One tree is upgraded in place; each run begins with a repository that knows it as it was."""
    live = job.place("upgrade", "live")
    job.copy_tree(job.before, live)
    time.sleep(SETTLE)
    kept = job.record("upgrade/kept", [live])
    job.become(live, job.after)
    time.sleep(SETTLE)
    contenders = []
    for each in job.archivers:
        known, used = kept / each.name, job.place("upgrade", "used", each.name)
        contenders.append(
            Contender(
                each.name,
                partial(each.again, used, live),
                before=partial(job.copy_tree, known, used),
                size=partial(_added, used, disk_usage(known)),
                note=each.note,
            )
        )
    yield [
        Scenario(
            "upgrade",
            "Commit after an upgrade",
            "The tree BEFORE was recorded, then upgraded in place to AFTER.",
            OURS,
            contenders,
            bytes_are="added",
            shows_sync=True,
        )
    ]
    job.discard(job.work / "upgrade")


def _added(repository: Path, before: int) -> int:
    return disk_usage(repository) - before
