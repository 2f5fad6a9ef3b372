"""First installation of a node, over the loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shlex import join, quote

import programs
from aims import DECOMPRESS, RSYNC_SYNC, UNTAR
from contest import OURS, Contender, Scenario, Traffic
from job import Job, Services, of_report, of_rsync, same
from measure import Command, Measure, shell
from servers import Server
from trees import count_differences


@contextmanager
def scenarios(job: Job) -> Iterator[list[Scenario]]:
    """An empty directory becomes BEFORE; of the local programs, what no network can beat."""
    _ = job.both, job.archives, job.zchunks
    with job.services() as services:
        found = _Targets(job)
        _served(job, services, found)
        if services.web is not None:
            _from_web(job, services.web, found)
        for archiver in job.others:
            if archiver.name not in ("casync", "ostree"):
                place = job.both / archiver.name
                found.add(archiver.name, partial(archiver.restore, place), note=_LOCAL)
        found.add("cp -a", lambda target: Command(["cp", "-a", f"{job.before}/.", str(target)]))
        if "tar.zst" in job.archives:
            words = ["zstd", "-q", "-d", "-c", str(job.archives["tar.zst"])]
            opened = shell(f"{join(words)} > /dev/null")
            note = "of image.tar.zst, thrown away"
            found.contenders.append(Contender(DECOMPRESS, same(opened), note=note))
        yield [
            Scenario(
                "pull",
                "First pull over the loopback",
                "BEFORE into an empty directory.",
                UNTAR,
                found.contenders,
                bytes_are="moved",
                shows_sync=True,
            )
        ]
    job.discard(job.work / "pull")


_LOCAL = "from the local disk"


class _Targets:
    """Contenders that fill an empty directory."""

    def __init__(self, job: Job) -> None:
        self.contenders: list[Contender] = []
        self._job = job

    def add(
        self,
        name: str,
        command: Callable[[Path], Command],
        *,
        traffic: Callable[[Measure], Traffic] | None = None,
        server: Server | None = None,
        note: str = "",
    ) -> None:
        job, target = self._job, self._job.target("pull", name)

        def prepare() -> None:
            # Only one target at a time: the page cache is to hold the trees.
            job.discard(job.work / "pull")
            job.fresh(target)

        self.contenders.append(
            Contender(
                name,
                lambda: command(target),
                before=prepare,
                traffic=traffic,
                server=server,
                differences=partial(count_differences, job.before, target),
                note=note,
            )
        )


def _served(job: Job, services: Services, found: _Targets) -> None:
    ours = services.imgstore
    pull = partial(job.imgstore.pull, f"http://127.0.0.1:{ours.port}/web:base")
    found.add(OURS, pull, traffic=of_report, server=ours, note=job.imgstore.note)
    if services.rsync is not None:
        source = f"rsync://127.0.0.1:{services.rsync.port}/before/"
        copy = partial(programs.rsync, source)
        found.add("rsync", copy, traffic=of_rsync, server=services.rsync)

        def durable(target: Path) -> Command:
            return shell(f"{join(copy(target).arguments)}; sync -f {quote(str(target))}")

        note = "as durable as a pull"
        found.add(RSYNC_SYNC, durable, traffic=of_rsync, server=services.rsync, note=note)


def _from_web(job: Job, web: Server, found: _Targets) -> None:
    base = f"http://127.0.0.1:{web.port}"
    store = f"{base}/both/{job.imgstore.name}/web:base"
    found.add("imgstore, nginx", partial(job.imgstore.pull, store), traffic=of_report, server=web)
    note = "served by nginx"
    for name, kind, decompressor in (
        (UNTAR, "tar.gz", "gzip -d"),
        ("curl, zstd, tar -x", "tar.zst", "zstd -q -d"),
    ):
        if kind in job.archives:
            url = f"{base}/{job.archives[kind].name}"
            found.add(name, partial(programs.download, url, decompressor), server=web, note=note)
    if casync := job.casync:
        index = f"{base}/both/{casync.name}/first.caidx"
        found.add(casync.name, partial(casync.extract, index), server=web, note=note)
    if ostree := job.ostree:
        node = job.place("pull", "ostree-node")
        commit = ostree.commits(job.both / ostree.name)[0]
        install = partial(ostree.pull, f"{base}/both/{ostree.name}", node, commit)
        remark = f"{note}; pull, and checkout by hardlinks; keeps no times"
        found.add(ostree.name, install, server=web, note=remark)
    if job.zchunks is not None:
        zck = f"{base}/{job.zchunks[0].name}"

        def download(target: Path) -> Command:
            scratch = job.place("pull", "zchunk-scratch")
            scratch.mkdir()
            return programs.zchunk_download(zck, target, scratch)

        found.add("zchunk", download, server=web, note=note)
