"""From one version to the next, over the loopback."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import programs
from contest import OURS, Contender, Scenario
from job import SETTLE, Job, Services, of_report, of_rsync
from measure import Command, run
from servers import imgstore_server, rsync_daemon
from trees import count_differences

COPIED = f"{OURS}, a copied node"


@contextmanager
def scenarios(job: Job) -> Iterator[list[Scenario]]:
    """A dist-upgrade, and a small edit."""
    _ = job.both, job.edited, job.zchunks
    with job.services() as services, ExitStack() as stack:
        yield [_upgrade(job, services), _edit(job, stack)]
    job.discard(job.work / "update")
    job.edit.undo()


def _upgrade(job: Job, services: Services) -> Scenario:
    """BEFORE to AFTER. Nodes of ours have pulled BEFORE; others have a copy of it."""
    target = job.place("update", "target")
    url = f"http://127.0.0.1:{services.imgstore.port}/web"
    installed = job.place("update", "installed")
    differ = partial(count_differences, job.after, target)
    pulled = partial(_install, job, f"{url}:base", target)
    copied = partial(_install_and_copy, job, f"{url}:base", installed, target)
    contenders = [
        Contender(
            name,
            partial(job.imgstore.pull, url, target),
            before=before,
            traffic=of_report,
            server=services.imgstore,
            differences=differ,
            note=note,
        )
        for name, before, note in (
            (OURS, pulled, "the node has pulled BEFORE"),
            (COPIED, copied, "the node is a `cp -a` of one, so that it reads what it replaces"),
        )
    ]
    if services.rsync is not None:
        source = f"rsync://127.0.0.1:{services.rsync.port}/after/"
        for name, options in (("rsync", ("--delete",)), ("rsync -z", ("--delete", "-z"))):
            contenders.append(
                Contender(
                    name,
                    partial(programs.rsync, source, target, *options),
                    before=partial(job.copy_tree, job.before, target),
                    traffic=of_rsync,
                    server=services.rsync,
                    differences=differ,
                )
            )
    contenders += _new_trees(job, services, target)
    return Scenario(
        "update",
        "Update pull of an upgrade",
        "BEFORE becomes AFTER over the loopback.",
        "rsync",
        contenders,
        bytes_are="moved",
        shows_sync=True,
    )


def _new_trees(job: Job, services: Services, target: Path) -> list[Contender]:
    """Programs that write AFTER into an empty directory, with what they have of BEFORE."""
    web = services.web
    if web is None:
        return []
    base = f"http://127.0.0.1:{web.port}"
    found = []
    differ = partial(count_differences, job.after, target)
    fresh = partial(job.fresh, target)
    note = "writes a new tree, with the old one as its seed"
    if casync := job.casync:
        index = f"{base}/both/{casync.name}/last.caidx"
        command = partial(casync.extract, index, target, f"--seed={job.before}")
        found.append(
            Contender(casync.name, command, before=fresh, server=web, differences=differ, note=note)
        )
    if ostree := job.ostree:
        place, url = job.place("update", "ostree"), f"{base}/both/{ostree.name}"
        node = place / "repository"
        old, new = ostree.commits(job.both / ostree.name)

        def install() -> None:
            job.discard(place)
            fresh()
            run(ostree.pull(url, node, old, place / "before"))

        found.append(
            Contender(
                ostree.name,
                lambda: ostree.pull(url, node, new, target),
                before=install,
                server=web,
                differences=differ,
                note="checks out a new tree of hardlinks; keeps no times",
            )
        )
    if job.zchunks is not None:
        seed, wanted = job.zchunks
        scratch = job.place("update", "zchunk-scratch")

        def clear() -> None:
            fresh()
            job.fresh(scratch)

        zck = f"{base}/{wanted.name}"
        command = partial(programs.zchunk_download, zck, target, scratch, seed=seed)
        note = "writes a new tree, with the old archive as its seed"
        found.append(
            Contender("zchunk", command, before=clear, server=web, differences=differ, note=note)
        )
    return found


def _install(job: Job, source: str, target: Path) -> None:
    job.discard(target)
    run(job.imgstore.pull(source, target))


def _install_and_copy(job: Job, source: str, installed: Path, target: Path) -> None:
    if not installed.exists():
        run(job.imgstore.pull(source, installed))
    job.copy_tree(installed, target)


def _edit(job: Job, stack: ExitStack) -> Scenario:
    """A node that has pulled the unedited copy, in each round anew, gets the edit."""
    store = job.edited / job.imgstore.name
    server = stack.enter_context(imgstore_server(job.imgstore.command, store))
    ours = job.place("update", "edit-imgstore")
    pulled = job.imgstore.pull(f"http://127.0.0.1:{server.port}/web", ours)
    contenders = [Contender(OURS, lambda: pulled, traffic=of_report, server=server)]
    copied: list[Command] = []
    if shutil.which("rsync"):
        folder = job.place("update", "rsyncd", "log").parent
        daemon = stack.enter_context(rsync_daemon(folder, {"copy": job.copy}))
        source = f"rsync://127.0.0.1:{daemon.port}/copy/"
        theirs = job.place("update", "edit-rsync")
        copied.append(programs.rsync(source, theirs, "--delete"))
        contenders.append(Contender("rsync", lambda: copied[0], traffic=of_rsync, server=daemon))

    def each_round(number: int) -> None:
        job.edit.undo()
        time.sleep(SETTLE)
        run(job.imgstore.again(store, job.copy))
        for command in (pulled, *copied):
            run(command)
        job.edit.apply(2000 + number)
        time.sleep(SETTLE)
        run(job.imgstore.again(store, job.copy))

    return Scenario(
        "update-edit",
        "Update pull of a small edit",
        "A node that is one small edit behind.",
        "rsync",
        contenders,
        each_round=each_round,
        bytes_are="moved",
    )
