"""Reading everything there is and checking it: a store, and an installed tree."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import programs
from contest import OURS, Contender, Scenario
from job import Job, same
from measure import run


@contextmanager
def scenarios(job: Job) -> Iterator[list[Scenario]]:
    """All data is read, nothing is damaged."""
    yield [_store(job), _tree(job)]
    job.discard(job.work / "verify")


def _store(job: Job) -> Scenario:
    commands = [(each.name, each.verify(job.both / each.name)) for each in job.archivers]
    return Scenario(
        "verify",
        "Verify a store",
        "BEFORE and AFTER are in it; every byte is read and checked.",
        OURS,
        [Contender(name, same(command)) for name, command in commands if command is not None],
    )


def _tree(job: Job) -> Scenario:
    node = job.place("verify", "node")
    run(job.imgstore.restore(job.both / job.imgstore.name, node))
    contenders = [Contender(OURS, same(job.imgstore.verify_tree(node)))]
    if shutil.which("rsync"):
        copy = job.place("verify", "copy")
        job.copy_tree(job.before, copy)
        command = programs.rsync(f"{job.before}/", copy, "-n", "--delete", "--checksum")
        contenders.append(Contender("rsync -n --checksum", same(command)))
    return Scenario(
        "verify-tree",
        "Verify an installed tree",
        "Every byte and all metadata of a node; rsync needs the original beside it.",
        OURS,
        contenders,
    )
