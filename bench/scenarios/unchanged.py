"""Commit when nothing has changed: how quickly a program can know that."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import programs
from contest import Contender, Scenario
from job import SETTLE, Job, same
from measure import run


@contextmanager
def scenarios(job: Job) -> Iterator[list[Scenario]]:
    """All that keep versions, beside the walk alone and a comparison of two trees."""
    job.edit.undo()
    time.sleep(SETTLE)
    for archiver in job.archivers:
        run(archiver.again(job.edited / archiver.name, job.copy))
    contenders = [
        Contender(each.name, partial(each.again, job.edited / each.name, job.copy))
        for each in job.archivers
    ]
    walk = same(programs.find(job.copy))
    contenders.append(Contender("find -printf", walk, note=programs.FIND_NOTE))
    if shutil.which("rsync"):
        compare = programs.rsync(f"{job.copy}/", job.before, "-n", "--delete")
        contenders.append(Contender("rsync -n", same(compare)))
    yield [
        Scenario(
            "unchanged",
            "Commit with nothing changed",
            "The tree is as it was recorded. rsync compares it with a second copy.",
            "find -printf",
            contenders,
        )
    ]
