"""The paths that differ between two versions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contest import OURS, Contender, Scenario
from job import Job, same


@contextmanager
def scenarios(job: Job) -> Iterator[list[Scenario]]:
    """A small difference, and a large one."""
    yield [
        Scenario(
            "diff-edit",
            "Diff of a small edit",
            "The paths that differ between the last two versions.",
            OURS,
            _contenders(job, job.edit_and_record()),
        ),
        Scenario(
            "diff-update",
            "Diff of an upgrade",
            "The paths that differ between BEFORE and AFTER.",
            OURS,
            _contenders(job, job.both),
        ),
    ]
    job.edit.undo()


def _contenders(job: Job, repositories: Path) -> list[Contender]:
    commands = [(each.name, each.diff(repositories / each.name)) for each in job.archivers]
    return [Contender(name, same(command)) for name, command in commands if command is not None]
