"""What every call pays before it does anything."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from contest import Contender, Scenario
from job import Job, same
from measure import Command


@contextmanager
def scenarios(job: Job) -> Iterator[list[Scenario]]:
    """Python by itself, and help, which loads what a verb loads."""
    python = Command([sys.executable, "-c", "pass"])
    contenders = [Contender("python -c pass", same(python))]
    for words in (["--help"], ["commit", "--help"]):
        command = Command([*job.imgstore.command, *words])
        contenders.append(Contender(f"imgstore {' '.join(words)}", same(command)))
    yield [
        Scenario(
            "start",
            "Start-up",
            "What every call pays before it does anything.",
            "python -c pass",
            contenders,
            rounds=15,
        )
    ]
