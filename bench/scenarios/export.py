"""A whole version, and the difference of two, as an archive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import programs
from contest import OURS, Contender, Scenario
from job import Job, same
from trees import disk_usage


@contextmanager
def scenarios(job: Job) -> Iterator[list[Scenario]]:
    """From the store; beside it, from the tree and an archive of the base."""
    job.edit_and_record()
    yield [
        _whole(job),
        _difference(job, "edit", "a small edit", job.edited, job.copy),
        _difference(job, "update", "an upgrade", job.both, job.after),
    ]
    job.edit.undo()
    job.discard(job.work / "export")


def _whole(job: Job) -> Scenario:
    store = job.both / job.imgstore.name
    contenders = []
    for name, file, *options in (
        (OURS, "image.tar.gz"),
        (f"{OURS} --level 1", "fast.tar.gz", "--level", "1"),
        (f"{OURS}, tar.zst", "image.tar.zst"),
    ):
        path = job.place("export", file)
        command = job.imgstore.on(store, "export", "web:base", "-o", str(path), *options)
        contenders.append(Contender(name, same(command), size=partial(disk_usage, path)))
    chosen = programs.compressors(programs.ZSTD, programs.PIGZ, programs.GZIP)
    for name, compressor in chosen.items():
        path = job.place("export", f"peer.{compressor.split()[0]}")
        command = programs.archive(job.before, compressor, path)
        contenders.append(Contender(name, same(command), size=partial(disk_usage, path)))
    return Scenario(
        "export-whole",
        "Export of a whole version",
        "BEFORE as an archive: from the store, and from the tree.",
        programs.GZIP,
        contenders,
        bytes_are="written",
    )


def _difference(job: Job, key: str, what: str, repositories: Path, tree: Path) -> Scenario:
    archive = job.place("export", f"{key}.tar.gz")
    command = job.imgstore.export(repositories / job.imgstore.name, archive)
    contenders = [Contender(OURS, same(command), size=partial(disk_usage, archive))]
    for kind in ("tar.gz", "tar"):
        scratch = job.place("export", f"{key}-{kind}")
        base = job.archives[kind]
        contenders.append(
            Contender(
                f"unpack and compare, {kind}",
                partial(programs.unpack_and_compare, tree, base, scratch),
                before=partial(job.fresh, scratch),
                size=partial(disk_usage, scratch / "image-diff.tar.gz"),
            )
        )
    return Scenario(
        f"export-{key}",
        f"Export of the diff of {what}",
        "A tar.gz of what differs. The others unpack an archive of the base, compare the tree with "
        "it by rsync, and pack what differs.",
        OURS,
        contenders,
        bytes_are="written",
    )
