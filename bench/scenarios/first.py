"""First commit: a tree into an empty store, or into a new archive."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import programs
from aims import OURS_LZ4
from contest import Contender, Scenario
from job import Job, same
from measure import Command
from trees import disk_usage


@contextmanager
def scenarios(job: Job) -> Iterator[list[Scenario]]:
    """Archivers, then pipelines, which know no second time."""
    contenders: list[Contender] = []

    def add(name: str, path: Path, command: Callable[[], Command], note: str) -> None:
        state, size = partial(job.discard, path), partial(disk_usage, path)
        contenders.append(Contender(name, command, before=state, size=size, note=note))

    for each in job.archivers:
        path = job.place("first", each.name)
        add(each.name, path, partial(each.first, path, job.before), each.note)
    path = job.place("first", "lz4")
    add(OURS_LZ4, path, same(job.imgstore.first_as("lz4", path, job.before)), job.imgstore.note)
    for name, compressor in programs.compressors().items():
        path = job.place("first", f"image.{compressor.split()[0]}")
        command = programs.archive(job.before, compressor, path)
        add(name, path, same(command), "not durable on return")
    if shutil.which("zck"):
        path = job.place("first", "image.zck")
        add("tar, zchunk", path, same(programs.zchunk(job.before, path)), "not durable on return")
    yield [
        Scenario(
            "first",
            "First commit",
            "BEFORE into an empty store, or a new archive.",
            programs.ZSTD,
            contenders,
            bytes_are="stored",
            shows_sync=True,
        )
    ]
    job.discard(job.work / "first")
