"""A pull that finds everything as it should be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import programs
from contest import OURS, Contender, Scenario
from job import Job, of_report, of_rsync
from measure import run


@contextmanager
def scenarios(job: Job) -> Iterator[list[Scenario]]:
    """imgstore asks for the ref; rsync compares every path."""
    with job.services() as services:
        target = job.place("nothing", OURS)
        url = f"http://127.0.0.1:{services.imgstore.port}/web:base"
        pull = partial(job.imgstore.pull, url, target)
        run(pull())
        contenders = [Contender(OURS, pull, traffic=of_report, server=services.imgstore)]
        if services.rsync is not None:
            copy = job.place("nothing", "rsync")
            job.copy_tree(job.before, copy)
            source = f"rsync://127.0.0.1:{services.rsync.port}/before/"
            command = partial(programs.rsync, source, copy, "--delete")
            contenders.append(Contender("rsync", command, traffic=of_rsync, server=services.rsync))
        yield [
            Scenario(
                "nothing",
                "Pull with nothing to do",
                "The node is up to date. rsync looks at every path to find that out.",
                "rsync",
                contenders,
                bytes_are="moved",
            )
        ]
    job.discard(job.work / "nothing")
