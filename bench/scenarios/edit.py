"""Commit after a small edit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from contest import OURS, Contender, Scenario
from job import Job


@contextmanager
def scenarios(job: Job) -> Iterator[list[Scenario]]:
    """In each round another edit of the same files."""
    _ = job.edit, job.edited
    yield [
        Scenario(
            "edit",
            "Commit after a small edit",
            "Three configuration files changed, two added, one deleted, one mode.",
            OURS,
            [
                Contender(each.name, partial(each.again, job.edited / each.name, job.copy))
                for each in job.archivers
            ],
            each_round=job.edit_and_settle,
        )
    ]
    job.edit.undo()
