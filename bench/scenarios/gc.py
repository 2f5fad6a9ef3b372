"""Dropping all versions but the last, and freeing their space."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from archivers import Archiver
from contest import OURS, Contender, Scenario
from job import Job
from measure import Command, run
from trees import disk_usage


@contextmanager
def scenarios(job: Job) -> Iterator[list[Scenario]]:
    """Each run begins with a copy of a repository that has BEFORE and AFTER."""
    contenders = []
    for each in job.archivers:
        used = job.place("gc", each.name)
        contenders.append(
            Contender(
                each.name,
                partial(_collect, each, used),
                before=partial(_put_back, job, each, used),
                size=partial(_left, used),
            )
        )
    yield [
        Scenario(
            "gc",
            "Give up the version before",
            "Of BEFORE and AFTER only AFTER is kept, and what nobody needs any more is deleted.",
            OURS,
            contenders,
            bytes_are="left",
            shows_sync=True,
        )
    ]
    job.discard(job.work / "gc")


def _put_back(job: Job, archiver: Archiver, used: Path) -> None:
    job.copy_tree(job.both / archiver.name, used)
    if archiver is job.imgstore:
        run(job.imgstore.untag_first(used))


def _collect(archiver: Archiver, used: Path) -> Command:
    command = archiver.collect(used)
    assert command is not None
    return command


def _left(used: Path) -> int:
    return disk_usage(used)
