"""Files that are mostly holes: nobody may read, send or write what is not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from shlex import quote

import programs
from contest import OURS, Contender, Scenario
from job import Job, of_report, of_rsync, same
from measure import Command, run, shell
from servers import find_nginx, imgstore_server, rsync_daemon
from trees import disk_usage, make_sparse

TAR_SPARSE = "tar -S, zstd -T0 -3"


@contextmanager
def scenarios(job: Job) -> Iterator[list[Scenario]]:
    """A commit and a first pull."""
    tree = job.place("sparse", "tree")
    make_sparse(tree, job.sparse)
    size = f"{job.sparse / 1e9:g} GB of disks for virtual machines, 16 MB of it data"
    with ExitStack() as stack:
        yield [_commit(job, tree, size), _pull(job, tree, size, stack)]
    job.discard(job.work / "sparse")


def _archive(tree: Path, target: Path) -> Command:
    return programs.archive(tree, programs.COMPRESSORS[programs.ZSTD], target, "-S")


def _commit(job: Job, tree: Path, size: str) -> Scenario:
    contenders = []
    for each in job.archivers:
        # It reads every hole: 20 GB of zeros take it minutes, which are no news.
        if each.name not in ("casync", "ostree"):
            path = job.place("sparse", "first", each.name)
            contenders.append(
                Contender(
                    each.name,
                    partial(each.first, path, tree),
                    before=partial(job.discard, path),
                    size=partial(disk_usage, path),
                    note=each.note,
                )
            )
    if shutil.which("zstd"):
        path = job.place("sparse", "first", "image.tar.zst")
        contenders.append(
            Contender(
                TAR_SPARSE,
                same(_archive(tree, path)),
                before=partial(job.discard, path),
                size=partial(disk_usage, path),
                note="not durable on return",
            )
        )
    return Scenario(
        "sparse",
        "First commit of sparse files",
        f"{size}.",
        TAR_SPARSE,
        contenders,
        bytes_are="stored",
        rounds=1,
    )


def _pull(job: Job, tree: Path, size: str, stack: ExitStack) -> Scenario:
    store = job.place("sparse", "store")
    run(job.imgstore.first(store, tree))
    server = stack.enter_context(imgstore_server(job.imgstore.command, store))
    target = job.place("sparse", "target")
    url = f"http://127.0.0.1:{server.port}/web"
    fresh = partial(job.fresh, target)
    contenders = [
        Contender(
            OURS,
            partial(job.imgstore.pull, url, target),
            before=fresh,
            traffic=of_report,
            server=server,
            differences=partial(_allocated, tree, target),
        )
    ]
    if shutil.which("zstd") and find_nginx():
        web = stack.enter_context(job.web())
        archive = job.place("sparse", "image.tar.zst")
        run(_archive(tree, archive))
        source = f"http://127.0.0.1:{web.port}/sparse/{archive.name}"
        command = shell(
            f"curl -sSf {source} | zstd -q -d | {programs.TAR} -xSpf - -C {quote(str(target))}"
        )
        name = "curl, zstd, tar -xS"
        contenders.append(Contender(name, same(command), before=fresh, server=web))
    if shutil.which("rsync"):
        daemon = stack.enter_context(
            rsync_daemon(job.place("sparse", "rsyncd", "log").parent, {"tree": tree})
        )
        source = f"rsync://127.0.0.1:{daemon.port}/tree/"
        contenders.append(
            Contender(
                "rsync -S",
                partial(programs.rsync, source, target, "-S"),
                before=fresh,
                traffic=of_rsync,
                server=daemon,
            )
        )
    return Scenario(
        "sparse-pull",
        "First pull of sparse files",
        f"{size}, into an empty directory over the loopback.",
        OURS,
        contenders,
        bytes_are="moved",
        shows_sync=True,
        rounds=1,
    )


def _allocated(tree: Path, target: Path) -> int:
    """Files that take more of the disk than they should: holes that were filled."""
    slack = 2**20
    return sum(
        (target / path.name).stat().st_blocks * 512 > path.stat().st_blocks * 512 + slack
        for path in tree.iterdir()
    )
